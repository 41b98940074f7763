"""The difficulty histogram: the pool before, the subset after, over the same bins."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from selfilter_ray.report.axis import (
    Axis,
    Floats,
    linear_axis,
    linear_ticks,
    nice_step,
    widen,
)
from selfilter_ray.report.figures import count, figure, share
from selfilter_ray.report.tables import mean

MOST_BINS = 30
FAR = 4.0


@dataclass(frozen=True, slots=True)
class Bin:
    """One bin. ``x`` and ``width`` are percent of the plot, the heights too."""

    x: float
    width: float
    pool: int
    chosen: int
    pool_height: float
    chosen_height: float
    title: str


@dataclass(frozen=True, slots=True)
class Histogram:
    """Both groups as shares of themselves, so that a small subset stays readable.

    ``outside`` records lie beyond the axis and are counted in the end bins. The means are
    percent of the x axis.
    """

    x: Axis
    y: Axis
    bins: tuple[Bin, ...]
    outside: int
    pool_mean: float | None
    chosen_mean: float | None


def difficulty_histogram(pool: Floats, chosen: Floats) -> Histogram | None:
    """Bin the difficulties of the pool ``[rows]`` and the subset ``[picks]``."""
    pool, chosen = pool[np.isfinite(pool)], chosen[np.isfinite(chosen)]
    if not pool.size:
        return None
    edges = _edges(pool)
    low, high = float(edges[0]), float(edges[-1])
    counts = [np.histogram(np.clip(part, low, high), edges)[0] for part in (pool, chosen)]
    shares = [100.0 * part / max(1, part.sum()) for part in counts]
    x = Axis("difficulty", low, high, linear_ticks(low, high, 7))
    y = linear_axis("share of records", 0.0, float(max(part.max() for part in shares)), 4, " %")
    return Histogram(
        x=x,
        y=y,
        bins=tuple(_bin(index, edges, counts, shares, y) for index in range(len(edges) - 1)),
        outside=int(((pool < low) | (pool > high)).sum()),
        pool_mean=_mean_place(x, pool),
        chosen_mean=_mean_place(x, chosen),
    )


def _edges(values: Floats) -> Floats:
    """Round edges. A few far values must not press all others into one bin."""
    low, high = widen(float(values.min()), float(values.max()))
    inner_low, inner_high = np.quantile(values, [0.005, 0.995])
    if inner_low < inner_high and high - low > FAR * (inner_high - inner_low):
        low, high = float(inner_low), float(inner_high)
    # fewer records, wider bins: otherwise a small pool looks like a comb
    step = nice_step(high - low, min(MOST_BINS, max(6, round(1.5 * math.sqrt(len(values))))))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return np.arange(first, last + 1, dtype=np.float64) * step


def _bin(index: int, edges: Floats, counts: list[np.ndarray], shares: list[Floats], y: Axis) -> Bin:
    span = edges[-1] - edges[0]
    pool, chosen = int(counts[0][index]), int(counts[1][index])
    heights = [100.0 * part[index] / y.high for part in shares]
    title = (
        f"difficulty {figure(edges[index])} to {figure(edges[index + 1])}: "
        f"pool {count(pool)} ({share(pool, counts[0].sum())}), "
        f"chosen {count(chosen)} ({share(chosen, counts[1].sum())})"
    )
    x, width = (edges[index] - edges[0]) / span, (edges[index + 1] - edges[index]) / span
    return Bin(100 * x, 100 * width, pool, chosen, heights[0], heights[1], title)


def _mean_place(x: Axis, values: Floats) -> float | None:
    value = mean(values)
    return None if value is None else float(np.clip(x.at(np.array(value)), 0.0, 100.0))
