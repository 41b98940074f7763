"""Spherical k-means: rows of equal direction belong together, lengths do not matter.

Assignments compare exact products on a grid and centroids are sums of whole numbers, so the
clusters are the same for any number of threads. Memory beyond the features: their copy as int16,
the sums of all clusters, and one chunk.

Shapes: N samples, D features, K clusters, C rows of a chunk.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from selfilter_ray.select.grid import COARSE, FINE, chunks, coarse_rows, on_grid, radius


@dataclass(frozen=True, slots=True)
class Clusters:
    """The clusters of a pool. None is empty.

    Attributes:
        labels_N: (N,) int64, from 0 to K - 1.
        cosine_N: (N,) float64 to the centroid of the own cluster; 0 for a zero row.
        centroids_KD: (K, D) float64 of length 1.
    """

    labels_N: np.ndarray
    cosine_N: np.ndarray
    centroids_KD: np.ndarray

    def members(self) -> list[np.ndarray]:
        """The row numbers of each cluster, ascending."""
        order = np.argsort(self.labels_N, kind="stable")
        ends = np.cumsum(np.bincount(self.labels_N, minlength=len(self.centroids_KD)))
        return np.split(order, ends[:-1]) if len(ends) else []


def default_clusters(samples: int) -> int:
    """The square root of the number of samples (ours)."""
    return max(1, round(math.sqrt(samples)))


def spherical_kmeans(
    features_ND: np.ndarray, clusters: int, order_N: np.ndarray, iterations: int = 10
) -> Clusters:
    """Cluster the rows by cosine.

    The first centroids are the first ``clusters`` rows of ``order_N`` whose directions differ:
    with fewer directions than that, there are fewer clusters. A cluster that loses all its rows
    keeps its centroid, and is left out if it ends empty. A zero row is in the first cluster.

    Args:
        features_ND: float32.
        clusters: how many, at least 1.
        order_N: all rows in random order.
        iterations: at most so many; it stops when no row moves.
    """
    coarse_ND = coarse_rows(features_ND)
    centroids_KD = coarse_ND[_distinct(coarse_ND, clusters, order_N)].astype(np.float64)
    labels_N = _nearest(coarse_ND, centroids_KD)
    for _ in range(iterations):
        centroids_KD = _means(coarse_ND, labels_N, centroids_KD)
        moved_N = _nearest(coarse_ND, centroids_KD)
        if np.array_equal(moved_N, labels_N):
            break
        labels_N = moved_N
    used, labels_N = np.unique(labels_N, return_inverse=True)
    centroids_KD = centroids_KD[used]
    return Clusters(labels_N, _own_cosine(features_ND, labels_N, centroids_KD), _unit(centroids_KD))


def _distinct(coarse_ND: np.ndarray, clusters: int, order_N: np.ndarray) -> list[int]:
    """The first rows of the order that differ from each other and are not zero."""
    seen: dict[bytes, int] = {}
    for row in order_N:
        if coarse_ND[row].any():
            seen.setdefault(coarse_ND[row].tobytes(), int(row))
        if len(seen) == clusters:
            break
    return list(seen.values()) or [int(order_N[0])]  # all zero: one cluster of them


def _nearest(coarse_ND: np.ndarray, centroids_KD: np.ndarray) -> np.ndarray:
    """(N,) the centroid of the largest cosine, the first of equals."""
    labels_N = np.empty(len(coarse_ND), dtype=np.int64)
    centroids_DK = np.ascontiguousarray(centroids_KD.T, dtype=np.float32)
    for chunk in chunks(len(coarse_ND), _chunk_rows(len(centroids_KD))):
        cosine_CK = coarse_ND[chunk].astype(np.float32) @ centroids_DK
        labels_N[chunk] = cosine_CK.argmax(axis=1)
    return labels_N


def _means(coarse_ND: np.ndarray, labels_N: np.ndarray, before_KD: np.ndarray) -> np.ndarray:
    """(K, D) the directions of the clusters' sums, on the coarse grid."""
    sums_KD = np.zeros(before_KD.shape, dtype=np.int64)
    for chunk in chunks(len(coarse_ND)):
        order_C = np.argsort(labels_N[chunk], kind="stable")
        present, starts = np.unique(labels_N[chunk][order_C], return_index=True)
        rows_CD = coarse_ND[chunk][order_C].astype(np.int32)
        sums_KD[present] += np.add.reduceat(rows_CD, starts, axis=0)
    lost_K = ~sums_KD.any(axis=1)
    means_KD = on_grid(sums_KD, COARSE)
    means_KD[lost_K] = before_KD[lost_K]
    return means_KD


def _own_cosine(
    features_ND: np.ndarray, labels_N: np.ndarray, centroids_KD: np.ndarray
) -> np.ndarray:
    centroids_KD = on_grid(centroids_KD, FINE)
    cosine_N = np.empty(len(features_ND))
    for chunk in chunks(len(features_ND)):
        rows_CD = on_grid(features_ND[chunk], FINE)
        cosine_N[chunk] = (rows_CD * centroids_KD[labels_N[chunk]]).sum(axis=1)
    return cosine_N / radius(features_ND.shape[1], FINE) ** 2


def _unit(rows_KD: np.ndarray) -> np.ndarray:
    norm_K = np.sqrt((rows_KD**2).sum(axis=1))
    return rows_KD / np.where(norm_K > 0, norm_K, 1.0)[:, None]


def _chunk_rows(columns: int) -> int:
    """So many rows that a chunk's products take at most 256 MB."""
    return max(1, min(8192, 2**26 // columns))
