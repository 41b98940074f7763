"""How many of the true nearest neighbours a search finds."""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.neighbours.exact import ExactSearch
from selfilter_ray.select.neighbours.local import LocalSearch

SAMPLE = 256


def recall(search: LocalSearch, k_nearest: int) -> float:
    """Share of the k nearest rows found, over rows evenly spread; 1.0 where there is none."""
    rows = len(search.features_UD)
    k = min(k_nearest, rows - 1)
    if k < 1:
        return 1.0
    sample = np.unique(np.linspace(0, rows - 1, min(SAMPLE, rows)).astype(np.int64))
    truth = LocalSearch(
        search.features_UD, search.squares_U, ExactSearch(search.features_UD, search.squares_U)
    )
    alive_U = np.ones(rows, bool)
    pairs = zip(
        search.nearest(sample, k + 1, alive_U), truth.nearest(sample, k + 1, alive_U), strict=True
    )
    hits = [len(np.intersect1d(f.sites[: k + 1], t.sites[: k + 1])) - 1 for f, t in pairs]
    return float(np.mean(hits) / k)
