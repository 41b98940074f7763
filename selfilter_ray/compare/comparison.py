"""Runs several methods on one pool and measures what each chose."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from selfilter_ray.compare.entries import Entry, with_reference
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
from selfilter_ray.errors import DataError, SelfilterError
from selfilter_ray.select import registry
from selfilter_ray.select.contract import Pool, Selection

SHOWN_PICKS = 12
Select = Callable[[Pool, int, int, Any], Selection]


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
    workshop = _Workshop(pool, budget, select)
    gathered = [workshop.gather(entry, seeds, progress) for entry in everyone]
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


@dataclass
class _Gathered:
    """The runs of one entry: seed to row numbers, best first, and to the seconds they took.

    ``failures``: message to the seeds that ended with it.
    """

    entry: Entry
    chosen: dict[int, np.ndarray] = field(default_factory=dict)
    seconds: dict[int, float] = field(default_factory=dict)
    failures: dict[str, list[int]] = field(default_factory=dict)


class _Workshop:
    """Selects, and measures each distinct set of rows once."""

    def __init__(self, pool: Pool, budget: int, select: Select) -> None:
        self.pool, self.budget, self._select = pool, budget, select
        self.ruler, self.shapes = Ruler(pool, budget), Shapes(pool)
        self._measured: dict[bytes, Metrics] = {}

    def gather(
        self, entry: Entry, seeds: Sequence[int], progress: Callable[[int], None]
    ) -> _Gathered:
        """All seeds of one entry; what fails is noted."""
        found = _Gathered(entry)
        method = registry.METHODS[entry.method]
        for seed in seeds:
            # Picks that cannot differ are not made again; their seconds are those of the first.
            if found.chosen and not method.seeded(self.pool, entry.settings):
                first = next(iter(found.chosen))
                found.chosen[seed] = found.chosen[first]
                found.seconds[seed] = found.seconds[first]
                progress(1)
                continue
            began = time.perf_counter()
            try:
                rows = self._checked(self._select(self.pool, self.budget, seed, entry.settings))
            except Exception as error:  # one method's fault must not cost the others' results
                found.failures.setdefault(_message(error), []).append(seed)
            else:
                found.seconds[seed] = time.perf_counter() - began
                found.chosen[seed] = rows
            progress(1)
        return found

    def result(self, part: _Gathered, cost: Mapping[str, float]) -> MethodResult:
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

    def _checked(self, selection: Selection) -> np.ndarray:
        rows = np.asarray(selection.indices, dtype=np.int64)
        if rows.shape != (self.budget,) or len(np.unique(rows)) != self.budget:
            raise DataError(
                f"it chose {len(np.unique(rows))} distinct samples instead of {self.budget}"
            )
        if self.budget and not 0 <= rows.min() <= rows.max() < len(self.pool.ids):
            raise DataError("it chose rows that the pool does not have")
        return rows


def _failures(part: _Gathered) -> list[Failure]:
    return [
        Failure(label=part.entry.label, method=part.entry.method, seeds=seeds, message=message)
        for message, seeds in part.failures.items()
    ]


def _overlaps(parts: Sequence[_Gathered], seeds: list[int], rows: int) -> OverlapTables:
    overlaps = Overlaps([part.chosen for part in parts], rows)
    return OverlapTables(
        labels=[part.entry.label for part in parts],
        share_first_seed=overlaps.at_seed(seeds[0], shared_part),
        share=overlaps.over_seeds(shared_part),
        jaccard_first_seed=overlaps.at_seed(seeds[0], jaccard),
        jaccard=overlaps.over_seeds(jaccard),
    )


def _message(error: Exception) -> str:
    """What a person can act on; of a bug, also what it is and where."""
    if isinstance(error, SelfilterError):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"


def _all_failed(failures: Sequence[Failure]) -> str:
    lines = [f"{failure.label}: {failure.message}" for failure in failures]
    return "none of the methods could select:\n  " + "\n  ".join(lines)
