"""Axes of the charts: round ticks and positions in percent of the plot."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tick:
    """One mark: its place in percent of the axis and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A labelled axis from ``low`` to ``high``, in data units."""

    label: str
    low: float
    high: float
    ticks: tuple[Tick, ...]
    logarithmic: bool = False

    def at(self, values: Floats) -> Floats:
        """Places of ``values`` in percent of the axis, same shape."""
        return place(values, self.low, self.high, self.logarithmic)


def place(values: Floats, low: float, high: float, logarithmic: bool = False) -> Floats:
    """Places of ``values`` in percent between ``low`` and ``high``."""
    if logarithmic:
        values, low, high = np.log10(values), math.log10(low), math.log10(high)
    return np.asarray(100.0 * (values - low) / (high - low), dtype=np.float64)


def nice_step(span: float, parts: int) -> float:
    """The round number that cuts ``span`` in about ``parts``: 1, 2, 2.5 or 5 times 10^n."""
    rough = span / max(1, parts)
    power = 10.0 ** math.floor(math.log10(rough))
    for factor in (1.0, 2.0, 2.5, 5.0):
        if rough <= factor * power * (1 + 1e-9):
            return factor * power
    return 10.0 * power


def widen(low: float, high: float) -> tuple[float, float]:
    """The same range, or one around a single value: an axis needs a length."""
    if high - low > 1e-9 * max(abs(low), abs(high), 1e-30):
        return low, high
    margin = 0.5 * abs(low) or 0.5
    return low - margin, high + margin


def linear_axis(label: str, low: float, high: float, parts: int = 5, unit: str = "") -> Axis:
    """An axis over at least ``low`` to ``high``, ending on round ticks."""
    low, high = widen(low, high)
    step = nice_step(high - low, parts)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    values = [index * step for index in range(first, last + 1)]
    return Axis(label, values[0], values[-1], _ticks(values, values[0], values[-1], step, unit))


def linear_ticks(low: float, high: float, parts: int = 5) -> tuple[Tick, ...]:
    """Round ticks that lie within ``low`` to ``high``."""
    step = nice_step(high - low, parts)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return _ticks([index * step for index in range(first, last + 1)], low, high, step, "")


def _ticks(
    values: list[float], low: float, high: float, step: float, unit: str
) -> tuple[Tick, ...]:
    places = place(np.array(values, dtype=np.float64), low, high)
    return tuple(
        Tick(float(at), _text(value, step) + unit) for at, value in zip(places, values, strict=True)
    )


def log_axis(label: str, low: float, high: float) -> Axis:
    """A logarithmic axis over ``low`` to ``high`` (both above 0) with ticks at 1, 2 and 5."""
    low, high = low / 1.15, high * 1.15
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for factors in ((1, 2, 5), (1, 3), (1,)):
        marks = [factor * 10.0**power for power in decades for factor in factors]
        marks = [mark for mark in marks if low <= mark <= high]
        if len(marks) <= 7:
            break
    places = place(np.array(marks, dtype=np.float64), low, high, logarithmic=True)
    ticks = tuple(
        Tick(float(at), _text(mark, mark)) for at, mark in zip(places, marks, strict=True)
    )
    return Axis(label, low, high, ticks, logarithmic=True)


def _text(value: float, step: float) -> str:
    if value != 0 and not 1e-4 <= abs(value) < 1e7:
        return f"{value:.3g}".replace("-", "\u2212")
    decimals = max(0, -math.floor(math.log10(step)))
    if abs(round(step, decimals) - step) > 1e-9 * step:
        decimals += 1
    text = f"{value:,.{decimals}f}"
    return text.replace("-", "\u2212") if float(text.replace(",", "")) != 0 else text.lstrip("-")
