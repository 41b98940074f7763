"""The nearest kept samples of a whole micro-batch, found before its first sample is decided.

In rate mode kept samples stay, so what is found at once for all holds for each of them, unless a
sample of the same micro-batch that was admitted meanwhile is nearer: its rough cosine tells. Many
small steps of numpy become a few large ones; which neighbours are found is the same.

Shapes: Q queries, P pairs of a query and a candidate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from selfilter_ray.online.cosines import Cosines
from selfilter_ray.online.kept import Kept
from selfilter_ray.online.nearest import CROWD, Near
from selfilter_ray.online.verdict import penalty
from selfilter_ray.select.neighbours.search import Found, product_margin


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The nearest kept samples of one sample.

    Attributes:
        slots, cosines: nearest first.
        penalty: see ``verdict.penalty``; of the first k.
        limit: whoever has a smaller rough cosine is none of them.
    """

    slots: list[int]
    cosines: list[float]
    penalty: float
    limit: float

    @classmethod
    def of(cls, near: Near, kept: Kept, k: int) -> Neighbours:
        """From a search for one sample."""
        slots, cosines = near.slots.tolist(), near.cosines.tolist()
        pushes = penalty(kept.weight_S[near.slots[:k]].tolist(), cosines[:k])
        return cls(slots, cosines, pushes, -math.inf)


NONE = Neighbours([], [], 0.0, math.inf)


def neighbours_ahead(
    kept: Kept, cosines: Cosines, found: list[Found], count: int, k: int
) -> list[Neighbours | None]:
    """The ``count`` nearest of each query; None where one search for all does not settle it.

    Args:
        found: proposals, nearest first.
        k: how many of them push.
    """
    margin = product_margin(kept.features)
    closest = [_close(one, count, margin) for one in found]
    sizes = [0 if close is None else len(close[0]) for close in closest]
    number_P = np.repeat(np.arange(len(found)), sizes)
    slot_P = np.concatenate([np.zeros(0, np.int64), *(c[0] for c in closest if c is not None)])
    cosine_P = cosines.prepare(number_P, slot_P)
    order = np.lexsort((kept.sequence_S[slot_P], -cosine_P, number_P))
    slot_P, cosine_P = slot_P[order], cosine_P[order]
    pushes = (np.maximum(kept.weight_S[slot_P], 0.0) * (cosine_P * cosine_P)).tolist()
    slots, cosine = slot_P.tolist(), cosine_P.tolist()
    neighbours: list[Neighbours | None] = []
    start = 0
    for close, size in zip(closest, sizes, strict=True):
        if close is None:
            neighbours.append(None)
            continue
        stop = start + min(count, size)
        total = math.fsum(pushes[start : min(start + k, stop)])
        neighbours.append(Neighbours(slots[start:stop], cosine[start:stop], total, close[1]))
        start += size
    return neighbours


def _close(found: Found, count: int, margin: float) -> tuple[np.ndarray, float] | None:
    """The candidates that can be among the nearest, and the rough cosine from which one can."""
    if len(found.sites) < count:
        return (found.sites, -math.inf) if found.floor == -np.inf else None
    limit = float(found.rough[count - 1]) - 2.0 * margin
    if not found.floor < limit:
        return None
    close = found.sites[found.rough >= limit]
    # A crowd of equal rows is thinned out first, see ``nearest_of``.
    return None if len(close) > CROWD * count else (close, limit)
