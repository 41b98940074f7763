"""The loss of Stage 1 over its optimizer steps, as it was weighted and without weights."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from selfilter_ray.report.axis import Axis, Floats, linear_axis, linear_ticks, widen
from selfilter_ray.report.figures import is_number
from selfilter_ray.report.tables import mean

POINTS = 160


@dataclass(frozen=True, slots=True)
class LossCurve:
    """Two lines as SVG path data in a plot of 1000 by 1000.

    Each point is the mean of ``steps_per_point`` optimizer steps. The losses are those of the
    first and the last point.
    """

    x: Axis
    y: Axis
    weighted_path: str
    plain_path: str
    steps: int
    steps_per_point: int
    first_loss: float | None
    last_loss: float | None


def loss_curve(metrics: Path) -> LossCurve | None:
    """Draw ``metrics.jsonl``; None when there is nothing to draw."""
    steps, weighted, plain = _read(metrics)
    if not (np.isfinite(weighted).any() or np.isfinite(plain).any()):
        return None
    grain = -(-len(steps) // POINTS)
    steps_of_points, weighted, plain = (_means(part, grain) for part in (steps, weighted, plain))
    losses = np.concatenate([weighted, plain])
    losses = losses[np.isfinite(losses)]
    low, high = widen(float(steps_of_points[0]), float(steps_of_points[-1]))
    x = Axis("optimizer step", low, high, linear_ticks(low, high))
    y = linear_axis("loss", float(losses.min()), float(losses.max()), 4)
    finite = weighted[np.isfinite(weighted)]
    return LossCurve(
        x=x,
        y=y,
        weighted_path=_line(x, y, steps_of_points, weighted),
        plain_path=_line(x, y, steps_of_points, plain),
        steps=len(steps),
        steps_per_point=grain,
        first_loss=float(finite[0]) if finite.size else None,
        last_loss=float(finite[-1]) if finite.size else None,
    )


def _read(metrics: Path) -> tuple[Floats, Floats, Floats]:
    """Step, weighted and plain loss, ``[steps]`` each.

    A run that went on from a checkpoint wrote some steps twice: the later line is the one that
    led to the result.
    """
    by_step = {line["step"]: line for line in _lines(metrics) if is_number(line.get("step"))}
    ordered = [by_step[step] for step in sorted(by_step)]
    columns = [
        [float(line[name]) if is_number(line.get(name)) else np.nan for line in ordered]
        for name in ("step", "loss", "plain_loss")
    ]
    steps, weighted, plain = (np.array(column, dtype=np.float64) for column in columns)
    return steps, weighted, plain


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if not path.exists():
        return
    with open(path, encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except ValueError:
                continue  # the last line of a run that was cut off
            if isinstance(line, dict):
                yield line


def _means(values: Floats, grain: int) -> Floats:
    """Mean of the finite values of every ``grain`` steps; NaN where there is none."""
    parts = [mean(values[start : start + grain]) for start in range(0, len(values), grain)]
    return np.array([np.nan if part is None else part for part in parts], dtype=np.float64)


def _line(x: Axis, y: Axis, steps: Floats, losses: Floats) -> str:
    """Path data; a step without a loss interrupts the line."""
    path, connected = "", False
    for left, top in zip(10 * x.at(steps), 1000 - 10 * y.at(losses), strict=True):
        if np.isfinite(top):
            path += f"{'L' if connected else 'M'}{left:.0f} {top:.0f}"
        connected = bool(np.isfinite(top))
    return path + "h0" if path else ""
