"""Self-Filter's difficulty, drawn in groups instead of from the top. Ours.

The score net is linear in the features: it learns which kinds of samples are hard, and the hardest
samples are then all of one kind. Here harder groups get larger quotas and easier ones keep some,
as in MLLM-Selector's grouped draw, and what Stage 1 has not learned is passed over.

Shapes: N samples, A of them not passed over, B picks.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.grouped_draw import default_alpha, group_randoms, grouped_draw
from selfilter_ray.select.random_draw import source_numbers
from selfilter_ray.select.random_order import random_rank
from selfilter_ray.select.settings import SelfilterGroupedSettings
from selfilter_ray.select.unlearned import LOSS, split_unlearned

DIFFICULTY = "difficulty"


def selfilter_grouped_needs(settings: SelfilterGroupedSettings) -> Needs:
    return Needs((DIFFICULTY,), (LOSS,) if settings.drop_unlearned else ())


def select_selfilter_grouped(
    pool: Pool, budget: int, seed: int, settings: SelfilterGroupedSettings
) -> Selection:
    """The grouped draw by descending difficulty. ``value``: the difficulty.

    Samples that ``drop_unlearned`` passes over, and behind them those without a loss, are picked
    only when the budget cannot be met otherwise, those with the least loss first.
    """
    difficulty_N = pool.columns[DIFFICULTY]
    row_A, passed_over, without_loss = np.arange(len(pool.ids)), np.empty(0, np.int64), 0
    if settings.drop_unlearned:
        loss_N = pool.columns[LOSS]
        row_A, passed_over = split_unlearned(
            loss_N, difficulty_N, settings.drop_unlearned, settings.groups
        )
        without_loss = int(np.isnan(loss_N).sum())
    alpha = default_alpha(len(pool.ids), budget) if settings.alpha is None else settings.alpha
    drawn = grouped_draw(
        row_A[np.lexsort((-row_A, difficulty_N[row_A]))],
        source_numbers(pool)[1],
        random_rank(pool.ids, seed, "grouped draw"),
        min(budget, len(row_A)),
        settings.groups,
        alpha,
        group_randoms(settings.groups, seed),
    )
    drawn = drawn[np.lexsort((drawn, -difficulty_N[drawn]))]
    indices = np.concatenate([drawn, passed_over])[:budget]
    details = {
        "alpha": alpha,
        "passed_over": len(passed_over),
        "picked_of_these": budget - len(drawn),
        "without_value": without_loss,
    }
    return Selection(indices, difficulty_N[indices], details)
