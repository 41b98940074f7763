"""COINCIDE (arXiv 2406.10995): more from clusters that transfer well and are spread out.

Each cluster C of spherical k-means gets a share of the budget in proportion to

    exp(S / (tau D))

S, its transferability: the mean cosine of its centroid with the other centroids. D, its density:
the mean over all pairs of its samples of the Gaussian kernel exp(-|x - y|^2 / (2 width^2)) of unit
vectors. Inside a cluster the samples are picked greedily so that the maximum mean discrepancy of
picks and cluster, under the same kernel, is least.

Ours: the frozen features stand for the reference model's activations; a share above a cluster's
size is shared again among the others by weight; and a cluster of more than ``LARGEST`` samples is
dealt at random into equal parts of at most that size, which bounds memory and time.

Shapes: M samples of a part, D features, K clusters.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Pool, Selection
from selfilter_ray.select.grid import FINE, on_grid, radius
from selfilter_ray.select.prototypicality import clusters_of
from selfilter_ray.select.quotas import largest_remainder
from selfilter_ray.select.random_order import random_rank
from selfilter_ray.select.settings import CoincideSettings

LARGEST = 4096
SAMPLES_PER_CLUSTER = 66  # the paper: 10,000 clusters for 665,000 samples


def select_coincide(pool: Pool, budget: int, seed: int, settings: CoincideSettings) -> Selection:
    """``budget`` samples, cluster by cluster from the highest share. ``value``: S / (tau D)."""
    assert pool.features_ND is not None
    default = max(1, round(len(pool.ids) / SAMPLES_PER_CLUSTER))
    clusters = clusters_of(pool, seed, settings, default)
    rank_N = random_rank(pool.ids, seed, "parts")
    parts_K = [_parts(members, rank_N) for members in clusters.members()]
    density_K = np.array([_density(pool.features_ND, parts, settings) for parts in parts_K])
    exponent_K = transferability(clusters.centroids_KD) / (settings.temperature * density_K)
    size_K = np.array([sum(len(part) for part in parts) for parts in parts_K])
    quota_K = largest_remainder(np.exp(exponent_K - exponent_K.max()), budget, size_K)
    order_K = np.argsort(-exponent_K, kind="stable")
    indices = np.concatenate(
        [_picks(pool.features_ND, parts_K[k], int(quota_K[k]), settings) for k in order_K]
    )
    details = {"clusters": len(parts_K), "clusters_picked_from": int((quota_K > 0).sum())}
    return Selection(indices, exponent_K[clusters.labels_N[indices]], details)


def transferability(centroids_KD: np.ndarray) -> np.ndarray:
    """(K,) the mean cosine of each centroid with all others; 0 for the only one."""
    exact_KD = on_grid(centroids_KD, FINE)
    length = radius(centroids_KD.shape[1], FINE) ** 2
    # Row by row of the sum: the K x K products are never held.
    sum_K = exact_KD @ exact_KD.sum(axis=0) / length
    own_K = (exact_KD**2).sum(axis=1) / length
    return (sum_K - own_K) / max(1, len(exact_KD) - 1)


def gaussian_kernel(features_MD: np.ndarray, width: float) -> np.ndarray:
    """(M, M) exp(-|x - y|^2 / (2 width^2)) of the unit vectors; a zero row stays zero."""
    exact_MD = on_grid(features_MD, FINE)
    product_MM = exact_MD @ exact_MD.T / radius(features_MD.shape[1], FINE) ** 2
    square_M = product_MM.diagonal()
    distance_MM = square_M[:, None] + square_M[None, :] - 2.0 * product_MM
    return np.exp(-distance_MM / (2.0 * width**2))


def greedy_mmd(kernel_MM: np.ndarray, count: int) -> np.ndarray:
    """(count,) rows, each the one that leaves the least MMD^2 of picks and all rows.

    With m picks, a candidate c changes MMD^2 = mean K(X, X) + mean K(Y, Y) - 2 mean K(X, Y) only by
    (2 sum over picks of K(c, y) + K(c, c)) / (m + 1)^2 - 2 mean K(c, X) / (m + 1). Ties go to the
    first row.
    """
    mean_M = kernel_MM.mean(axis=1)
    own_M = kernel_MM.diagonal()
    to_picks_M = np.zeros(len(kernel_MM))
    taken_M = np.zeros(len(kernel_MM))
    picked = np.empty(count, dtype=np.int64)
    for size in range(1, count + 1):
        change_M = (2.0 * to_picks_M + own_M) / size**2 - 2.0 * mean_M / size
        picked[size - 1] = pick = int((change_M + taken_M).argmin())
        taken_M[pick] = np.inf
        to_picks_M += kernel_MM[pick]
    return picked


def _parts(members: np.ndarray, rank_N: np.ndarray) -> list[np.ndarray]:
    """The rows of a cluster in equal parts that are not too large, each ascending."""
    count = -(-len(members) // LARGEST)
    dealt = members[np.argsort(rank_N[members])]
    return [np.sort(dealt[part::count]) for part in range(count)]


def _density(features_ND: np.ndarray, parts: list[np.ndarray], settings: CoincideSettings) -> float:
    means = [gaussian_kernel(features_ND[part], settings.kernel_width).mean() for part in parts]
    return float(np.mean(means))


def _picks(
    features_ND: np.ndarray, parts: list[np.ndarray], quota: int, settings: CoincideSettings
) -> np.ndarray:
    """The picks of one cluster, shared out over its parts."""
    size = np.array([len(part) for part in parts])
    picked = [np.empty(0, dtype=np.int64)]
    for part, count in zip(parts, largest_remainder(size, quota, size), strict=True):
        if count:
            kernel_MM = gaussian_kernel(features_ND[part], settings.kernel_width)
            picked.append(part[greedy_mmd(kernel_MM, int(count))])
    return np.concatenate(picked)
