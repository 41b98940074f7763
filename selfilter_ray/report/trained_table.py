"""The closed loop as a table: a row a method and budget, and a row a yardstick."""

from __future__ import annotations

from dataclasses import dataclass

from selfilter_ray.compare.trained.cells import YARDSTICKS
from selfilter_ray.compare.trained.result import Outcome, TrainedComparison, ranked
from selfilter_ray.compare.trained.statistics import Estimate
from selfilter_ray.compare.trained.terminal_table import named, shown
from selfilter_ray.report.compare_table import Heading, TableCell
from selfilter_ray.report.figures import figure, share

HEADINGS = {
    "accuracy": Heading("Accuracy, %", "held-out answers that the tuned model gives exactly"),
    "token_loss": Heading("Token loss", "mean loss of a held-out answer's tokens, in nats"),
}


@dataclass(frozen=True, slots=True)
class TrainedRow:
    """One outcome. ``number``: of the method on the page; 0 of a yardstick. ``name``: as shown."""

    number: int
    label: str
    name: str
    cells: tuple[TableCell, ...]


@dataclass(frozen=True, slots=True)
class TrainedTable:
    """A budget: its methods, best first."""

    budget: int
    steps: int
    rows: tuple[TrainedRow, ...]


def headings(comparison: TrainedComparison) -> tuple[Heading, ...]:
    """Of the columns behind the method's name."""
    groups = _group_names(comparison)
    planted = [
        Heading("Planted", "share of the picks that was planted into the pool as a fault"),
        Heading("Wanted", "share of the picks that a good selector wants"),
    ]
    return (
        HEADINGS[comparison.measure],
        Heading(
            "To random",
            "difference to random selection under the same seed; bold where its 95 % interval "
            "leaves out zero",
        ),
        Heading("Of the whole", "accuracy as a share of what the whole pool teaches"),
        *(planted if comparison.planted_in_pool is not None else ()),
        *(Heading(name, f"the same measure on held-out records of {name}") for name in groups),
        Heading("Selecting, s", "seconds of selecting alone"),
        Heading("Tuning, s", "seconds of one tuning"),
    )


def trained_tables(comparison: TrainedComparison) -> list[TrainedTable]:
    """One for each budget."""
    number = {label: place for place, label in enumerate(comparison.labels, start=1)}
    return [
        TrainedTable(
            budget,
            comparison.steps.get(budget, 0),
            tuple(
                TrainedRow(
                    number[outcome.label],
                    outcome.label,
                    named(comparison, outcome),
                    _cells(comparison, outcome),
                )
                for outcome in ranked(comparison, budget)
            ),
        )
        for budget in comparison.budgets
    ]


def yardsticks(comparison: TrainedComparison) -> list[TrainedRow]:
    """The whole pool, the same without pictures, and the model as it was."""
    found = [comparison.outcome(label) for label in YARDSTICKS.values()]
    return [
        TrainedRow(0, outcome.label, named(comparison, outcome), _cells(comparison, outcome))
        for outcome in found
        if outcome is not None
    ]


def _cells(comparison: TrainedComparison, outcome: Outcome) -> tuple[TableCell, ...]:
    groups = outcome.groups["by_question_type"] or outcome.groups["by_source"]
    planted = [_percent(outcome.planted), _percent(outcome.precision)]
    return (
        _cell(comparison, comparison.main(outcome)),
        _cell(comparison, outcome.to_random[comparison.measure], sign=True),
        _percent(outcome.of_whole),
        *(planted if comparison.planted_in_pool is not None else ()),
        *(
            _cell(comparison, groups.get(name, Estimate(mean=None, half=None, seeds=0)))
            for name in _group_names(comparison)
        ),
        _seconds(outcome.selecting),
        _seconds(outcome.tuning),
    )


def _group_names(comparison: TrainedComparison) -> list[str]:
    cut = "by_question_type"
    if not any(outcome.groups[cut] for outcome in comparison.outcomes):
        cut = "by_source"
    names = sorted({name for outcome in comparison.outcomes for name in outcome.groups[cut]})
    return names if len(names) > 1 else []


def _cell(comparison: TrainedComparison, value: Estimate, sign: bool = False) -> TableCell:
    text, _, half = shown(comparison, value, sign).partition(" \u00b1 ")
    return TableCell(value.mean, text, half)


def _percent(value: Estimate) -> TableCell:
    return TableCell(value.mean, "" if value.mean is None else share(value.mean, 1.0))


def _seconds(value: Estimate) -> TableCell:
    return TableCell(value.mean, "" if value.mean is None else figure(value.mean))
