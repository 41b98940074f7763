"""The heat map of what the methods share."""

from __future__ import annotations

from dataclasses import dataclass

from selfilter_ray.compare.result import Comparison
from selfilter_ray.report.figures import MISSING, figure, share

CELL, LABELS, TOP = 40, 176, 26
LABEL_CHARACTERS = 18
FAINTEST = 0.06


@dataclass(frozen=True, slots=True)
class Cell:
    """One square; ``strength`` is the opacity of its colour, ``text`` its whole percent."""

    x: int
    y: int
    strength: float
    text: str
    title: str
    diagonal: bool


@dataclass(frozen=True, slots=True)
class OverlapMap:
    """All squares of side ``cell``, in pixels; rows are named, columns numbered."""

    width: int
    height: int
    labels: int
    top: int
    cell: int
    names: tuple[str, ...]
    cells: tuple[Cell, ...]


def overlap_map(comparison: Comparison) -> OverlapMap:
    """|A and B| / B as means over the seeds; the diagonal is between seeds of one method."""
    labels = comparison.overlap.labels
    places = range(len(labels))
    return OverlapMap(
        width=LABELS + CELL * len(labels),
        height=TOP + CELL * len(labels),
        labels=LABELS,
        top=TOP,
        cell=CELL,
        names=tuple(_short(label) for label in labels),
        cells=tuple(_cell(comparison, row, column) for row in places for column in places),
    )


def _cell(comparison: Comparison, row: int, column: int) -> Cell:
    overlap = comparison.overlap
    part, jaccard = overlap.share[row][column], overlap.jaccard[row][column]
    pair = (
        f"{overlap.labels[row]}, between seeds"
        if row == column
        else f"{overlap.labels[row]} and {overlap.labels[column]}"
    )
    known = MISSING if part is None else share(part, 1.0)
    return Cell(
        x=LABELS + CELL * column,
        y=TOP + CELL * row,
        strength=0.0 if part is None else FAINTEST + (1 - FAINTEST) * part,
        text="\u2013" if part is None else f"{100 * part:.0f}",
        title=f"{pair}: {known} in common, Jaccard {figure(jaccard)}",
        diagonal=row == column,
    )


def _short(label: str) -> str:
    if len(label) <= LABEL_CHARACTERS:
        return label
    return label[: LABEL_CHARACTERS - 1].rstrip() + "\u2026"
