"""Alpagasus (arXiv 2307.08701): keep what an LLM judge rates 4.5 or more of 5.

Shapes: N samples.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.random_order import random_rank
from selfilter_ray.select.ranking import select_ranked
from selfilter_ray.select.settings import AlpagasusSettings


def alpagasus_needs(settings: AlpagasusSettings) -> Needs:
    return Needs(columns_with_gaps=(f"judge_{settings.dimension}",))


def count_reaching(pool: Pool, settings: AlpagasusSettings) -> int:
    """How many samples reach the threshold: the size of the selection when none is given."""
    return int((_ratings(pool, settings) >= settings.threshold).sum())


def select_alpagasus(pool: Pool, budget: int, seed: int, settings: AlpagasusSettings) -> Selection:
    """The ``budget`` samples rated best; equal ratings, of which there are many, at random.

    Samples that the judge did not rate come last.
    """
    rating_N = _ratings(pool, settings)
    order = np.lexsort((random_rank(pool.ids, seed, "equal ratings"), -rating_N))
    rated = order[: np.count_nonzero(~np.isnan(rating_N))]  # NaN sorts to the end
    chosen = select_ranked(pool, rated, rating_N, budget, seed)
    reaching = {
        "threshold": settings.threshold,
        "reaching_threshold": count_reaching(pool, settings),
    }
    return Selection(chosen.indices, chosen.value, {**reaching, **chosen.details})


def _ratings(pool: Pool, settings: AlpagasusSettings) -> np.ndarray:
    return pool.columns[f"judge_{settings.dimension}"]
