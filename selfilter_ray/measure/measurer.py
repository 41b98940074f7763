"""The scoring pass over one shard: samples in, one row of statistics each out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.features.shards import OK, TEXT_ONLY
from selfilter_ray.measure.prompts import supervised
from selfilter_ray.measure.settings import MeasureConfig
from selfilter_ray.measure.table import LOSS_NOT_FINITE, SCHEMA, STATISTICS
from selfilter_ray.measure.vlm import MeasuredVlm, Prompt
from selfilter_ray.samples.files import iterate_samples
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import Sample
from selfilter_ray.stage1.families.contract import Picture
from selfilter_ray.stage1.prompt import Encoded

COLUMNS = ("id", "turns", "images")


@dataclass
class Row:
    """A sample on its way: its prompt, and what is known of it so far."""

    sample: Sample
    whole: Encoded
    values: dict[str, float]
    problem: BadRow | None = None


class Ready(NamedTuple):
    """A sample of a batch, its pictures decoded."""

    row: Row
    pictures: list[Picture]


class Measurer:
    """One VLM, and the table of what it says of samples.

    ``loss_no_image`` of a text-only sample is its ``loss``: there is nothing to leave out. Its
    ``loss_no_question`` is L(a), with no words before the answer but those of the prompt's form.

    Args:
        model, train, limits, device, base: as ``MeasuredVlm``; where ``measure.bf16`` is None,
            ``train.bf16`` says the type.
        measure: batch size, chunk size, and what to measure.

    Raises:
        SelfilterError: when the model is not there, damaged, or has no fast tokenizer.
    """

    def __init__(
        self,
        model: str,
        train: TrainConfig,
        limits: LimitsConfig,
        measure: MeasureConfig,
        device: str = "cpu",
        base: str | None = None,
    ) -> None:
        bf16 = train.bf16 if measure.bf16 is None else measure.bf16
        self.measure = measure
        self.vlm = MeasuredVlm(model, train, limits, bf16, device, base)

    def weights_hash(self) -> str:
        """SHA-256 over all weights: which model made a row."""
        return self.vlm.weights_hash()

    def __call__(self, samples: pa.Table) -> pa.Table:
        """Measure samples; several threads may call at once.

        Batches are cut from the samples sorted by length and id, so that a table's content depends
        on its samples only.

        Args:
            samples: rows with ``COLUMNS``.

        Returns:
            A table of ``measure.table.SCHEMA``, in the order of the samples.
        """
        rows = [self._row(sample) for sample in iterate_samples(samples)]
        answered = [row for row in rows if row.values["answer_tokens"]]
        answered.sort(key=lambda row: (len(row.whole.input_ids), row.sample.id))
        for start in range(0, len(answered), self.measure.batch_size):
            self._measure(answered[start : start + self.measure.batch_size])
        return pa.Table.from_pylist([_record(row) for row in rows], schema=SCHEMA)

    def _row(self, sample: Sample) -> Row:
        whole = self.vlm.whole(sample)
        return Row(sample, whole, {"answer_tokens": supervised(whole)})

    def _measure(self, rows: Sequence[Row]) -> None:
        """One batch. Its pictures are decoded once, for all prompts."""
        batch = [ready for row in rows if (ready := self._ready(row)) is not None]
        if not batch:
            return
        prompts = [Prompt(row.whole, pictures) for row, pictures in batch]
        for name, values in self._statistics(prompts, self.measure.grand).items():
            for (row, _), value in zip(batch, values, strict=True):
                row.values[name] = value
        if self.measure.no_image:
            self._without_image(batch)
        if self.measure.no_question:
            self._without_question(batch)
        for row, _ in batch:
            if not all(map(math.isfinite, row.values.values())):
                row.problem = BadRow(LOSS_NOT_FINITE, "the model's output was not a number")

    def _ready(self, row: Row) -> Ready | None:
        try:
            return Ready(row, self.vlm.pictures(row.sample))
        except BadRow as error:
            row.problem = error
            return None

    def _without_image(self, batch: Sequence[Ready]) -> None:
        for row, _ in batch:
            row.values["loss_no_image"] = row.values["loss"]
        pictured = [ready.row for ready in batch if ready.pictures]
        prompts = [Prompt(self.vlm.without_image(row.whole, row.sample), []) for row in pictured]
        self._store_losses("loss_no_image", pictured, prompts)

    def _without_question(self, batch: Sequence[Ready]) -> None:
        prompts = [
            Prompt(self.vlm.without_question(row.whole, row.sample, pictures), pictures)
            for row, pictures in batch
        ]
        self._store_losses("loss_no_question", [ready.row for ready in batch], prompts)

    def _store_losses(self, name: str, rows: Sequence[Row], prompts: Sequence[Prompt]) -> None:
        if not prompts:
            return
        losses = self._statistics(prompts, grand=False)["loss"]
        for row, loss in zip(rows, losses, strict=True):
            row.values[name] = loss

    def _statistics(self, prompts: Sequence[Prompt], grand: bool) -> dict[str, list[float]]:
        """The statistics that were made, by the names of their columns; each (B,)."""
        found = self.vlm.statistics(prompts, self.measure.chunk_tokens, grand)
        columns = {name: getattr(found, f"{name}_B", None) for name in STATISTICS}
        return {name: value.tolist() for name, value in columns.items() if value is not None}


def _record(row: Row) -> dict[str, Any]:
    """A row of the table; the columns that it lacks become null."""
    known = {"id": row.sample.id, "answer_tokens": row.values["answer_tokens"]}
    if row.problem is not None:
        return known | {"status": row.problem.reason, "detail": row.problem.detail}
    status = OK if row.sample.images else TEXT_ONLY
    return {**known, **row.values, "status": status, "detail": ""}
