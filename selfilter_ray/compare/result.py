"""The result of a comparison: what ``comparison.json`` and ``comparison_picks.parquet`` hold.

The spread over seeds is the standard deviation of a sample (n - 1).
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from selfilter_ray.compare.metrics import Metrics
from selfilter_ray.compare.overlap import Matrix
from selfilter_ray.compare.shapes import Shares
from selfilter_ray.compare.stored import from_stored

FORMAT = 1


class _Part(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, arbitrary_types_allowed=True
    )


class Spread(_Part):
    """Mean over seeds, and standard deviation; None where not known, or of fewer than two."""

    mean: float | None
    std: float | None


class Run(_Part):
    """One seed of a method: seconds of selecting, and the metrics by name."""

    seed: int
    seconds: float
    metrics: Metrics


class MethodResult(_Part):
    """One method over its seeds.

    Attributes:
        cost: what it needs before it can select: pass to seconds.
        same_picks: whether every seed chose the same in the same order; None with one seed.
        shares: of the sources and of the bins of ``PoolFacts.edges``, mean over the seeds.
        first_picks: ids that the first seed ranked first.
    """

    label: str
    method: str
    title: str
    settings: dict[str, Any]
    cost: dict[str, float]
    same_picks: bool | None
    runs: list[Run]
    seconds: Spread
    metrics: dict[str, Spread]
    shares: Shares
    first_picks: list[str]


class PoolFacts(_Part):
    """The pool, and on how many samples coverage and redundancy were measured."""

    rows: int
    metrics: Metrics
    coverage_sample: int
    redundancy_sample: int
    sources: list[str]
    edges: dict[str, list[float]]
    shares: Shares


class OverlapTables(_Part):
    """(M, M) in the order of ``labels``, of the first seed and as means over pairs of seeds.

    ``share`` is |A and B| / B. The means are over pairs of different seeds (``Overlaps``); their
    diagonal is between the seeds of one method.
    """

    labels: list[str]
    share_first_seed: Matrix
    share: Matrix
    jaccard_first_seed: Matrix
    jaccard: Matrix


class Failure(_Part):
    """A method that could not select, under those seeds for the same reason."""

    label: str
    method: str
    seeds: list[int]
    message: str


class Comparison(_Part):
    """All of it. ``picks`` has a file of its own: it is None in what was read from JSON."""

    format: int = FORMAT
    budget: int
    seeds: list[int]
    reference: str
    pool: PoolFacts
    methods: list[MethodResult]
    overlap: OverlapTables
    failures: list[Failure]
    picks: pa.Table | None = Field(default=None, exclude=True, repr=False)

    def to_json(self) -> dict[str, Any]:
        """JSON values only."""
        return self.model_dump(mode="json")

    @classmethod
    def from_json(cls, value: Any) -> Comparison:
        """The inverse of ``to_json``.

        Raises:
            ArtifactError: when it is not a comparison, or one of another version.
        """
        return from_stored(cls, value, FORMAT, "a comparison")

    def overlap_with_reference(self, label: str) -> float | None:
        """Share of the budget that a method has in common with random selection."""
        labels = self.overlap.labels
        if label == self.reference or self.reference not in labels:
            return None
        return self.overlap.share[labels.index(label)][labels.index(self.reference)]

    def stability(self, label: str) -> float | None:
        """Share of the budget that two seeds of a method have in common."""
        row = self.overlap.labels.index(label)
        return self.overlap.share[row][row]


def spread(values: Sequence[float | None]) -> Spread:
    """Of the known values."""
    known = [value for value in values if value is not None]
    return Spread(
        mean=statistics.fmean(known) if known else None,
        std=statistics.stdev(known) if len(known) > 1 else None,
    )


def picks_table(
    ids: np.ndarray, runs: Sequence[tuple[str, str, Mapping[int, np.ndarray]]]
) -> pa.Table:
    """Every pick of every run, of (label, method, seed to rows).

    Returns:
        label, method, seed, rank (from 0), id.
    """
    schema = pa.schema(
        [
            ("label", pa.string()),
            ("method", pa.string()),
            ("seed", pa.int64()),
            ("rank", pa.int64()),
            ("id", pa.string()),
        ]
    )
    pieces = [
        pa.table(
            [
                pa.repeat(label, len(rows)),
                pa.repeat(method, len(rows)),
                pa.repeat(seed, len(rows)),
                pa.array(np.arange(len(rows), dtype=np.int64)),
                pa.array(ids[rows], pa.string()),
            ],
            schema=schema,
        )
        for label, method, chosen in runs
        for seed, rows in chosen.items()
    ]
    return pa.concat_tables([schema.empty_table(), *pieces])
