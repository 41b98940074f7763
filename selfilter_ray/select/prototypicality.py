"""Prototypicality (Sorscher et al. 2022, arXiv 2206.14486).

Difficulty is 1 - cos to the nearest centroid of spherical k-means: far samples where there is
plenty of data, near ones where it is scarce.

Shapes: N samples.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.grid import has_direction
from selfilter_ray.select.kmeans import Clusters, default_clusters, spherical_kmeans
from selfilter_ray.select.random_order import random_order
from selfilter_ray.select.ranking import Keep, ranked, select_ranked
from selfilter_ray.select.settings import ClusterSettings, PrototypicalitySettings


def cluster_needs(settings: ClusterSettings) -> Needs:
    return Needs(features=True)


def clusters_of(pool: Pool, seed: int, settings: ClusterSettings, default: int) -> Clusters:
    """The pool's clusters, as many as set or ``default``."""
    assert pool.features_ND is not None
    order_N = random_order(pool.ids, seed, "clusters")
    count = settings.clusters or default
    return spherical_kmeans(pool.features_ND, count, order_N, settings.iterations)


def select_prototypicality(
    pool: Pool, budget: int, seed: int, settings: PrototypicalitySettings
) -> Selection:
    """The ``budget`` samples farthest from their centroid, or nearest.

    A zero row has no direction to be far or near in: it ranks last (ours).
    """
    assert pool.features_ND is not None
    clusters = clusters_of(pool, seed, settings, default_clusters(len(pool.ids)))
    value_N = np.where(has_direction(pool.features_ND), 1.0 - clusters.cosine_N, np.nan)
    keep: Keep = "top" if settings.keep == "far" else "bottom"
    chosen = select_ranked(pool, ranked(value_N, keep), value_N, budget, seed)
    details = {**chosen.details, "clusters": len(clusters.centroids_KD)}
    return Selection(chosen.indices, chosen.value, details)
