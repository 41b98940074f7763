"""SemDeDup (arXiv 2303.09540): of samples that nearly say the same, keep one.

Inside each cluster of spherical k-means the samples are put in order, by default those farthest
from the centroid first; a sample goes when its cosine with an earlier one exceeds 1 - epsilon.
Whether it goes depends only on the largest such cosine, so the epsilon that keeps exactly B samples
is read off the sorted cosines: no bisection, and B is always met.

Shapes: N samples, M members of a cluster, D features, R rows of a block.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Pool, Selection
from selfilter_ray.select.grid import FINE, chunks, on_grid, radius
from selfilter_ray.select.kmeans import default_clusters
from selfilter_ray.select.prototypicality import clusters_of
from selfilter_ray.select.settings import SemDeDupSettings

BLOCK_VALUES = 2**24  # float64 products held at once: 128 MB


def select_semdedup(pool: Pool, budget: int, seed: int, settings: SemDeDupSettings) -> Selection:
    """The ``budget`` samples that are least like an earlier one of their cluster.

    Ties go to the smaller id. ``value``: that largest cosine, NaN for the first of a cluster. The
    details give ``epsilon``: a sample is kept when its value is at most 1 - epsilon; None when
    only firsts of clusters are kept.
    """
    assert pool.features_ND is not None
    clusters = clusters_of(pool, seed, settings, default_clusters(len(pool.ids)))
    sign = 1.0 if settings.keep == "far" else -1.0
    nearest_N = np.empty(len(pool.ids))
    for members in clusters.members():
        ordered = members[np.argsort(sign * clusters.cosine_N[members], kind="stable")]
        nearest_N[ordered] = nearest_earlier(pool.features_ND[ordered])
    indices = np.argsort(nearest_N, kind="stable")[:budget]
    value = nearest_N[indices]
    limit = float(value.max())
    details = {
        "clusters": len(clusters.centroids_KD),
        "epsilon": 1.0 - limit if np.isfinite(limit) else None,
    }
    return Selection(indices, np.where(np.isfinite(value), value, np.nan), details)


def nearest_earlier(features_MD: np.ndarray) -> np.ndarray:
    """(M,) float64, each row's largest cosine with a row before it; minus infinity for the first.

    A zero row is at cosine 0 from all.
    """
    exact_MD = on_grid(features_MD, FINE)
    largest_M = np.full(len(exact_MD), -np.inf)
    for block in chunks(len(exact_MD), max(1, min(1024, BLOCK_VALUES // len(exact_MD)))):
        product_RM = exact_MD[block] @ exact_MD[: block.stop].T
        later_RM = np.arange(block.stop) >= np.arange(block.start, block.stop)[:, None]
        product_RM[later_RM] = -np.inf
        largest_M[block] = product_RM.max(axis=1)
    return largest_M / radius(features_MD.shape[1], FINE) ** 2
