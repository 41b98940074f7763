"""Small multiples: how one number is distributed in the pool and among each method's picks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfilter_ray.compare.result import Comparison
from selfilter_ray.report.figures import count, figure

SHARE_OF_BIN = {"pool": 0.92, "chosen": 0.56}


@dataclass(frozen=True, slots=True)
class Panel:
    """One method: bars as SVG path data in a plot of 1000 by 1000."""

    number: int
    label: str
    path: str
    mean: float | None


@dataclass(frozen=True, slots=True)
class Panels:
    """All methods over the same bins and the same height.

    Attributes:
        pool_path: bars of the pool, drawn behind those of each method.
        ticks: texts of the first edge, the middle one and the last.
        growing: whether the bins grow from left to right.
    """

    panels: tuple[Panel, ...]
    pool_path: str
    pool_mean: float | None
    ticks: tuple[str, str, str]
    growing: bool


def panels(comparison: Comparison, column: str, metric: str) -> Panels | None:
    """The panels of ``column``, whose mean is ``metric``; None when the pool does not know it."""
    edges = comparison.pool.edges.get(column)
    if edges is None:
        return None
    pool = comparison.pool.shares[column]
    highest = max(max(part) for part in (pool, *(m.shares[column] for m in comparison.methods)))
    width = np.diff(edges)
    return Panels(
        panels=tuple(
            Panel(
                number,
                method.label,
                _bars(method.shares[column], highest, SHARE_OF_BIN["chosen"]),
                method.metrics[metric].mean,
            )
            for number, method in enumerate(comparison.methods, start=1)
        ),
        pool_path=_bars(pool, highest, SHARE_OF_BIN["pool"]),
        pool_mean=comparison.pool.metrics.get(metric),
        ticks=_ticks(edges),
        growing=bool(width.max() > 1.5 * width.min()),
    )


def _bars(shares: Sequence[float], highest: float, part: float) -> str:
    """A bar for each bin that is not empty, ``part`` of the bin wide."""
    step = 1000 / len(shares)
    path = ""
    for index, share in enumerate(shares):
        if share > 0:
            height = 1000 * share / highest
            left = step * (index + (1 - part) / 2)
            path += f"M{left:.1f} 1000v{-height:.1f}h{step * part:.1f}v{height:.1f}z"
    return path


def _ticks(edges: Sequence[float]) -> tuple[str, str, str]:
    between = all(edge % 1 == 0.5 for edge in edges)  # of whole numbers: name the first inside
    low, middle, high = edges[0], edges[len(edges) // 2], edges[-1]
    if between:
        return count(low + 0.5), count(middle + 0.5), count(high - 0.5)
    return figure(low), figure(middle), figure(high)
