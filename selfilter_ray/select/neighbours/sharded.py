"""The same search over features that are spread over several processes.

Every shard proposes its own nearest; what any of them may have left out bounds what is missing from
all. Cosines are computed where the features lie, by the same sums in the same order, so the number
of shards cannot change a pick. Shapes: U sites, Q queries, D features, C candidates, P pairs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from selfilter_ray.select.neighbours.exact import unit_rows
from selfilter_ray.select.neighbours.search import Found
from selfilter_ray.select.neighbours.shard import PartFound
from selfilter_ray.select.sites import Sites

# (shard, name of a method of FeatureShard, its arguments): all at once, results in order.
Call = Callable[[Sequence[tuple[int, str, tuple[Any, ...]]]], list[Any]]
# Of the candidates, the share whose cosines are computed together with the search.
AHEAD = 1 / 3


class ShardedSearch:
    """``Search`` over shards, whose backends leave nothing nearer than their floor out.

    Args:
        call: makes calls to shards.
        shard_N: which shard holds each sample of the pool.
        row_N: and in which of its rows.
        sites: of the pool.
        margin: of the shards' backend.
    """

    approximate = False

    def __init__(
        self,
        call: Call,
        shard_N: np.ndarray,
        row_N: np.ndarray,
        sites: Sites,
        margin: float,
    ) -> None:
        self._call = call
        self.margin = margin
        self._home_U = shard_N[sites.first_U]
        self._own = [np.flatnonzero(self._home_U == n) for n in range(int(shard_N.max()) + 1)]
        self._shards = [n for n, own in enumerate(self._own) if len(own)]
        rows_U = row_N[sites.first_U]
        call([(n, "keep", (rows_U[self._own[n]], self._own[n])) for n in self._shards])
        self._known: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def nearest(self, sites: np.ndarray, count: int, alive_U: np.ndarray) -> list[Found]:
        rows_QD, square_Q = self._vectors(sites)
        query_QD = unit_rows(rows_QD, np.sqrt(square_Q))
        parts: list[PartFound] = self._call(
            [
                (n, "nearest", (query_QD, count, np.packbits(alive_U[self._own[n]])))
                for n in self._shards
            ]
        )
        found = _merged(parts, len(sites))
        ahead = max(1, int(count * AHEAD))
        pairs = [one.sites[:ahead] for one in found]
        query_P = np.repeat(np.arange(len(sites)), [len(pair) for pair in pairs])
        site_P = np.concatenate(pairs)
        cosine_P = self._cosines(rows_QD, square_Q, query_P, site_P)
        bounds = np.searchsorted(query_P, np.arange(len(sites) + 1))
        for number, site in enumerate(sites.tolist()):
            own = slice(bounds[number], bounds[number + 1])
            order = np.argsort(site_P[own])
            self._known[site] = site_P[own][order], cosine_P[own][order]
        return found

    def cosines(self, site: int, others: np.ndarray) -> np.ndarray:
        known, known_cosines = self._known[site]
        place = np.minimum(np.searchsorted(known, others), max(len(known) - 1, 0))
        there = known[place] == others if len(known) else np.zeros(len(others), bool)
        cosines = np.zeros(len(others))
        cosines[there] = known_cosines[place[there]]
        missing = others[~there]
        if len(missing):
            rows_QD, square_Q = self._vectors(np.array([site]))
            nought = np.zeros(len(missing), np.int64)
            cosines[~there] = self._cosines(rows_QD, square_Q, nought, missing)
        return cosines

    def _vectors(self, sites: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Features and squared lengths of sites, from the shards where they live."""
        home_Q = self._home_U[sites]
        asked = [n for n in self._shards if (home_Q == n).any()]
        answers = self._call([(n, "vectors", (sites[home_Q == n],)) for n in asked])
        width = answers[0][0].shape[1]
        rows_QD, square_Q = np.zeros((len(sites), width), np.float32), np.zeros(len(sites))
        for n, (rows, squares) in zip(asked, answers, strict=True):
            rows_QD[home_Q == n], square_Q[home_Q == n] = rows, squares
        return rows_QD, square_Q

    def _cosines(
        self, rows_QD: np.ndarray, square_Q: np.ndarray, query_P: np.ndarray, site_P: np.ndarray
    ) -> np.ndarray:
        home_P = self._home_U[site_P]
        asked = [n for n in self._shards if (home_P == n).any()]
        answers = self._call(
            [
                (n, "cosines", (rows_QD, square_Q, query_P[home_P == n], site_P[home_P == n]))
                for n in asked
            ]
        )
        cosine_P = np.zeros(len(site_P))
        for n, part in zip(asked, answers, strict=True):
            cosine_P[home_P == n] = part
        return cosine_P


def _merged(parts: Sequence[PartFound], queries: int) -> list[Found]:
    """What all shards found, for each query."""
    bounds = [np.concatenate([[0], np.cumsum(part.count_Q)]) for part in parts]
    merged = []
    for query in range(queries):
        own = [slice(bound[query], bound[query + 1]) for bound in bounds]
        sites = np.concatenate([part.sites[cut] for part, cut in zip(parts, own, strict=True)])
        rough = np.concatenate([part.rough[cut] for part, cut in zip(parts, own, strict=True)])
        floor = max(float(part.floor_Q[query]) for part in parts)
        # Below the floor of one shard another one's candidates prove nothing.
        kept = rough >= floor
        order = np.argsort(-rough[kept], kind="stable")
        merged.append(Found(sites[kept][order], rough[kept][order], floor))
    return merged
