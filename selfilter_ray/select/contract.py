"""What every selection method takes and gives.

A method is a pure function ``(pool, budget, seed, settings) -> Selection``: the same pool in any
order, budget, seed and settings give the same ids, on any machine. Ties go to the smaller id.

Shapes: N samples, D features, B picks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from selfilter_ray.select.diverse import Picks
from selfilter_ray.select.settings import MethodSettings


@dataclass(frozen=True, slots=True)
class Pool:
    """All usable samples, as a method sees them, sorted by id. ``pool_of`` makes one.

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


def pool_of(
    ids: Sequence[str] | np.ndarray,
    sources: Sequence[str] | np.ndarray,
    features_ND: np.ndarray | None = None,
    columns: Mapping[str, np.ndarray] | None = None,
) -> Pool:
    """The pool of samples that come in any order; rows of all arguments belong together."""
    ids = np.asarray(ids, dtype=object)
    order = np.argsort(ids, kind="stable")
    return Pool(
        ids=ids[order],
        sources=np.asarray(sources, dtype=object)[order],
        features_ND=None if features_ND is None else np.asarray(features_ND, np.float32)[order],
        columns={
            name: np.asarray(value_N, np.float64)[order]
            for name, value_N in (columns or {}).items()
        },
    )


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
    """What a method reads.

    Attributes:
        columns: by name; every sample must have a value.
        columns_with_gaps: by name; NaN says that a sample has no such value, but not of all.
        features: whether it reads the features.
    """

    columns: tuple[str, ...] = ()
    columns_with_gaps: tuple[str, ...] = ()
    features: bool = False


@dataclass(frozen=True, slots=True)
class Method:
    """One entry of the registry.

    Attributes:
        name: value of ``select.method``.
        title: for tables and plots.
        source: paper or release that it comes from.
        settings: its config section; holds ``method`` and its own parameters.
        select: the function; where ``reports_picks``, with ``progress`` as a fifth argument.
        needs: what it reads under the given settings.
        own_size: how many to keep where neither budget nor ratio is set and ``settings.count``
            leaves that to the values in the pool.
        reports_picks: whether ``select`` tells ``progress`` the number of picks made.
        seeded: whether the seed can change a pick, given the pool and the settings.
    """

    name: str
    title: str
    source: str
    settings: type[MethodSettings]
    select: Callable[..., Selection]
    needs: Callable[[Any], Needs]
    own_size: Callable[[Pool, Any], int] | None = None
    reports_picks: bool = False
    seeded: Callable[[Pool, Any], bool] = lambda pool, settings: True
