"""What a person sees in a terminal: progress of long work, and the tables at the end.

Progress bars are drawn on a terminal only; in a log file there is one line a stage.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from selfilter_ray.telemetry.logs import chosen_format

log = logging.getLogger(__name__)


class Terminal:
    """Where a run reports to. ``quiet`` says nothing at all."""

    def __init__(self, quiet: bool = False) -> None:
        # Where log lines are asked for, they say it all, and nothing may stand between them.
        quiet_beside = quiet or chosen_format() is not None
        self.console = Console(stderr=True, quiet=quiet_beside, highlight=False)
        self.output = Console(quiet=quiet, highlight=False)

    def say(self, message: str) -> None:
        self.console.print(message, markup=False)
        log.info(message)

    @contextmanager
    def stage(self, name: str, unit: str, total: int | None) -> Iterator[Callable[[int], None]]:
        """Time a stage; yields what is told the progress in units."""
        columns = (
            TextColumn("[bold]{task.description:<10}"),
            BarColumn(),
            TaskProgressColumn(),
            MofNCompleteColumn(),
            TextColumn(unit),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        began = time.monotonic()
        bar = Progress(
            *columns, console=self.console, disable=not self.console.is_terminal, transient=True
        )
        with bar:
            task = bar.add_task(name, total=total)
            yield lambda amount: bar.advance(task, amount)
        seconds = time.monotonic() - began
        self.console.print(f"{name}: finished in {seconds:.1f} s", markup=False)

    def summary(self, manifest: dict[str, Any]) -> None:
        """The tables that end every command: rows in and out, and the stages."""
        self.counts(manifest.get("counts", {}))
        stages = Table(title="Stages", title_justify="left")
        stages.add_column("stage")
        for column in ("rows", "seconds", "rows/s"):
            stages.add_column(column, justify="right")
        for name, record in manifest["stages"].items():
            rows, seconds = record["rows"], record["seconds"]
            rate = f"{rows / seconds:,.1f}" if seconds > 0 else ""
            stages.add_row(name, f"{rows:,}", f"{seconds:,.1f}", rate)
        self.output.print(stages)

    def counts(self, counts: dict[str, Any]) -> None:
        """Rows in = out + quarantined + left out by the limit."""
        if not counts:
            return
        quarantined = counts["quarantined"]
        table = Table(title="Rows", title_justify="left")
        table.add_column("")
        table.add_column("rows", justify="right")
        table.add_row("in", f"{counts['in']:,}")
        table.add_row("out", f"{counts['out']:,}")
        if counts["left_out_by_limit"]:
            table.add_row("left out by data.limit", f"{counts['left_out_by_limit']:,}")
        table.add_row("quarantined", f"{sum(quarantined.values()):,}")
        for reason, rows in quarantined.items():
            table.add_row(f"  {reason}", f"{rows:,}", style="yellow")
        self.output.print(table)
        for key, text in (
            ("ids_made", "had no id and got one from their content"),
            ("ids_made_unique", "shared an id with other content and got a suffix"),
        ):
            if counts[key]:
                self.output.print(f"{counts[key]:,} records {text}.")
