"""Who proposes a newcomer's nearest kept samples in rate mode: a plain product, or FAISS.

A proposal never decides: exact cosines do, and a proposal that may have left a neighbour out is
asked for more. So all of them lead to the same decisions. Shapes: Q queries, D features.
"""

from __future__ import annotations

from typing import Protocol, get_args

import numpy as np

from selfilter_ray.errors import ConfigError
from selfilter_ray.online import candidates
from selfilter_ray.online.kept import ROWS, Kept
from selfilter_ray.online.settings import SearchName
from selfilter_ray.select.neighbours.exact import unit_rows
from selfilter_ray.select.neighbours.faiss_search import GPU_MAX_COUNT, build_flat
from selfilter_ray.select.neighbours.search import Found


class Proposals(Protocol):
    """Proposes from what is kept at the time."""

    def nearest(self, unit_QD: np.ndarray, count: int) -> list[Found]:
        """At least ``count`` of the nearest kept samples of each query, if there are so many."""


class ProductProposals:
    """A product with every kept row."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept

    def nearest(self, unit_QD: np.ndarray, count: int) -> list[Found]:
        return candidates.nearest(self._kept, unit_QD, count)


class FaissProposals:
    """A flat FAISS index beside the kept rows, whose number in it is their slot.

    It follows the kept samples by itself: what was admitted since the last search is added before
    the next, and after a restart that is everything. Rows must never leave, as in rate mode.

    Raises:
        ConfigError: when FAISS, or a GPU for it, is not there.
    """

    def __init__(self, kept: Kept, gpu: bool) -> None:
        self._kept, self._gpu = kept, gpu
        self._index, self._resources = build_flat(kept.features, gpu)

    def nearest(self, unit_QD: np.ndarray, count: int) -> list[Found]:
        self._follow()
        if self._gpu and count > GPU_MAX_COUNT:
            return candidates.nearest(self._kept, unit_QD, count)
        count = min(count, self._kept.top)
        if not count:
            return [Found(np.zeros(0, np.int64), np.zeros(0, np.float32), -np.inf) for _ in unit_QD]
        scores, slots = self._index.search(np.ascontiguousarray(unit_QD), count)
        whole = count == self._kept.top
        return [
            Found(slots[query], scores[query], -np.inf if whole else float(scores[query, -1]))
            for query in range(len(unit_QD))
        ]

    def _follow(self) -> None:
        for start in range(self._index.ntotal, self._kept.top, ROWS):
            slots = np.arange(start, min(start + ROWS, self._kept.top))
            lengths = np.sqrt(self._kept.square_S[slots])
            self._index.add(unit_rows(self._kept.rows(slots), lengths))


def proposals(name: SearchName, kept: Kept) -> Proposals:
    """The proposals of that name.

    Raises:
        ConfigError: for a name that is none, or when FAISS or its GPU is not there.
    """
    if name not in get_args(SearchName):
        raise ConfigError(f"search must be one of {', '.join(get_args(SearchName))}, not {name!r}")
    if name == "exact":
        return ProductProposals(kept)
    return FaissProposals(kept, gpu=name == "faiss-gpu")
