"""The main table of the comparison: one row a method, each cell with the value it is sorted by."""

from __future__ import annotations

from dataclasses import dataclass

from selfilter_ray.compare.metrics import METRICS
from selfilter_ray.compare.result import Comparison, MethodResult, Spread
from selfilter_ray.report.figures import figure, share

PERCENT = {"near_duplicates", "duplicates", "overlap"}


@dataclass(frozen=True, slots=True)
class Heading:
    """A column's title and what it says."""

    title: str
    says: str


@dataclass(frozen=True, slots=True)
class TableCell:
    """``value`` is None where nothing is known; ``std`` is empty with one seed."""

    value: float | None
    text: str
    std: str = ""


@dataclass(frozen=True, slots=True)
class TableRow:
    """One method."""

    number: int
    label: str
    title: str
    same_picks: bool
    reference: bool
    cells: tuple[TableCell, ...]


@dataclass(frozen=True, slots=True)
class CompareTable:
    """Columns of which nothing is known are left out; ``pool`` is the first row."""

    headings: tuple[Heading, ...]
    pool: tuple[TableCell, ...]
    rows: tuple[TableRow, ...]


def compare_table(comparison: Comparison) -> CompareTable:
    """All metrics, overlap with random, overlap between seeds, and seconds."""
    headings = [Heading(metric.title, metric.says) for metric in METRICS] + [
        Heading("Random", "share of the picks that random selection has, too"),
        Heading("Seeds", "share of the picks that two seeds have in common"),
        Heading("Seconds", "time of selecting alone"),
    ]
    cells = [_cells(comparison, method) for method in comparison.methods]
    pool = _pool_cells(comparison)
    shown = [
        column
        for column in range(len(headings))
        if any(row[column].value is not None for row in (*cells, pool))
    ]
    rows = [
        TableRow(
            number=number,
            label=method.label,
            title=method.title,
            same_picks=bool(method.same_picks),
            reference=method.label == comparison.reference,
            cells=tuple(row[column] for column in shown),
        )
        for number, (method, row) in enumerate(zip(comparison.methods, cells, strict=True), start=1)
    ]
    return CompareTable(
        tuple(headings[column] for column in shown),
        tuple(pool[column] for column in shown),
        tuple(rows),
    )


def _cells(comparison: Comparison, method: MethodResult) -> list[TableCell]:
    cells = [_cell(_known_spread(method, metric.name), metric.name) for metric in METRICS]
    for part in (
        comparison.overlap_with_reference(method.label),
        comparison.stability(method.label),
    ):
        cells.append(_cell(Spread(mean=part, std=None), "overlap"))
    return [*cells, _cell(method.seconds)]


def _known_spread(method: MethodResult, name: str) -> Spread:
    """Without a standard deviation where there cannot be a spread."""
    spread = method.metrics[name]
    return Spread(mean=spread.mean, std=None) if method.same_picks else spread


def _pool_cells(comparison: Comparison) -> list[TableCell]:
    known = [comparison.pool.metrics.get(metric.name) for metric in METRICS]
    return [_cell(Spread(mean=value, std=None)) for value in (*known, None, None, None)]


def nats(divergence: float | None) -> str:
    """A divergence, whose small values are noise: ``0.0123``."""
    return "" if divergence is None else f"{divergence:.4f}"


def _cell(spread: Spread, name: str = "") -> TableCell:
    mean, std = spread.mean, spread.std
    if mean is None:
        return TableCell(None, "")
    if name in PERCENT:
        return TableCell(mean, share(mean, 1.0), "" if std is None else f"{100 * std:.1f}")
    text = nats(mean) if name == "source_kl" else figure(mean)
    # more decimals than the mean has, and one, would say nothing
    decimals = len(text.partition(".")[2]) + 1
    return TableCell(mean, text, "" if std is None else _at_most(std, decimals))


def _at_most(value: float, decimals: int) -> str:
    text = figure(value, 2)
    return text if len(text.partition(".")[2]) <= decimals else f"{value:.{decimals}f}"
