"""One VLM, and the table of what it says to samples.

Under teacher forcing every token is predicted from the reference before it. Greedy decoding sees
the same until it first goes astray, so it says exactly the reference where, and only where, the
reference has the highest logit at every supervised position. One forward pass tells that; nothing
is generated. Among equal logits the smallest id is taken, as ``argmax`` does. Cached decoding may
round otherwise than one pass: in bfloat16 two nearly equal logits can change places. A token that
joins the prompt's end to the answer's beginning is not supervised (``stage1/prompt.py``), so it is
given here. Byte-level tokenizers have none; others may, where no space stands between the two.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.evaluate.settings import EvaluateConfig
from selfilter_ray.evaluate.table import BLIND, NO_ANSWER, SCHEMA, SEEING
from selfilter_ray.features.shards import OK, TEXT_ONLY
from selfilter_ray.measure.prompts import supervised
from selfilter_ray.measure.table import LOSS_NOT_FINITE
from selfilter_ray.measure.vlm import MeasuredVlm, Prompt
from selfilter_ray.samples.files import iterate_samples
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import Sample
from selfilter_ray.stage1.families.contract import Picture
from selfilter_ray.stage1.pictures import KeptPictures
from selfilter_ray.stage1.prompt import Encoded

COLUMNS = ("id", "source", "turns", "images", "record")


@dataclass
class _Row:
    """A sample on its way: its prompt, cut at ``max_length``, and what is known of it so far."""

    sample: Sample
    prompt: Encoded
    complete: bool
    values: dict[str, float | bool | None] = field(default_factory=dict)
    problem: BadRow | None = None


class _Ready(NamedTuple):
    row: _Row
    pictures: list[Picture]


class Evaluator:
    """Loads a VLM once, for any number of tables of samples.

    Args:
        model: a folder or hub name of a VLM, or a folder of adapters: ``tuned/vlm`` of a run.
        train: its prompt, ``max_length`` and ``bf16``.
        limits: of images.
        settings: batch size, chunk size, and what to find out.
        device: for the model.
        base: the model that adapters belong to; None takes the one that they name.
        pictures: what the image processor makes of pictures is kept here. Evaluators of models with
            the same image processor may share one, so that held-out pictures are decoded once.

    Raises:
        SelfilterError: when the model is not there, damaged, or of a kind that is not supported.
    """

    def __init__(
        self,
        model: str,
        train: TrainConfig,
        limits: LimitsConfig,
        settings: EvaluateConfig,
        device: str = "cpu",
        base: str | None = None,
        pictures: KeptPictures | None = None,
    ) -> None:
        self.pictures = KeptPictures() if pictures is None else pictures
        self.settings, self.max_length = settings, train.max_length
        bf16 = train.bf16 if settings.bf16 is None else settings.bf16
        # Cut here and not there, so that it is known whether an answer is whole.
        uncut = train.model_copy(update={"max_length": sys.maxsize})
        self.vlm = MeasuredVlm(model, uncut, limits, bf16, device, base)

    def __call__(self, samples: pa.Table) -> pa.Table:
        """Evaluate on samples; the content of the table does not depend on their order.

        Args:
            samples: rows with ``COLUMNS``.

        Returns:
            A table of ``table.SCHEMA``, in the order of the samples.
        """
        rows = [self._row(sample) for sample in iterate_samples(samples)]
        answered = [row for row in rows if supervised(row.prompt)]
        answered.sort(key=lambda row: (len(row.prompt.input_ids), row.sample.id))
        for start in range(0, len(answered), self.settings.batch_size):
            self._evaluate(answered[start : start + self.settings.batch_size])
        return pa.Table.from_pylist([_record(row) for row in rows], schema=SCHEMA)

    def _row(self, sample: Sample) -> _Row:
        whole = self.vlm.whole(sample)
        end = max(self.max_length, whole.pictures_end)
        cut = whole._replace(input_ids=whole.input_ids[:end], labels=whole.labels[:end])
        return _Row(sample, cut, complete=supervised(cut) == supervised(whole))

    def _evaluate(self, rows: Sequence[_Row]) -> None:
        """One batch. The blind pass is over the same samples, those whose pictures are there."""
        batch = [ready for row in rows if (ready := self._ready(row)) is not None]
        if not batch:
            return
        seeing = [Prompt(row.prompt, pictures) for row, pictures in batch]
        self._store(SEEING, [row for row, _ in batch], seeing)
        if self.settings.blind:
            self._without_pictures(batch)
        for row, _ in batch:
            if not all(math.isfinite(value) for value in row.values.values() if value is not None):
                row.problem = BadRow(LOSS_NOT_FINITE, "the model's output was not a number")

    def _ready(self, row: _Row) -> _Ready | None:
        sample = row.sample
        try:
            pictures = [
                self.pictures.get(name, partial(self.vlm.picture, name)) for name in sample.images
            ]
        except BadRow as error:
            row.problem = error
            return None
        return _Ready(row, pictures)

    def _without_pictures(self, batch: Sequence[_Ready]) -> None:
        """Of a sample without pictures it is known already."""
        for row, _ in batch:
            row.values |= {BLIND + name: value for name, value in row.values.items()}
        pictured = [ready.row for ready in batch if ready.pictures]
        if pictured:
            prompts = [
                Prompt(self.vlm.without_image(row.prompt, row.sample), []) for row in pictured
            ]
            self._store(BLIND, pictured, prompts)

    def _store(self, prefix: str, rows: Sequence[_Row], prompts: Sequence[Prompt]) -> None:
        found = self.vlm.statistics(prompts, self.settings.chunk_tokens, grand=False)
        losses, rights = found.loss_B.tolist(), found.right_B.tolist()
        for row, loss, right in zip(rows, losses, rights, strict=True):
            row.values[f"{prefix}token_loss"] = loss
            row.values[f"{prefix}right"] = right
            row.values[f"{prefix}exact"] = right == 1.0 if row.complete else None


def question_type(sample: Sample) -> str | None:
    """What the input's record has under ``question_type``, if it is a text."""
    record = json.loads(sample.record) if sample.record else None
    value = record.get("question_type") if isinstance(record, dict) else None
    return value if isinstance(value, str) else None


def _record(row: _Row) -> dict[str, Any]:
    """A row of the table; the columns that it lacks become null."""
    known = {
        "id": row.sample.id,
        "source": row.sample.source,
        "question_type": question_type(row.sample),
        "answer_tokens": supervised(row.prompt),
        "complete": row.complete,
    }
    if row.problem is not None:
        return known | {"status": row.problem.reason, "detail": row.problem.detail}
    if not row.values:
        return known | {"status": NO_ANSWER, "detail": "max_length leaves nothing of the answers"}
    return {**known, **row.values, "status": OK if row.sample.images else TEXT_ONLY, "detail": ""}
