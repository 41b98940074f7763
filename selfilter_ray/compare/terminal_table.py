"""The comparison in a terminal: one row a method, in as many tables as its width asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfilter_ray.compare.result import Comparison, MethodResult, Spread

LABEL_WIDTH = 28
# A cell's padding and its share of the rules between the columns.
EDGE = 3


@dataclass(frozen=True, slots=True)
class _Column:
    """A title and, for each method, a text; empty where the value is not known."""

    title: str
    cells: list[str]

    @property
    def width(self) -> int:
        return max(len(text) for text in (self.title, *self.cells)) + EDGE


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print the table, what failed, and which methods do not depend on the seed.

    Columns that do not fit beside each other go to a further table with the labels again.
    """
    labels = [Text(printable(method.label)) for method in comparison.methods]
    for label in labels:
        label.truncate(min(LABEL_WIDTH, console.width // 3), overflow="ellipsis")
    room = console.width - max(label.cell_len for label in [*labels, Text("method")]) - EDGE - 1
    for number, part in enumerate(_fitting(_columns(comparison), room)):
        title = Text("Comparison, continued" if number else _title(comparison))
        table = Table(title=title, title_justify="left")
        table.add_column("method", no_wrap=True)
        for column in part:
            table.add_column(column.title, justify="right", no_wrap=True)
        for row, label in enumerate(labels):
            table.add_row(label, *(column.cells[row] for column in part))
        console.print(table)
    for line in _notes(comparison):
        console.print(printable(line), markup=False, highlight=False)


def printable(text: str) -> str:
    """One line without characters that could steer a terminal."""
    return "".join(mark if mark.isprintable() else " " for mark in text)


def _columns(comparison: Comparison) -> list[_Column]:
    """The columns that at least one method has a value for."""

    def metric(title: str, name: str, digits: int) -> _Column:
        return column(
            title, lambda method: _spread(method.metrics[name], digits, method.same_picks)
        )

    def column(title: str, cell: Callable[[MethodResult], str]) -> _Column:
        return _Column(title, [cell(method) for method in comparison.methods])

    columns = [
        metric("coverage", "coverage", 3),
        metric("redundancy", "redundancy", 3),
        metric("difficulty", "difficulty", 3),
        metric("length shift", "length_shift", 1),
        metric("source KL", "source_kl", 4),
        column("seconds", lambda method: _spread(method.seconds, 2)),
        column(
            "as random", lambda method: _percent(comparison.overlap_with_reference(method.label))
        ),
        column("seed to seed", lambda method: _percent(comparison.stability(method.label))),
    ]
    return [column for column in columns if any(column.cells)]


def _fitting(columns: list[_Column], width: int) -> Iterator[list[_Column]]:
    """Runs of columns that fit into ``width``; each has at least one."""
    part: list[_Column] = []
    for column in columns:
        if part and sum(other.width for other in part) + column.width > width:
            yield part
            part = []
        part.append(column)
    yield part


def _notes(comparison: Comparison) -> Iterator[str]:
    alike = [method.label for method in comparison.methods if method.same_picks]
    if alike:
        yield f"Same picks for every seed: {', '.join(alike)}."
    for failure in comparison.failures:
        seeds = ", ".join(str(seed) for seed in failure.seeds)
        yield f"Failed: {failure.label}, seed {seeds}: {failure.message}"


def _title(comparison: Comparison) -> str:
    seeds = len(comparison.seeds)
    spread = "1 seed" if seeds == 1 else f"mean \u00b1 std of {seeds} seeds"
    return f"{comparison.budget:,} of {comparison.pool.rows:,} records, {spread}"


def _spread(value: Spread, digits: int, same_picks: bool | None = None) -> str:
    """Without a spread where there cannot be one."""
    if value.mean is None:
        return ""
    text = f"{value.mean:,.{digits}f}"
    return text if value.std is None or same_picks else f"{text} \u00b1 {value.std:.{digits}f}"


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"
