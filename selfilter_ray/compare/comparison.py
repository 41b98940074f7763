"""Runs several methods on one pool and measures what each chose."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from selfilter_ray.compare.entries import Entry, with_reference
from selfilter_ray.compare.gathering import Gathered, Select, gather
from selfilter_ray.compare.metrics import Metrics, Ruler
from selfilter_ray.compare.overlap import Overlaps, jaccard, shared_part
from selfilter_ray.compare.result import (
    Comparison,
    Failure,
    MethodResult,
    OverlapTables,
    PoolFacts,
    Run,
    picks_table,
    spread,
)
from selfilter_ray.compare.shapes import Shapes, mean_shares
from selfilter_ray.errors import DataError
from selfilter_ray.select import registry
from selfilter_ray.select.contract import Pool

SHOWN_PICKS = 12


def compare(
    pool: Pool,
    entries: Sequence[Entry],
    seeds: Sequence[int],
    budget: int,
    costs: Mapping[str, Mapping[str, float]] | None = None,
    select: Select = registry.select,
    progress: Callable[[int], None] = lambda runs: None,
) -> Comparison:
    """Every entry under every seed; uniform random selection is added when it is not among them.

    Args:
        pool: sorted by id, with whatever the methods need.
        entries: distinct labels; their order stays.
        seeds: at least one, distinct.
        budget: from 0 to N.
        costs: label to what the method needs before it can select: pass to seconds.
        select: runs a method.
        progress: told each finished run.

    Raises:
        DataError: when no entry that was asked for could select. A single one that fails is
            recorded, and the others go on.
    """
    everyone, reference = with_reference(entries)
    workshop = _Workshop(pool, budget)
    gathered = [gather(entry, seeds, pool, budget, select, progress) for entry in everyone]
    failures = [failure for part in gathered for failure in _failures(part)]
    asked = [part for part in gathered if any(part.entry is entry for entry in entries)]
    if not any(part.chosen for part in asked or gathered):
        raise DataError(_all_failed(failures))
    worked = [part for part in gathered if part.chosen]
    return Comparison(
        budget=budget,
        seeds=list(seeds),
        reference=reference.label,
        pool=workshop.pool_facts(),
        methods=[workshop.result(part, (costs or {}).get(part.entry.label, {})) for part in worked],
        overlap=_overlaps(worked, list(seeds), len(pool.ids)),
        failures=failures,
        picks=picks_table(
            pool.ids, [(part.entry.label, part.entry.method, part.chosen) for part in worked]
        ),
    )


class _Workshop:
    """Measures each distinct set of rows once."""

    def __init__(self, pool: Pool, budget: int) -> None:
        self.pool = pool
        self.ruler, self.shapes = Ruler(pool, budget), Shapes(pool)
        self._measured: dict[bytes, Metrics] = {}

    def result(self, part: Gathered, cost: Mapping[str, float]) -> MethodResult:
        """What the runs of one entry, at least one, amount to."""
        runs = [
            Run(seed=seed, seconds=part.seconds[seed], metrics=self._measure(rows))
            for seed, rows in part.chosen.items()
        ]
        chosen = list(part.chosen.values())
        alike = all(np.array_equal(chosen[0], other) for other in chosen[1:])
        first = chosen[0][:SHOWN_PICKS]
        return MethodResult(
            label=part.entry.label,
            method=part.entry.method,
            title=part.entry.title,
            settings=part.entry.settings.model_dump(mode="json", exclude={"budget", "ratio"}),
            cost={name: float(seconds) for name, seconds in cost.items()},
            same_picks=alike if len(chosen) > 1 else None,
            runs=runs,
            seconds=spread([run.seconds for run in runs]),
            metrics={name: spread([run.metrics[name] for run in runs]) for name in runs[0].metrics},
            shares=mean_shares([self.shapes.of(rows) for rows in chosen]),
            first_picks=[str(id) for id in self.pool.ids[first]],
        )

    def pool_facts(self) -> PoolFacts:
        """The pool itself, which every method is held against."""
        return PoolFacts(
            rows=len(self.pool.ids),
            metrics=self.ruler.measure_pool(),
            coverage_sample=self.ruler.coverage_sample,
            redundancy_sample=self.ruler.redundancy_sample,
            sources=self.shapes.sources,
            edges=self.shapes.edges,
            shares=self.shapes.of(np.arange(len(self.pool.ids))),
        )

    def _measure(self, rows: np.ndarray) -> Metrics:
        key = np.sort(rows).tobytes()
        if key not in self._measured:
            self._measured[key] = self.ruler.measure(rows)
        return self._measured[key]


def _failures(part: Gathered) -> list[Failure]:
    return [
        Failure(label=part.entry.label, method=part.entry.method, seeds=seeds, message=message)
        for message, seeds in part.failures.items()
    ]


def _overlaps(parts: Sequence[Gathered], seeds: list[int], rows: int) -> OverlapTables:
    overlaps = Overlaps([part.chosen for part in parts], rows)
    return OverlapTables(
        labels=[part.entry.label for part in parts],
        share_first_seed=overlaps.at_seed(seeds[0], shared_part),
        share=overlaps.over_seeds(shared_part),
        jaccard_first_seed=overlaps.at_seed(seeds[0], jaccard),
        jaccard=overlaps.over_seeds(jaccard),
    )


def _all_failed(failures: Sequence[Failure]) -> str:
    lines = [f"{failure.label}: {failure.message}" for failure in failures]
    return "none of the methods could select:\n  " + "\n  ".join(lines)
