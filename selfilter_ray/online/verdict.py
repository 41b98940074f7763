"""What a rule says of one sample, and the sum that it says it by."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfilter_ray.online.decision import Reason
from selfilter_ray.online.nearest import Near


@dataclass(frozen=True, slots=True)
class Verdict:
    """The part of a ``Decision`` that the rule finds out."""

    reason: Reason
    adjusted: float
    threshold: float
    nearest: tuple[str, ...]
    similarities: tuple[float, ...]
    evicted: str | None = None


def penalised(
    difficulty: float, gamma: float, weights: Sequence[float], cosines: Sequence[float]
) -> float:
    """d - gamma * sum of w * cos^2."""
    return difficulty - gamma * penalty(weights, cosines)


def penalty(weights: Sequence[float], cosines: Sequence[float]) -> float:
    """The sum of w * cos^2, rounded once, so that its order does not matter.

    A neighbour of negative weight counts as 0: it must not make its neighbours harder (ours).
    """
    pairs = zip(weights, cosines, strict=True)
    return math.fsum([max(weight, 0.0) * (c * c) for weight, c in pairs])


def names(ids: list[str], near: Near, count: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """Ids and cosines of the first neighbours."""
    slots: np.ndarray = near.slots[:count]
    return tuple(ids[slot] for slot in slots.tolist()), tuple(near.cosines[:count].tolist())
