"""The closed loop in a terminal: a table a budget, the best method first, and the yardsticks."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from selfilter_ray.compare.terminal_table import LABEL_WIDTH, printable
from selfilter_ray.compare.trained.cells import YARDSTICKS
from selfilter_ray.compare.trained.result import Outcome, TrainedComparison, ranked
from selfilter_ray.compare.trained.statistics import Estimate

TITLES = {"accuracy": "accuracy", "token_loss": "token loss"}


def print_trained(console: Console, comparison: TrainedComparison) -> None:
    """Print what the methods taught the model, and which cells have no result."""
    for budget in comparison.budgets:
        console.print(_table(comparison, budget))
    yardsticks = [
        f"{label} {shown(comparison, comparison.main(outcome))}"
        for label in YARDSTICKS.values()
        if (outcome := comparison.outcome(label)) is not None
    ]
    unit = ", %" if comparison.measure == "accuracy" else ""
    line = f"{TITLES[comparison.measure]}{unit}: {'; '.join(yardsticks)}."
    console.print(line, highlight=False)
    for missing in comparison.missing:
        text = f"Failed: {missing.label}, {missing.budget}, seed {missing.seed}: {missing.message}"
        console.print(printable(text), markup=False, highlight=False)


def named(comparison: TrainedComparison, outcome: Outcome) -> str:
    """The label, and how many seeds there are where some are missing."""
    seeds = comparison.main(outcome).seeds
    return outcome.label + (
        "" if seeds == len(comparison.seeds) else f" ({seeds} seed{'' if seeds == 1 else 's'})"
    )


def shown(comparison: TrainedComparison, value: Estimate, sign: bool = False) -> str:
    """Mean and half of its interval; accuracy in percent."""
    if value.mean is None:
        return ""
    factor, digits = (100.0, 1) if comparison.measure == "accuracy" else (1.0, 4)
    plus = "+" if sign else ""
    text = f"{factor * value.mean:{plus}.{digits}f}"
    return text if value.half is None else f"{text} \u00b1 {factor * value.half:.{digits}f}"


def _table(comparison: TrainedComparison, budget: int) -> Table:
    seeds = len(comparison.seeds)
    title = (
        f"Tuned on {budget:,} of {comparison.rows:,} records, {comparison.steps.get(budget, 0):,} "
        f"steps, {seeds} seed{'' if seeds == 1 else 's'} "
        f"(\u00b1 half of a 95 % interval, * without 0)"
    )
    table = Table(title=title, title_justify="left")
    table.add_column("method", no_wrap=True, max_width=LABEL_WIDTH, overflow="ellipsis")
    columns = [TITLES[comparison.measure], "to random", "select s", "tune s"]
    if comparison.planted_in_pool is not None:
        columns.insert(2, "planted")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for outcome in ranked(comparison, budget):
        difference = outcome.to_random[comparison.measure]
        mark = " *" if difference.apart else ""
        cells = [
            shown(comparison, comparison.main(outcome)),
            shown(comparison, difference, sign=True) + mark,
            _seconds(outcome.selecting),
            _seconds(outcome.tuning),
        ]
        if comparison.planted_in_pool is not None:
            share = outcome.planted.mean
            cells.insert(2, "" if share is None else f"{100 * share:.1f}")
        table.add_row(Text(printable(named(comparison, outcome))), *cells)
    return table


def _seconds(value: Estimate) -> str:
    return "" if value.mean is None else f"{value.mean:.1f}"
