"""Difficulty against answer length: a seeded sample of the pool and of the subset."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from selfilter_ray.report.axis import Axis, Floats, linear_axis, log_axis
from selfilter_ray.report.tables import RunTables

POOL_POINTS, CHOSEN_POINTS = 1000, 500
WIDE_RANGE = 20.0
JITTER = 0.3  # tokens


@dataclass(frozen=True, slots=True)
class Scatter:
    """Points as SVG path data in a plot of 1000 by 1000.

    Attributes:
        pool_path: one zero-length stroke a record that was not chosen.
        chosen_path: the same for chosen records.
        pool_points: number of points in ``pool_path``, out of ``pool_rows``.
        chosen_points: number of points in ``chosen_path``, out of ``chosen_rows``.
    """

    x: Axis
    y: Axis
    pool_path: str
    chosen_path: str
    pool_points: int
    pool_rows: int
    chosen_points: int
    chosen_rows: int


def length_scatter(tables: RunTables, seed: int) -> Scatter | None:
    """Draw the records whose difficulty and answer length are known."""
    known = np.isfinite(tables.difficulty) & np.isfinite(tables.answer_tokens)
    if not known.any():
        return None
    generator = np.random.default_rng(seed)
    others, picks = np.flatnonzero(known & ~tables.chosen), np.flatnonzero(known & tables.chosen)
    pool_rows = _sample(others, POOL_POINTS, generator)
    chosen_rows = _sample(picks, CHOSEN_POINTS, generator)
    drawn = np.concatenate([pool_rows, chosen_rows])
    x = _length_axis(tables.answer_tokens[drawn])
    difficulty = tables.difficulty[drawn]
    y = linear_axis("difficulty", float(difficulty.min()), float(difficulty.max()), 7)
    return Scatter(
        x=x,
        y=y,
        pool_path=_path(x, y, tables, pool_rows),
        chosen_path=_path(x, y, tables, chosen_rows),
        pool_points=len(pool_rows),
        pool_rows=len(others),
        chosen_points=len(chosen_rows),
        chosen_rows=len(picks),
    )


def _sample(
    rows: NDArray[np.int64], size: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    if len(rows) <= size:
        return rows
    return np.sort(generator.choice(rows, size, replace=False))


def _length_axis(tokens: Floats) -> Axis:
    low, high = max(1.0, float(tokens.min())), max(1.0, float(tokens.max()))
    if high / low >= WIDE_RANGE:
        return log_axis("answer tokens, logarithmic", low, high)
    # Lengths are whole numbers: so are the ticks, with room for the jitter at both ends.
    first, last = float(tokens.min()) - 1.0, high + 1.0
    return linear_axis("answer tokens", first, last, min(5, int(last - first)))


def _path(x: Axis, y: Axis, tables: RunTables, rows: NDArray[np.int64]) -> str:
    tokens = tables.answer_tokens[rows]
    # Few distinct lengths would hide each other's points on one line.
    aside = np.random.default_rng(len(rows)).uniform(-JITTER, JITTER, len(rows))
    across = x.at(np.maximum(tokens, 1.0) if x.logarithmic else tokens + aside)
    down = 100.0 - y.at(tables.difficulty[rows])
    return "".join(
        f"M{round(10 * left)} {round(10 * top)}h0" for left, top in zip(across, down, strict=True)
    )
