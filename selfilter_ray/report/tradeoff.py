"""Coverage against redundancy: one numbered mark a method."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from selfilter_ray.compare.result import Comparison, MethodResult
from selfilter_ray.report.axis import Axis, Floats, linear_axis
from selfilter_ray.report.figures import figure

# Room of a number beside its mark, in percent of the plot as it is on a phone.
NUMBER_WIDTH, NUMBER_HEIGHT = 7.5, 7.5
MARK_SIZE = 4.0
RINGS, DIRECTIONS = 7, 16


@dataclass(frozen=True, slots=True)
class Mark:
    """A method, in percent of the plot from the left top.

    ``left`` to ``right`` and ``top`` to ``bottom`` are one standard deviation around the mean.
    """

    number: int
    x: float
    y: float
    left: float
    right: float
    top: float
    bottom: float
    title: str
    reference: bool


@dataclass(frozen=True, slots=True)
class Tradeoff:
    """The plot. ``numbers``: where the number of each mark stands, in percent."""

    x: Axis
    y: Axis
    marks: tuple[Mark, ...]
    numbers: tuple[tuple[float, float], ...]


def tradeoff(comparison: Comparison) -> Tradeoff | None:
    """Draw the methods whose coverage and redundancy are known; None when there is none."""
    numbered = [
        (number, method)
        for number, method in enumerate(comparison.methods, start=1)
        if _has(method, "redundancy") and _has(method, "coverage")
    ]
    if not numbered:
        return None
    across = [_range(method, "redundancy") for _, method in numbered]
    up = [_range(method, "coverage") for _, method in numbered]
    x, y = (_axis(name, parts) for name, parts in (("redundancy", across), ("coverage", up)))
    places = np.array(
        [
            (float(x.at(np.array(middle))), 100 - float(y.at(np.array(height))))
            for (_, middle, _), (_, height, _) in zip(across, up, strict=True)
        ]
    )
    beside = spread_numbers(places)
    marks = [
        _mark(comparison, number, method, (x.at(np.array(across[row])), y.at(np.array(up[row]))))
        for row, (number, method) in enumerate(numbered)
    ]
    return Tradeoff(x, y, tuple(marks), tuple((float(left), float(top)) for left, top in beside))


def _mark(
    comparison: Comparison, number: int, method: MethodResult, places: tuple[Floats, Floats]
) -> Mark:
    (left, x, right), (low, y, high) = (place.tolist() for place in places)
    coverage, redundancy = (method.metrics[name].mean for name in ("coverage", "redundancy"))
    return Mark(
        number=number,
        x=x,
        y=100 - y,
        left=left,
        right=right,
        top=100 - high,
        bottom=100 - low,
        title=f"{method.label}: coverage {figure(coverage)}, redundancy {figure(redundancy)}",
        reference=method.label == comparison.reference,
    )


def spread_numbers(marks: np.ndarray) -> np.ndarray:
    """Where the numbers of marks stand so that none lies on another or on a mark.

    Args:
        marks: (M, 2) in percent.

    Returns:
        (M, 2): of the places around each mark, nearest first, the first one that is free.
    """
    placed: list[tuple[float, float]] = []
    for x, y in marks:
        places = [(x + dx, y + dy) for dx, dy in _around()]
        inside = [place for place in places if -4 <= place[0] <= 104 and -4 <= place[1] <= 97]
        placed.append(min(inside, key=lambda place: _crowding(place, placed, marks)))
    return np.array(placed)


def _around() -> list[tuple[float, float]]:
    """Steps from a mark, ring by ring, beginning at the upper right."""
    rings = itertools.product(range(RINGS), range(DIRECTIONS))
    return [
        (
            (1 + 0.8 * ring) * NUMBER_WIDTH * math.cos(2 * math.pi * turn / DIRECTIONS + 0.785),
            -(1 + 0.8 * ring) * NUMBER_HEIGHT * math.sin(2 * math.pi * turn / DIRECTIONS + 0.785),
        )
        for ring, turn in rings
    ]


def _crowding(
    place: tuple[float, float], placed: list[tuple[float, float]], marks: np.ndarray
) -> float:
    """How far a number at ``place`` would cover others; 0 when it is free."""
    found = 0.0
    for other, width, height in (
        *((other, NUMBER_WIDTH, NUMBER_HEIGHT) for other in placed),
        *(
            (mark, (NUMBER_WIDTH + MARK_SIZE) / 2, (NUMBER_HEIGHT + MARK_SIZE) / 2)
            for mark in marks
        ),
    ):
        across = width - abs(place[0] - other[0])
        down = height - abs(place[1] - other[1])
        found += max(0.0, across) * max(0.0, down)
    return found


def _has(method: MethodResult, name: str) -> bool:
    return name in method.metrics and method.metrics[name].mean is not None


def _range(method: MethodResult, name: str) -> tuple[float, float, float]:
    """Mean less one standard deviation, mean, and mean with it."""
    spread = method.metrics[name]
    mean, std = spread.mean or 0.0, spread.std or 0.0
    return mean - std, mean, mean + std


def _axis(name: str, parts: list[tuple[float, float, float]]) -> Axis:
    return linear_axis(name, min(part[0] for part in parts), max(part[2] for part in parts), 4)
