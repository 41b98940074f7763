"""Proposals of a fast product over the kept samples, made once for a micro-batch.

Shapes: Q queries, W slots of a block, S slots.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from selfilter_ray.online.kept import Kept
from selfilter_ray.select.neighbours.best import Best
from selfilter_ray.select.neighbours.search import Found


class Easier(NamedTuple):
    """Kept samples that are easier than a query and may list it.

    Attributes:
        slots: int64.
        rough: float32 cosines.
    """

    slots: np.ndarray
    rough: np.ndarray


def nearest(kept: Kept, unit_QD: np.ndarray, count: int) -> list[Found]:
    """At least ``count`` of the nearest kept samples of each query, where there are so many."""
    best = Best(len(unit_QD), count)
    for start, scores_WQ in kept.scores(unit_QD):
        best.offer(np.arange(start, start + len(scores_WQ)), scores_WQ)
    return best.found(len(kept))


def nearest_harder(
    kept: Kept,
    unit_QD: np.ndarray,
    difficulty_Q: np.ndarray,
    count: int,
    bar_S: np.ndarray | None = None,
) -> tuple[list[Found], list[Easier]]:
    """The same among those at least as hard; and the easier ones whose bar the query reaches.

    Args:
        bar_S: float32, one rough cosine a slot; None asks for no easier ones.
    """
    best = Best(len(unit_QD), count)
    query_parts, slot_parts = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    rough_parts = [np.zeros(0, np.float32)]
    for start, scores_WQ in kept.scores(unit_QD):
        stop = start + len(scores_WQ)
        easier_WQ = kept.difficulty_S[start:stop, None] < difficulty_Q
        if bar_S is not None:
            row, query = np.nonzero(easier_WQ & (scores_WQ >= bar_S[start:stop, None]))
            query_parts.append(query)
            slot_parts.append(row + start)
            rough_parts.append(scores_WQ[row, query])
        scores_WQ[easier_WQ] = -np.inf
        best.offer(np.arange(start, stop), scores_WQ)
    query_P, slot_P = np.concatenate(query_parts), np.concatenate(slot_parts)
    order = np.argsort(query_P, kind="stable")
    cuts = np.cumsum(np.bincount(query_P, minlength=len(unit_QD)))[:-1]
    slots = np.split(slot_P[order], cuts)
    roughs = np.split(np.concatenate(rough_parts)[order], cuts)
    # ``found`` cannot know how many were hard enough, and so never calls a full list complete.
    return best.found(-1), [Easier(*pair) for pair in zip(slots, roughs, strict=True)]
