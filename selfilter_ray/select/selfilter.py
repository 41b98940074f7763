"""Self-Filter (arXiv 2402.12501) as a method: Stage 2 over the difficulties of Stage 1.

Ours: ``drop_unlearned`` (``unlearned.py``).

Shapes: N samples, A of them not passed over, B picks, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.diverse import Picks, select_diverse
from selfilter_ray.select.settings import SelfilterSettings
from selfilter_ray.select.unlearned import LOSS, split_unlearned


def selfilter_needs(settings: SelfilterSettings) -> Needs:
    gaps = (LOSS,) if settings.drop_unlearned else ()
    return Needs(columns=("difficulty",), columns_with_gaps=gaps, features=True)


def select_selfilter(
    pool: Pool,
    budget: int,
    seed: int,
    settings: SelfilterSettings,
    progress: Callable[[int], None] = lambda picks: None,
) -> Selection:
    """The hardest sample, then a penalty on its nearest neighbours, until the budget is spent.

    Samples that ``drop_unlearned`` passes over, and behind them those without a loss, are picked
    only when the budget cannot be met otherwise, those with the least loss first.
    """
    assert pool.features_ND is not None
    features_ND, difficulty_N = pool.features_ND, pool.columns["difficulty"]
    row_A, passed_over = None, np.empty(0, np.int64)
    if settings.drop_unlearned:
        row_A, passed_over = split_unlearned(
            pool.columns[LOSS], difficulty_N, settings.drop_unlearned
        )
        features_ND, difficulty_N = features_ND[row_A], difficulty_N[row_A]
    picks = select_diverse(
        features_ND,
        difficulty_N,
        min(budget, len(difficulty_N)),
        settings.gamma,
        settings.k_nearest,
        settings.difficulty,
        progress=progress,
        backend=settings.backend,
    )
    if row_A is None:
        return selection_of(picks)
    last = passed_over[: budget - len(picks.indices)]
    found = selection_of(_with_last(_of_pool(picks, row_A), last, pool.columns["difficulty"]))
    details = {
        **found.details,
        "passed_over": len(passed_over),
        "picked_of_these": len(last),
        "without_value": int(np.isnan(pool.columns[LOSS]).sum()),
    }
    return replace(found, details=details)


def _of_pool(picks: Picks, row_A: np.ndarray) -> Picks:
    """Picks among the A samples by their rows in the pool."""

    def placed(numbers: np.ndarray) -> np.ndarray:
        return np.where(numbers < 0, -1, row_A[numbers]) if len(row_A) else numbers

    return replace(
        picks,
        indices=placed(picks.indices),
        nearest_earlier=placed(picks.nearest_earlier),
        neighbours_BK=placed(picks.neighbours_BK),
    )


def _with_last(picks: Picks, last: np.ndarray, difficulty_N: np.ndarray) -> Picks:
    """Further picks behind the others, without a penalty from or on any of them."""
    count, width = len(last), picks.neighbours_BK.shape[1]
    nothing = np.full(count, np.nan, np.float32)

    def behind(values: np.ndarray, more: np.ndarray) -> np.ndarray:
        return np.concatenate([values, more.astype(values.dtype)])

    return replace(
        picks,
        indices=behind(picks.indices, last),
        difficulty_at_pick=behind(picks.difficulty_at_pick, difficulty_N[last]),
        penalty=behind(picks.penalty, np.zeros(count)),
        nearest_earlier=behind(picks.nearest_earlier, np.full(count, -1)),
        nearest_earlier_similarity=behind(picks.nearest_earlier_similarity, nothing),
        neighbours_BK=behind(picks.neighbours_BK, np.full((count, width), -1)),
        similarity_BK=behind(picks.similarity_BK, np.full((count, width), np.nan)),
    )


def selection_of(picks: Picks) -> Selection:
    """The greedy picks as any method gives its own."""
    value = picks.difficulty_at_pick.astype(np.float64)
    details = {"searches": picks.searched, "recall": picks.recall}
    return Selection(picks.indices, value, details, picks)
