"""What ``result.json`` holds: every method and budget over its seeds, and the yardsticks."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

from selfilter_ray.compare.stored import from_stored
from selfilter_ray.compare.trained.cells import WHOLE, Cell, Choice
from selfilter_ray.compare.trained.statistics import Estimate, estimate, paired

FORMAT = 1
Measure = Literal["accuracy", "token_loss"]
# Of how an evaluation is cut into groups: the name in the summary.
CUTS = ("by_source", "by_question_type")


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Outcome(_Part):
    """One method under one budget, or a yardstick.

    Attributes:
        measures: accuracy and token loss over the seeds.
        to_random: of both, the difference to random at the same budget, seed by seed.
        of_whole: accuracy as a share of the whole pool's, seed by seed; None where that is not
            known.
        groups: cut to group to its main measure.
        planted: share of the picks that is planted; None where no truth was given.
        precision: share of the picks that a good selector wants (``known_truth.truth``).
        selecting, tuning: seconds.
    """

    label: str
    budget: int
    measures: dict[str, Estimate]
    to_random: dict[str, Estimate]
    of_whole: Estimate
    groups: dict[str, dict[str, Estimate]]
    planted: Estimate
    precision: Estimate
    selecting: Estimate
    tuning: Estimate


class Missing(_Part):
    """A cell that has no result, and why; ``budget`` and ``seed`` as they were asked for."""

    label: str
    budget: int
    seed: int
    message: str


class TrainedComparison(_Part):
    """All of it.

    Attributes:
        rows: of the pool.
        held_out: samples that the models were evaluated on.
        steps: optimizer steps of a tuning, by budget.
        measure: what methods are ranked by: accuracy where answers are short, else the loss.
        reference: label of random selection.
        labels: of the methods, in the order of the config.
        outcomes: of methods and budgets, then of yardsticks.
        cost: label to what it needs before it can select: pass to seconds.
        facts: versions and machine.
    """

    format: int = FORMAT
    rows: int
    held_out: int
    seeds: list[int]
    budgets: list[int]
    steps: dict[int, int]
    measure: Measure
    reference: str
    labels: list[str]
    outcomes: list[Outcome]
    missing: list[Missing]
    planted_in_pool: float | None
    cost: dict[str, dict[str, float]]
    facts: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any) -> TrainedComparison:
        """The inverse of ``to_json``.

        Raises:
            ArtifactError: when it is none, or one of another version.
        """
        return from_stored(cls, value, FORMAT, "a comparison of tuned models")

    def outcome(self, label: str, budget: int | None = None) -> Outcome | None:
        """Of a method at a budget, or of a yardstick; None when there is no result."""
        for outcome in self.outcomes:
            if outcome.label == label and budget in (None, outcome.budget):
                return outcome
        return None

    def main(self, outcome: Outcome) -> Estimate:
        """Its main measure."""
        return outcome.measures[self.measure]

    @property
    def worth_more(self) -> int:
        """1 where more of the measure is better, -1 where less is."""
        return 1 if self.measure == "accuracy" else -1


def overall(result: Mapping[str, Any], measure: str) -> float | None:
    """A measure of one evaluated model over all held-out samples."""
    value: float | None = result["evaluation"]["overall"][measure]
    return value


def measure_of(results: Sequence[Mapping[str, Any]]) -> Measure:
    """Accuracy where at least half of the answers are short."""
    groups = [result["evaluation"]["overall"] for result in results]
    short = all(2 * group["short"] >= group["samples"] for group in groups)
    return "accuracy" if short and groups else "token_loss"


def outcomes_of(
    cells: Sequence[Cell],
    results: Mapping[str, Mapping[str, Any]],
    choices: Sequence[Choice],
    found: Mapping[tuple[str, int, int], Mapping[str, float | None]],
    measure: Measure,
    reference: str,
) -> list[Outcome]:
    """What cells with a result amount to, in the order in which they first come.

    Args:
        results: by key of the cell.
        choices: of the methods.
        found: of label, budget and seed: ``picked_share`` and ``precision`` of the picks.
    """
    seconds = {(c.label, c.budget, c.seed): c.seconds for c in choices}
    by_place: dict[tuple[str, int], dict[int, Mapping[str, Any]]] = {}
    for cell in cells:
        if cell.key in results:
            place = by_place.setdefault((cell.label, cell.budget), {})
            place[cell.seed] = results[cell.key]

    def values(label: str, budget: int, name: str) -> dict[int, float | None]:
        seeds = by_place.get((label, budget), {})
        return {seed: overall(result, name) for seed, result in seeds.items()}

    rows = max((budget for label, budget in by_place if label == WHOLE), default=0)
    whole = values(WHOLE, rows, "accuracy")
    outcomes = []
    for (label, budget), seeds in by_place.items():
        own = {name: values(label, budget, name) for name in ("accuracy", "token_loss")}
        against = {
            name: estimate([])
            if label == reference
            else paired(own[name], values(reference, budget, name))
            for name in own
        }
        shares = [
            value / whole[seed]  # type: ignore[operator]
            for seed, value in own["accuracy"].items()
            if value is not None and whole.get(seed)
        ]
        traced = [found.get((label, budget, seed), {}) for seed in seeds]
        outcomes.append(
            Outcome(
                label=label,
                budget=budget,
                measures={name: estimate(list(own[name].values())) for name in own},
                to_random=against,
                of_whole=estimate(shares),
                groups={cut: _groups(list(seeds.values()), cut, measure) for cut in CUTS},
                planted=estimate([one.get("picked_share") for one in traced]),
                precision=estimate([one.get("precision") for one in traced]),
                selecting=estimate([seconds.get((label, budget, seed)) for seed in seeds]),
                tuning=estimate([result["seconds"]["tune"] for result in seeds.values()]),
            )
        )
    return outcomes


def _groups(results: Sequence[Mapping[str, Any]], cut: str, measure: str) -> dict[str, Estimate]:
    names = sorted({name for result in results for name in result["evaluation"][cut]})
    return {
        name: estimate([result["evaluation"][cut].get(name, {}).get(measure) for result in results])
        for name in names
    }


def ranked(comparison: TrainedComparison, budget: int) -> list[Outcome]:
    """The methods at a budget, best first, random among them.

    By the difference to random, which is over the seeds that both have: one seed that is missing
    must not lift or lower a method. What is not known comes last.
    """

    def standing(outcome: Outcome) -> tuple[float, str]:
        if outcome.label == comparison.reference:
            return 0.0, outcome.label
        difference = outcome.to_random[comparison.measure].mean
        lost = math.inf if difference is None else -difference * comparison.worth_more
        return lost, outcome.label

    outcomes = [comparison.outcome(label, budget) for label in comparison.labels]
    return sorted((outcome for outcome in outcomes if outcome is not None), key=standing)


def picks_table(choices: Sequence[Choice], ids: Any) -> pa.Table:
    """Every pick: label, budget, seed, rank (from 0), id."""
    schema = pa.schema(
        [
            ("label", pa.string()),
            ("budget", pa.int64()),
            ("seed", pa.int64()),
            ("rank", pa.int64()),
            ("id", pa.string()),
        ]
    )
    pieces = [
        pa.table(
            [
                pa.repeat(choice.label, len(choice.rows)),
                pa.repeat(choice.budget, len(choice.rows)),
                pa.repeat(choice.seed, len(choice.rows)),
                pa.array(range(len(choice.rows)), pa.int64()),
                pa.array(ids[choice.rows], pa.string()),
            ],
            schema=schema,
        )
        for choice in choices
        if choice.message is None
    ]
    return pa.concat_tables([schema.empty_table(), *pieces])
