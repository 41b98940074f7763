"""A training as an operator sees it: metrics of each step, a span for each epoch and checkpoint.

For rank 0, in whatever process it runs.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from selfilter_ray.telemetry import tracing
from selfilter_ray.telemetry.declared import (
    LAST_EVENT,
    TRAIN_CHECKPOINT,
    TRAIN_EPOCH,
    TRAIN_GRADIENT_NORM,
    TRAIN_LEARNING_RATE,
    TRAIN_LOSS,
    TRAIN_PLAIN_LOSS,
    TRAIN_SAMPLES,
    TRAIN_SCORE_STD,
    TRAIN_STEP,
    TRAIN_TOKENS,
)
from selfilter_ray.telemetry.meter import meter
from selfilter_ray.telemetry.run import current

log = logging.getLogger(__name__)
LAST = {
    "step": TRAIN_STEP,
    "epoch": TRAIN_EPOCH,
    "loss": TRAIN_LOSS,
    "plain_loss": TRAIN_PLAIN_LOSS,
    "learning_rate": TRAIN_LEARNING_RATE,
    "gradient_norm": TRAIN_GRADIENT_NORM,
    "score_std": TRAIN_SCORE_STD,
}
SUMS = {"samples": TRAIN_SAMPLES, "tokens": TRAIN_TOKENS}


class TrainingWatch:
    """Fed with the metrics of every step.

    Args:
        training: name of the folder that is trained into, as ``stage1``.
    """

    def __init__(self, training: str) -> None:
        self._training = training
        self._epoch: int | None = None
        self._open = ExitStack()

    def start(self, step: int) -> None:
        """Before the first step of this attempt, after so many of earlier ones."""
        log.info("training started", extra={"fields": {"training": self._training, "step": step}})

    def step(self, metrics: Mapping[str, float]) -> None:
        """Take in one step; what is no number is left out, for training must not end by it."""
        metrics = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
        for name, metric in LAST.items():
            if name in metrics:
                meter.set(metric, metrics[name], training=self._training)
        for name, metric in SUMS.items():
            if name in metrics:
                meter.add(metric, metrics[name], training=self._training)
        meter.set(LAST_EVENT, time.time())
        self._turn(metrics)

    def close(self) -> None:
        """After the last step of this attempt."""
        self._open.close()
        meter.flush()
        tracing.flush()

    def _turn(self, metrics: Mapping[str, float]) -> None:
        """Close the span of an epoch after its last step, open that of the next after its first."""
        after = metrics.get("epoch", 0.0)
        number = max(0, math.ceil(after) - 1)
        if number != self._epoch:
            self._open.close()
            self._begin_epoch(number)
        if after >= number + 1:
            shown = {name: metrics[name] for name in ("step", "loss") if name in metrics}
            log.info("epoch finished", extra={"fields": {"epoch": number, **shown}})
            self._open.close()
            tracing.flush()
            self._epoch = None

    def _begin_epoch(self, number: int) -> None:
        self._epoch, run = number, current()
        parent = "" if run is None else run.traceparent
        what = _of(self._training, "epoch", number)
        self._open.enter_context(tracing.span("epoch", what, parent))


@contextmanager
def saving_checkpoint(training: str, step: int, rank: int) -> Iterator[None]:
    """A span around one checkpoint, and when it was there; of rank 0 only."""
    if rank:
        yield
        return
    with tracing.span("checkpoint", _of(training, "step", step)):
        yield
    meter.set(TRAIN_CHECKPOINT, time.time(), training=training)
    log.info("checkpoint saved", extra={"fields": {"training": training, "step": step}})


def _of(training: str, name: str, number: int) -> dict[str, str | int]:
    return {"selfilter.training": training, f"selfilter.{name}": number}
