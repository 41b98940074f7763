"""The exact nearest kept samples of one sample, from proposals that are proven to be enough.

What decides is the fixed-order cosine and, in ties, who was admitted first; so neither the size of
a micro-batch nor anything that proposes can change a neighbour. Shapes: C candidates, D features.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selfilter_ray.online.kept import NOTHING, Kept
from selfilter_ray.select.neighbours.search import Found, product_margin

WIDER = 4
# From so many candidates a neighbour on, copies of one row are thinned out before they are scored.
CROWD = 8


@dataclass(frozen=True, slots=True)
class Query:
    """Whose neighbours are wanted: of those kept that are harder (ties: admitted before).

    Attributes:
        cosines: with given slots, by ``select.cosine``.
        difficulty: minus infinity makes everyone harder.
        sequence: of the sample itself.
    """

    cosines: Callable[[np.ndarray], np.ndarray]
    difficulty: float
    sequence: int


@dataclass(frozen=True, slots=True)
class Near:
    """Neighbours, nearest first; ``complete`` when there are no others."""

    slots: np.ndarray
    cosines: np.ndarray
    complete: bool


NOBODY = Near(np.zeros(0, np.int64), np.zeros(0), True)


def nearest_of(
    kept: Kept, query: Query, count: int, found: Found, search: Callable[[int], Found]
) -> Near:
    """The ``count`` nearest.

    Args:
        found: proposals; slots that are empty by now are left out.
        search: proposes again, at least so many, from what is kept now.
    """
    margin = product_margin(kept.features)
    asked = max(count, len(found.sites))
    while True:
        close = _close(kept, query, count, found, margin)
        if close is not None:
            break
        asked *= WIDER
        found = search(asked)
    if len(close) > CROWD * count:
        close = _thinned(kept, close, count)
    cosines = query.cosines(close)
    order = np.lexsort((kept.sequence_S[close], -cosines))[:count]
    return Near(close[order], cosines[order], len(order) < count)


def _close(kept: Kept, query: Query, count: int, found: Found, margin: float) -> np.ndarray | None:
    """The candidates that can be among the nearest; None when others can be, too."""
    sequence_C, difficulty_C = kept.sequence_S[found.sites], kept.difficulty_S[found.sites]
    earlier_C = sequence_C < query.sequence
    harder_C = (difficulty_C > query.difficulty) | ((difficulty_C == query.difficulty) & earlier_C)
    counts_C = (sequence_C != NOTHING) & harder_C
    sites, rough = found.sites[counts_C], found.rough[counts_C]
    if len(sites) < count:
        return sites if found.floor == -np.inf else None
    limit = float(np.partition(rough, len(rough) - count)[len(rough) - count]) - 2.0 * margin
    if not found.floor < limit:
        return None
    close: np.ndarray = sites[rough >= limit]
    return close


def _thinned(kept: Kept, slots: np.ndarray, count: int) -> np.ndarray:
    """No more than ``count`` of equal rows can be neighbours: the first of them."""
    digest_C2 = kept.digest_S2[slots]
    order = np.lexsort((kept.sequence_S[slots], digest_C2[:, 1], digest_C2[:, 0]))
    digest_C2 = digest_C2[order]
    new_C = np.ones(len(order), bool)
    new_C[1:] = (digest_C2[1:] != digest_C2[:-1]).any(axis=1)
    place_C = np.arange(len(order))
    rank_C = place_C - np.maximum.accumulate(np.where(new_C, place_C, 0))
    thinned: np.ndarray = slots[order[rank_C < count]]
    return thinned
