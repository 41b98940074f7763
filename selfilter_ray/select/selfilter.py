"""Self-Filter (arXiv 2402.12501) as a method: Stage 2 over the difficulties of Stage 1."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.diverse import Picks, select_diverse
from selfilter_ray.select.settings import SelfilterSettings


def selfilter_needs(settings: SelfilterSettings) -> Needs:
    return Needs(columns=("difficulty",), features=True)


def select_selfilter(
    pool: Pool,
    budget: int,
    seed: int,
    settings: SelfilterSettings,
    progress: Callable[[int], None] = lambda picks: None,
) -> Selection:
    """The hardest sample, then a penalty on its nearest neighbours, until the budget is spent."""
    assert pool.features_ND is not None
    picks = select_diverse(
        pool.features_ND,
        pool.columns["difficulty"],
        budget,
        settings.gamma,
        settings.k_nearest,
        settings.difficulty,
        progress=progress,
        backend=settings.backend,
    )
    return selection_of(picks)


def selection_of(picks: Picks) -> Selection:
    """The greedy picks as any method gives its own."""
    value = picks.difficulty_at_pick.astype(np.float64)
    details = {"searches": picks.searched, "recall": picks.recall}
    return Selection(picks.indices, value, details, picks)
