"""MLLM-Selector (arXiv 2503.20502), in our reading: it has no public code.

A random seed set tunes the model a little; every sample gets a necessity from that seed model; the
rest of the budget is drawn in groups by necessity. The final tuning starts from the model before
the seed set, on the seed set and the draw together.

Shapes: N samples, M of the pool, B picks.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.grouped_draw import default_alpha, group_randoms, grouped_draw
from selfilter_ray.select.necessity import COLUMNS, necessity
from selfilter_ray.select.random_draw import source_numbers
from selfilter_ray.select.random_order import random_order, random_rank
from selfilter_ray.select.ranking import missing_last
from selfilter_ray.select.settings import MllmSelectorSettings

ALPHAS = np.arange(0, 16.25, 0.25)  # those that mode kl tries
MEMBER = "seed_member"


def mllm_selector_needs(settings: MllmSelectorSettings) -> Needs:
    return Needs(columns=(MEMBER,), columns_with_gaps=COLUMNS[settings.necessity])


def seed_set(ids: np.ndarray, budget: int, seed_ratio: float, seed: int) -> np.ndarray:
    """Row numbers, ascending, of the seed set: a uniform draw of ``seed_ratio`` of the pool.

    At most half of ``budget``, and at least one sample where that allows it.
    """
    size = min(max(1, round(seed_ratio * len(ids))), budget // 2)
    return np.sort(random_order(ids, seed, "seed set")[:size])


def select_mllm_selector(
    pool: Pool, budget: int, seed: int, settings: MllmSelectorSettings
) -> Selection:
    """The seed set, then the grouped draw by descending necessity. ``value``: the necessity.

    Samples that ``drop_top`` passes over, and after them samples without a necessity, are picked
    only when the budget cannot be met otherwise.

    Raises:
        ConfigError: when the seed set is larger than the budget.
    """
    need_N = necessity(pool, settings.necessity)
    members = _members(pool, budget)
    ranked_C, passed_over = _candidates(need_N, members, settings.drop_top)
    count = min(budget - len(members), len(ranked_C))
    draw = _Draw(pool, ranked_C, members, count, seed, settings)
    alpha = draw.alpha(budget)
    drawn = draw.of(alpha)
    drawn = drawn[np.lexsort((drawn, -need_N[drawn]))]
    order = missing_last(pool, np.concatenate([members, drawn, passed_over]), seed)
    indices = order[:budget]
    details = {
        "seed_set": len(members),
        "alpha": alpha,
        "kl": draw.divergence(indices),
        "passed_over": len(passed_over),
        "without_value": int(np.isnan(need_N).sum()),
    }
    return Selection(indices, need_N[indices], details)


class _Draw:
    """The grouped draw of one pool at any alpha."""

    def __init__(
        self,
        pool: Pool,
        ranked_C: np.ndarray,
        members: np.ndarray,
        count: int,
        seed: int,
        settings: MllmSelectorSettings,
    ) -> None:
        self.ranked_C, self.members, self.count = ranked_C, members, count
        self.settings = settings
        self.names, self.source_N = source_numbers(pool)
        self.rank_N = random_rank(pool.ids, seed, "grouped draw")
        self.random_2G = group_randoms(settings.groups, seed)

    def of(self, alpha: float) -> np.ndarray:
        return grouped_draw(
            self.ranked_C,
            self.source_N,
            self.rank_N,
            self.count,
            self.settings.groups,
            alpha,
            self.random_2G,
        )

    def alpha(self, budget: int) -> float:
        """The set one, or the default one, or the largest whose sources are like the pool's.

        When no alpha keeps to epsilon, mode kl takes 0.
        """
        if self.settings.mode == "power":
            default = default_alpha(len(self.source_N), budget)
            return default if self.settings.alpha is None else self.settings.alpha
        for alpha in reversed(ALPHAS[1:]):
            chosen = np.concatenate([self.members, self.of(float(alpha))])
            if self.divergence(chosen) <= self.settings.epsilon:
                return float(alpha)
        return 0.0

    def divergence(self, rows: np.ndarray) -> float:
        """KL(sources of the rows || sources of the pool), in nats."""
        if not len(rows):
            return 0.0
        chosen = np.bincount(self.source_N[rows], minlength=len(self.names)) / len(rows)
        pool = np.bincount(self.source_N) / len(self.source_N)
        there = chosen > 0
        return float((chosen[there] * np.log(chosen[there] / pool[there])).sum())


def _members(pool: Pool, budget: int) -> np.ndarray:
    member_N = pool.columns[MEMBER]
    if not np.isin(member_N, (0.0, 1.0)).all():
        raise DataError(f"the column {MEMBER} must be 1 for the seed set and 0 for all others.")
    members = np.flatnonzero(member_N)
    if len(members) > budget:
        raise ConfigError(
            f"the seed set has {len(members)} samples, which always belong to the selection, but "
            f"the budget is {budget}: raise the budget, or tune the seed model on fewer."
        )
    return members


def _candidates(
    need_N: np.ndarray, members: np.ndarray, drop_top: float
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers by ascending necessity outside of the seed set, and those passed over.

    Of equal necessity, the smaller id counts as the more necessary.
    """
    rows = np.setdiff1d(np.flatnonzero(~np.isnan(need_N)), members)
    ascending = rows[np.lexsort((-rows, need_N[rows]))]
    kept = len(rows) - round(drop_top * len(rows))
    return ascending[:kept], ascending[kept:]
