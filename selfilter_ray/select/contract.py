"""What every selection method takes and gives.

A method is a pure function ``(pool, budget, seed, settings) -> Selection``: the same pool in any
order, budget, seed and settings give the same ids, on any machine. Ties go to the smaller id.

Shapes: N samples, D features, B picks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfilter_ray.select.diverse import Picks
from selfilter_ray.strict import Strict


@dataclass(frozen=True, slots=True)
class Pool:
    """All usable samples, as a method sees them, sorted by id.

    Attributes:
        ids: (N,) strings, distinct, ascending.
        sources: (N,) strings.
        features_ND: float32, or None where no method asked for features.
        columns: name to (N,) float64, NaN where a sample has no such value: the statistics of
            ``scores.parquet``.
    """

    ids: np.ndarray
    sources: np.ndarray
    features_ND: np.ndarray | None
    columns: Mapping[str, np.ndarray]


@dataclass(frozen=True, slots=True)
class Selection:
    """What a method chose.

    Attributes:
        indices: (B,) int64 row numbers in the pool, distinct, best first.
        value: (B,) float64, the number that each pick was chosen by; NaN where there is none.
        details: what the method found out on its way (JSON values), for the report.
        picks: of the greedy selection of Self-Filter, None for other methods.
    """

    indices: np.ndarray
    value: np.ndarray
    details: Mapping[str, Any] = field(default_factory=dict)
    picks: Picks | None = None


@dataclass(frozen=True, slots=True)
class Needs:
    """What a method reads: the features, and columns by name."""

    columns: tuple[str, ...] = ()
    features: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of the registry.

    Attributes:
        name: value of ``select.method``.
        title: for tables and plots.
        source: paper or release that it comes from.
        settings: its config section; holds ``method`` and its own parameters.
        select: the function.
        needs: what it reads under the given settings.
    """

    name: str
    title: str
    source: str
    settings: type[Strict]
    select: Callable[[Pool, int, int, Any], Selection]
    needs: Callable[[Any], Needs]
