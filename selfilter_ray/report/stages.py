"""What each stage did and how long it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfilter_ray.report.figures import count, is_number
from selfilter_ray.run_folder import STAGES


@dataclass(frozen=True, slots=True)
class StageRow:
    """One finished stage; ``rate`` is rows a second."""

    name: str
    rows: float | None
    seconds: float | None
    rate: float | None
    note: str


def stage_rows(stages: Mapping[str, Any]) -> list[StageRow]:
    """The finished stages of a manifest in the order they run in."""
    names = [name for name in STAGES if name in stages]
    names += [name for name in stages if name not in STAGES]
    return [_row(name, stages[name]) for name in names if isinstance(stages[name], Mapping)]


def _row(name: str, stage: Mapping[str, Any]) -> StageRow:
    rows, seconds = _number(stage.get("rows")), _number(stage.get("seconds"))
    rate = rows / seconds if rows is not None and seconds else None
    notes = [
        _counted(stage.get("steps"), "optimizer step"),
        _counted(stage.get("world_size"), "worker"),
    ]
    return StageRow(name, rows, seconds, rate, ", ".join(note for note in notes if note))


def _number(value: Any) -> float | None:
    return float(value) if is_number(value) else None


def _counted(value: Any, noun: str) -> str:
    if not is_number(value):
        return ""
    return f"{count(value)} {noun}" + ("" if value == 1 else "s")
