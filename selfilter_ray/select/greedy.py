"""The greedy loop of Stage 2: take the hardest, push its neighbours down, again.

Shapes: N samples, B picks, K neighbours of a pick.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selfilter_ray.select.hardest import Hardest
from selfilter_ray.select.nearest import Nearest
from selfilter_ray.select.neighbours.search import Search
from selfilter_ray.select.sites import Sites

PROGRESS_EVERY = 100


@dataclass(frozen=True, slots=True)
class Picks:
    """The picks in their order.

    Attributes:
        indices: (B,) int64 row numbers.
        difficulty_at_pick: (B,) float32, the penalised value when picked.
        penalty: (B,) float32, how far earlier picks had pushed it down.
        nearest_earlier: (B,) int64, the most similar earlier pick among those that pushed it down;
            -1 when none did.
        nearest_earlier_similarity: (B,) float32 cosine, NaN when there is none.
        neighbours_BK: (B, K) int64, the samples that the pick pushed down, nearest first, -1 where
            fewer than K remained.
        similarity_BK: (B, K) float32 cosines, NaN where there is none.
        searched: how many neighbour searches were made.
        recall: of an approximate search, on a sample; None for an exact one.
    """

    indices: np.ndarray
    difficulty_at_pick: np.ndarray
    penalty: np.ndarray
    nearest_earlier: np.ndarray
    nearest_earlier_similarity: np.ndarray
    neighbours_BK: np.ndarray
    similarity_BK: np.ndarray
    searched: int
    recall: float | None = None


def pick_greedily(
    search: Search,
    sites: Sites,
    base_N: np.ndarray,
    budget: int,
    gamma: float,
    k_nearest: int,
    progress: Callable[[int], None] = lambda picks: None,
) -> Picks:
    """``select_diverse`` over any neighbour search.

    Args:
        search: over the sites.
        base_N: float64, the difficulties before any penalty.
    """
    hardest = Hardest(base_N)
    k = min(k_nearest, max(len(base_N) - 1, 0))
    nearest = Nearest(search, sites, k, hardest.next_in_line)
    record = _Record(base_N, budget, k)
    for rank in range(budget):
        pick = hardest.first()
        value = hardest.take(pick)
        nearest.leave(pick)
        neighbours, cosines = nearest.of(pick)
        hardest.lower(neighbours, gamma * value * cosines**2)
        record.add(rank, pick, value, neighbours, cosines)
        if rank % PROGRESS_EVERY == PROGRESS_EVERY - 1:
            progress(PROGRESS_EVERY)
    progress(budget % PROGRESS_EVERY)
    return record.picks(nearest.searched)


class _Record:
    """What is written down of each pick."""

    def __init__(self, base_N: np.ndarray, budget: int, k: int) -> None:
        self.base_N = base_N
        self.nearest_N = np.full(len(base_N), -1, dtype=np.int64)
        self.nearest_cosine_N = np.full(len(base_N), np.nan)
        self.indices = np.zeros(budget, dtype=np.int64)
        self.at_pick = np.zeros(budget)
        self.neighbours_BK = np.full((budget, k), -1, dtype=np.int64)
        self.similarity_BK = np.full((budget, k), np.nan, dtype=np.float32)

    def add(
        self, rank: int, pick: int, value: float, neighbours: np.ndarray, cosines: np.ndarray
    ) -> None:
        self.indices[rank], self.at_pick[rank] = pick, value
        self.neighbours_BK[rank, : len(neighbours)] = neighbours
        self.similarity_BK[rank, : len(neighbours)] = cosines
        closer = ~(cosines <= self.nearest_cosine_N[neighbours])  # true against NaN
        self.nearest_N[neighbours[closer]] = pick
        self.nearest_cosine_N[neighbours[closer]] = cosines[closer]

    def picks(self, searched: int) -> Picks:
        return Picks(
            indices=self.indices,
            difficulty_at_pick=self.at_pick.astype(np.float32),
            penalty=(self.base_N[self.indices] - self.at_pick).astype(np.float32),
            nearest_earlier=self.nearest_N[self.indices],
            nearest_earlier_similarity=self.nearest_cosine_N[self.indices].astype(np.float32),
            neighbours_BK=self.neighbours_BK,
            similarity_BK=self.similarity_BK,
            searched=searched,
        )
