"""Every metric of the pipeline. Nothing else may be measured, so dashboards can be checked.

Names are those of a Prometheus textfile; Ray's agents put ``ray_`` before them. Each metric has the
label ``run`` beside its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

RUN = "run"


@dataclass(frozen=True, slots=True)
class Declared:
    """One metric.

    Attributes:
        labels: without ``run``, which all have.
    """

    name: str
    kind: Literal["counter", "gauge"]
    help: str
    labels: tuple[str, ...] = ()

    @property
    def all_labels(self) -> tuple[str, ...]:
        return (RUN, *self.labels)


ALL: dict[str, Declared] = {}


def _gauge(name: str, help: str, *labels: str) -> Declared:
    return _declared(Declared(f"selfilter_{name}", "gauge", help, labels))


def _counter(name: str, help: str, *labels: str) -> Declared:
    return _declared(Declared(f"selfilter_{name}_total", "counter", help, labels))


def _declared(metric: Declared) -> Declared:
    ALL[metric.name] = metric
    return metric


RUN_INFO = _gauge("run_info", "1; its labels say which run this is.", "name", "version")
LAST_EVENT = _gauge("last_event_timestamp_seconds", "When the run last got on (seconds, UTC).")

STAGE_RUNNING = _gauge("stage_running", "1 while the stage runs, 0 when it has ended.", "stage")
STAGE_SECONDS = _gauge("stage_seconds", "Since the stage began, up to its last step.", "stage")
STAGE_FINISHED = _gauge(
    "stage_finished_timestamp_seconds", "When the stage ended well (seconds, UTC).", "stage"
)
STAGE_PLANNED = _gauge("stage_planned", "Units that the stage has to do.", "stage", "unit")
STAGE_DONE = _counter(
    "stage_done", "Units done, those of earlier attempts included.", "stage", "unit"
)
STAGE_FAILURES = _counter("stage_failures", "Times that the stage ended by an error.", "stage")

ROWS = _gauge("rows", "Rows of the pool: in, out, left_out_by_limit.", "state")
QUARANTINED = _gauge("quarantined_rows", "Rows that cannot be used, by reason.", "reason")

SHARDS_LEFT = _gauge("shards_left", "Shards of a pass that are still to be made.", "pass")
SHARD_ROWS = _counter("shard_rows", "Rows of the shards that were made.", "pass")
SHARD_SECONDS = _counter("shard_seconds", "Seconds that actors spent on shards.", "pass")
PASS_SLOTS = _gauge("pass_slots", "Shards that may be made at the same time.", "pass")

TRAIN_STEP = _gauge("train_step", "Optimizer steps done.", "training")
TRAIN_EPOCH = _gauge("train_epoch", "Epochs done.", "training")
TRAIN_LOSS = _gauge("train_loss", "Of the last step: the weighted loss.", "training")
TRAIN_PLAIN_LOSS = _gauge("train_plain_loss", "Of the last step: the mean over tokens.", "training")
TRAIN_LEARNING_RATE = _gauge("train_learning_rate", "Of the last step.", "training")
TRAIN_GRADIENT_NORM = _gauge("train_gradient_norm", "Of the last step.", "training")
TRAIN_SCORE_STD = _gauge("train_score_std", "Of the score net's z over the last step.", "training")
TRAIN_SAMPLES = _counter("train_samples", "Samples trained on by this process.", "training")
TRAIN_TOKENS = _counter("train_tokens", "Supervised tokens trained on by this process.", "training")
TRAIN_CHECKPOINT = _gauge(
    "train_checkpoint_timestamp_seconds", "When the newest was saved (seconds, UTC).", "training"
)
