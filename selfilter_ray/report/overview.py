"""The key numbers of a run and its one-line summary."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from selfilter_ray.report.correlation import section
from selfilter_ray.report.figures import count, figure, is_number, share
from selfilter_ray.report.quarantine import Reason
from selfilter_ray.report.tables import RunTables, mean
from selfilter_ray.select.registry import METHODS


@dataclass(frozen=True, slots=True)
class Overview:
    """Record counts and mean difficulties (None where unknown).

    ``method`` is the title of the method that chose, empty for Self-Filter; ``stage1`` says whether
    there are difficulties to show, or may have been.
    """

    read: int
    usable: int
    quarantined: int
    chosen: int
    pool_difficulty: float | None
    chosen_difficulty: float | None
    method: str
    stage1: bool

    @property
    def summary(self) -> str:
        """One line for the top of the page."""
        parts = [f"{count(self.chosen)} of {count(self.usable)} records chosen"]
        if self.usable:
            parts[0] += f" ({share(self.chosen, self.usable)})"
        if self.method:
            parts[0] += f" by {self.method}" + ("" if self.stage1 else " without Stage 1")
        if self.pool_difficulty is not None and self.chosen_difficulty is not None:
            before, after = figure(self.pool_difficulty), figure(self.chosen_difficulty)
            parts.append(f"mean difficulty {before} in the pool and {after} among the chosen")
        if self.quarantined:
            parts.append(f"{count(self.quarantined)} of {count(self.read)} read were not usable")
        return ", ".join(parts) + "."


def overview(manifest: Mapping[str, Any], tables: RunTables, reasons: list[Reason]) -> Overview:
    """Count from the tables; what they do not hold comes from the manifest."""
    counts = section(manifest, "counts")
    quarantined = sum(reason.count for reason in reasons)
    read: Any = counts.get("in")
    stages = section(manifest, "stages")
    method = METHODS.get(str(section(stages, "select").get("method", "")))
    other = method is not None and method.name != "selfilter"
    return Overview(
        read=int(read) if is_number(read) else tables.rows + quarantined,
        usable=tables.rows,
        quarantined=quarantined,
        chosen=tables.picks,
        pool_difficulty=mean(tables.difficulty),
        chosen_difficulty=mean(tables.difficulty[tables.chosen]),
        method=method.title if method is not None and other else "",
        stage1=not other or "train" in stages,
    )
