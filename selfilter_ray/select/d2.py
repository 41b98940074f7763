"""D2 pruning (arXiv 2310.07931): importance that neighbours share, then a penalty on them.

On the graph of each sample's k nearest neighbours N(i), with d_ij = |x_i - x_j|^2 of unit vectors:

    u_i = s_i + sum over j in N(i) of exp(-gamma_forward d_ij) s_j

and then, until the budget is spent, the sample i of the largest u is picked and each j in N(i) gets

    u_j <- u_j - exp(-gamma_reverse d_ij) u_i            with u_i as it is at the pick

Shapes: N samples, D features, K neighbours, B picks.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.grid import has_direction
from selfilter_ray.select.knn import nearest_neighbours
from selfilter_ray.select.ranking import select_ranked
from selfilter_ray.select.settings import D2Settings


def d2_needs(settings: D2Settings) -> Needs:
    return Needs(columns_with_gaps=(settings.column,), features=True)


def has_gaps(pool: Pool, settings: D2Settings) -> bool:
    """Whether samples lack the value: only among those is the order random."""
    return bool(np.isnan(pool.columns[settings.column]).any())


def select_d2(pool: Pool, budget: int, seed: int, settings: D2Settings) -> Selection:
    """``budget`` samples of high importance that cover the pool.

    The column is scaled over the pool to [0, 1] first, all to 1 when it is constant; a zero row has
    no neighbours and is nobody's; samples without a value are not in the graph and rank last
    (ours). ``value``: u at the pick.
    """
    assert pool.features_ND is not None
    score_N = pool.columns[settings.column]
    rows = np.flatnonzero(~np.isnan(score_N))
    graph = _Graph(pool.features_ND[rows], settings)
    value = graph.passed_on(_scaled(score_N[rows]))
    picked, at_pick = graph.greedy(value, min(budget, len(rows)))
    value_N = np.full(len(score_N), np.nan)
    value_N[rows[picked]] = at_pick
    # Only as many rows of the graph are ranked as are picked: the budget ends before the others.
    ranked = np.concatenate([rows[picked], np.delete(rows, picked)])
    return select_ranked(pool, ranked, value_N, budget, seed)


class _Graph:
    """Nearest neighbours and their distances."""

    def __init__(self, features_ND: np.ndarray, settings: D2Settings) -> None:
        self.neighbours_NK, cosine_NK = nearest_neighbours(features_ND, settings.k_nearest)
        distance_NK = 2.0 - 2.0 * cosine_NK
        known_N = has_direction(features_ND)
        linked_NK = known_N[:, None] & known_N[self.neighbours_NK]
        self.forward_NK = linked_NK * np.exp(-settings.gamma_forward * distance_NK)
        self.reverse_NK = linked_NK * np.exp(-settings.gamma_reverse * distance_NK)

    def passed_on(self, score_N: np.ndarray) -> np.ndarray:
        """(N,) each score with its neighbours' messages."""
        return score_N + (self.forward_NK * score_N[self.neighbours_NK]).sum(axis=1)

    def greedy(self, value_N: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The picks and their values when picked."""
        value_N = value_N.copy()
        picked = np.empty(count, dtype=np.int64)
        at_pick = np.empty(count)
        for rank in range(count):
            pick = int(value_N.argmax())  # the first of equals
            picked[rank], at_pick[rank] = pick, value_N[pick]
            value_N[self.neighbours_NK[pick]] -= self.reverse_NK[pick] * value_N[pick]
            value_N[pick] = -np.inf
        return picked, at_pick


def _scaled(score_N: np.ndarray) -> np.ndarray:
    low, high = score_N.min(), score_N.max()
    return (score_N - low) / (high - low) if high > low else np.ones(len(score_N))
