"""What methods taught a model, against how many records they chose: one line a method."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from selfilter_ray.compare.trained.cells import BLIND, FRESH, WHOLE
from selfilter_ray.compare.trained.result import Outcome, TrainedComparison
from selfilter_ray.compare.trained.statistics import Estimate
from selfilter_ray.compare.trained.terminal_table import shown
from selfilter_ray.report.axis import Axis, Tick, linear_axis
from selfilter_ray.report.figures import count, share
from selfilter_ray.report.tradeoff import spread_numbers

AXES = {"accuracy": "accuracy, %", "token_loss": "token loss, nats"}
MARGIN = 1.25  # by which the axis goes beyond the budgets, as a factor


@dataclass(frozen=True, slots=True)
class Point:
    """A budget of a method, in percent of the plot from the left top.

    ``top`` to ``bottom`` is the 95 % interval, or a point where there is one seed.
    """

    x: float
    y: float
    top: float
    bottom: float
    title: str


@dataclass(frozen=True, slots=True)
class Line:
    """A method. ``place``: of its number, beside its last point."""

    number: int
    label: str
    points: tuple[Point, ...]
    reference: bool
    place: tuple[float, float] = (0.0, 0.0)

    @property
    def path(self) -> str:
        """In units of a thousandth of the plot."""
        return "M" + "L".join(f"{10 * point.x:.1f} {10 * point.y:.1f}" for point in self.points)


@dataclass(frozen=True, slots=True)
class Level:
    """A yardstick: a line across the plot."""

    y: float
    label: str
    title: str


@dataclass(frozen=True, slots=True)
class TrainedChart:
    """The plot."""

    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    levels: tuple[Level, ...]


def trained_chart(comparison: TrainedComparison) -> TrainedChart | None:
    """Draw what is known; None when no method has a result."""
    outcomes = [
        (label, [o for budget in comparison.budgets if (o := _known(comparison, label, budget))])
        for label in comparison.labels
    ]
    levels = [
        (label, outcome)
        for label in (WHOLE, BLIND, FRESH)
        if (outcome := _known(comparison, label, None)) is not None
    ]
    every = [outcome for _, found in outcomes for outcome in found]
    if not every:
        return None
    x, y = _budgets(comparison), _measures(comparison, every, [one for _, one in levels])
    lines = [
        Line(
            number,
            label,
            tuple(_point(comparison, outcome, x, y) for outcome in found),
            label == comparison.reference,
        )
        for number, (label, found) in enumerate(outcomes, start=1)
        if found
    ]
    return TrainedChart(x, y, _numbered(lines), _levels(comparison, levels, y))


def _known(comparison: TrainedComparison, label: str, budget: int | None) -> Outcome | None:
    outcome = comparison.outcome(label, budget)
    return None if outcome is None or comparison.main(outcome).mean is None else outcome


def _budgets(comparison: TrainedComparison) -> Axis:
    low, high = comparison.budgets[0] / MARGIN, comparison.budgets[-1] * MARGIN
    bare = Axis("records chosen", low, high, (), logarithmic=True)
    places = bare.at(np.array(comparison.budgets, dtype=np.float64))
    ticks = tuple(
        Tick(float(at), f"{count(budget)} ({share(budget, comparison.rows)})")
        for at, budget in zip(places, comparison.budgets, strict=True)
    )
    return replace(bare, ticks=ticks)


def _measures(
    comparison: TrainedComparison, outcomes: list[Outcome], levels: list[Outcome]
) -> Axis:
    """Over all intervals of the methods and all yardsticks but the fresh model, if that is far."""
    ends = [end for outcome in outcomes for end in _ends(comparison, comparison.main(outcome))]
    ends += [comparison.main(outcome).mean or 0.0 for outcome in levels if outcome.label != FRESH]
    factor = _factor(comparison)
    return linear_axis(AXES[comparison.measure], factor * min(ends), factor * max(ends))


def _levels(
    comparison: TrainedComparison, levels: list[tuple[str, Outcome]], y: Axis
) -> tuple[Level, ...]:
    found = []
    for label, outcome in levels:
        at = float(y.at(np.array(_factor(comparison) * (comparison.main(outcome).mean or 0.0))))
        if 0 <= at <= 100:
            title = f"{label}: {shown(comparison, comparison.main(outcome))}"
            found.append(Level(100 - at, label, title))
    return tuple(found)


def _point(comparison: TrainedComparison, outcome: Outcome, x: Axis, y: Axis) -> Point:
    value, factor = comparison.main(outcome), _factor(comparison)
    low, high = _ends(comparison, value)
    below, at, above = y.at(factor * np.array([low, value.mean or 0.0, high]))
    title = (
        f"{outcome.label}, {count(outcome.budget)} records: {shown(comparison, value)}"
        f" ({value.seeds} seed{'' if value.seeds == 1 else 's'})"
    )
    across = float(x.at(np.array(float(outcome.budget))))
    return Point(across, 100 - float(at), 100 - float(above), 100 - float(below), title)


def _numbered(lines: list[Line]) -> tuple[Line, ...]:
    if not lines:
        return ()
    ends = np.array([(line.points[-1].x, line.points[-1].y) for line in lines])
    places = spread_numbers(ends)
    return tuple(
        replace(line, place=(float(left), float(top)))
        for line, (left, top) in zip(lines, places, strict=True)
    )


def _ends(comparison: TrainedComparison, value: Estimate) -> tuple[float, float]:
    """Of the interval, as far as the measure can go."""
    mean, half = value.mean or 0.0, value.half or 0.0
    most = 1.0 if comparison.measure == "accuracy" else math.inf
    return max(0.0, mean - half), min(most, mean + half)


def _factor(comparison: TrainedComparison) -> float:
    return 100.0 if comparison.measure == "accuracy" else 1.0
