"""Evaluate a model on samples, and keep what was found."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from selfilter_ray import atomic
from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.evaluate.evaluator import Evaluator
from selfilter_ray.evaluate.settings import EvaluateConfig
from selfilter_ray.evaluate.summary import Summary, summarize
from selfilter_ray.stage1.pictures import KeptPictures

TABLE, SUMMARY = "evaluation.parquet", "evaluation.json"


@dataclass(frozen=True)
class Evaluation:
    """What a model says to samples.

    Attributes:
        table: of ``table.SCHEMA``, a row a sample.
        weights: SHA-256 over the weights of the model.
    """

    table: pa.Table
    summary: Summary
    weights: str

    def to_json(self) -> dict[str, Any]:
        """The summary as plain values, and the weights' hash."""
        return {**self.summary.to_json(), "weights": self.weights}

    def write(self, folder: Path) -> None:
        """``evaluation.parquet`` and, last, ``evaluation.json``."""
        atomic.write_table(folder / TABLE, self.table)
        atomic.write_json(folder / SUMMARY, self.to_json())


def evaluate(
    model: str | Path,
    samples: pa.Table,
    train: TrainConfig,
    limits: LimitsConfig | None = None,
    settings: EvaluateConfig | None = None,
    device: str = "cpu",
    base: str | None = None,
    pictures: KeptPictures | None = None,
) -> Evaluation:
    """Evaluate a tuned model on held-out samples.

    Args:
        model: ``tuned/vlm`` of a run, or another VLM or folder of adapters.
        samples: rows with ``evaluator.COLUMNS``: ``read_pool(...).table``, or ``samples/``.
        train: the settings it was tuned with: ``config.tuning()``.
        device, base, pictures: as ``Evaluator``.

    Raises:
        SelfilterError: when the model cannot be used.
    """
    settings = settings or EvaluateConfig()
    limits = limits or LimitsConfig()
    evaluator = Evaluator(str(model), train, limits, settings, device, base, pictures)
    table = evaluator(samples)
    return Evaluation(table, summarize(table, settings.short_tokens), evaluator.vlm.weights_hash())
