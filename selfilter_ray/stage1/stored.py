"""Stage 1 with a frozen VLM: the score net alone learns, from losses that were measured once.

The weighted loss needs S_i and n_i of each sample only, so where the VLM does not change, one pass
over the pool gives them for all epochs. Batches, weights, loss, optimizer and schedule are those of
the whole Stage 1; what is missing is the VLM's own learning.

Shapes: M samples, B of a batch, D inputs of the score net.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from selfilter_ray import atomic
from selfilter_ray.config import Config, TrainConfig
from selfilter_ray.errors import DataError
from selfilter_ray.features.shards import OK, TEXT_ONLY, Features
from selfilter_ray.stage1.agreement import NotFiniteError
from selfilter_ray.stage1.batches import batches_of
from selfilter_ray.stage1.engine import cosine
from selfilter_ray.stage1.inputs import Scaling
from selfilter_ray.stage1.loss import combine
from selfilter_ray.stage1.score_net import ScoreNet, save_score_net
from selfilter_ray.stage1.statistics import SampleStatistics


@dataclass(frozen=True)
class StoredLosses:
    """What the frozen VLM says of each sample.

    Attributes:
        loss_sum_M: float64, S_i, the summed loss of its supervised tokens.
        tokens_M: float64, n_i, their number.
    """

    loss_sum_M: torch.Tensor
    tokens_M: torch.Tensor

    @classmethod
    def of(cls, measured: pa.Table) -> StoredLosses:
        """From a table of the scoring pass; samples without a supervised token have no loss.

        Raises:
            DataError: when the pass failed on a sample.
        """
        failed = measured.filter(pc.invert(pc.is_in(measured["status"], pa.array([OK, TEXT_ONLY]))))
        if failed.num_rows:
            first = failed.slice(0, 1).to_pylist()[0]
            raise DataError(
                f"{failed.num_rows} samples have no stored loss. First: {first['id']}: "
                f"{first['status']}: {first['detail']}. Mend or remove them, and run again."
            )
        loss_sum_M = pc.fill_null(measured["loss_sum"], 0.0).to_numpy()
        tokens_M = measured["answer_tokens"].to_numpy().astype(np.float64)
        return cls(torch.from_numpy(loss_sum_M.copy()), torch.from_numpy(tokens_M))


class StoredRun:
    """One training of the score net.

    Args:
        config: ``train`` and ``seed``; the chunks of all workers are worked off here.
        inputs: ids, and what the score net sees of each (M, D), sorted by id.
        losses: of the same samples.
    """

    def __init__(self, config: Config, inputs: Features, losses: StoredLosses) -> None:
        train = config.train
        self.train, self.inputs, self.losses = train, inputs, losses
        self.features_MD = torch.from_numpy(inputs.features_ND)
        torch.manual_seed(config.seed)
        self.net = ScoreNet(
            inputs.features_ND.shape[1], train.score_net_init, train.score_net_hidden
        )
        self.batches = batches_of(train, len(inputs.ids), config.seed)
        rate = train.score_net_learning_rate or train.learning_rate
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=rate, weight_decay=0.0)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, cosine(self.batches.steps, train.warmup_ratio)
        )

    def run(self, advance: Callable[[int], None]) -> Iterator[dict[str, float]]:
        """All optimizer steps; the metrics of each, as the whole Stage 1 logs them.

        Raises:
            NotFiniteError: when the loss is no number any more.
        """
        for step in range(self.batches.steps):
            began = time.monotonic()
            metrics = self._step(self.batches.step(step))
            seconds = time.monotonic() - began
            advance(1)
            yield {
                "step": step + 1,
                "epoch": round(self.batches.epochs_after(step + 1), 4),
                **metrics,
                "seconds": seconds,
                "samples_per_second": metrics["samples"] / seconds,
            }

    def _step(self, rounds: Sequence[Sequence[Sequence[int]]]) -> dict[str, float]:
        """One optimizer step over its rounds, each made of chunks of rows."""
        losses = [
            round_loss(self.net, self.features_MD, self.losses, chunks, self.train)
            for chunks in rounds
        ]
        loss = torch.stack(losses).mean()
        if not math.isfinite(loss.item()):
            raise NotFiniteError(
                "the loss is NaN or infinite: lower train.score_net_learning_rate, or "
                "train.learning_rate where that is null."
            )
        self.optimizer.zero_grad()
        loss.backward()
        clipping = self.train.gradient_clipping or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), clipping)
        rate = self.schedule.get_last_lr()[0]
        rows = [row for chunks in rounds for chunk in chunks for row in chunk]
        with torch.no_grad():
            spread = self.net(self.features_MD[rows]).std(unbiased=False).item()
        self.optimizer.step()
        self.schedule.step()
        tokens = self.losses.tokens_M[rows].sum().item()
        return {
            "loss": loss.item(),
            "plain_loss": self.losses.loss_sum_M[rows].sum().item() / max(tokens, 1.0),
            "score_std": spread,
            "gradient_norm": float(norm),
            "learning_rate": float(rate),
            "samples": float(len(rows)),
            "tokens": tokens,
        }


def round_loss(
    net: ScoreNet,
    features_MD: torch.Tensor,
    losses: StoredLosses,
    chunks: Sequence[Sequence[int]],
    train: TrainConfig,
) -> torch.Tensor:
    """The loss of a round, made of chunks of rows: a scalar, differentiable in the net.

    With the scope ``device`` each chunk has a softmax of its own, and the chunks' losses are
    averaged; with ``global`` there is one softmax over the round.
    """
    if train.weight_scope == "global":
        chunks = [[row for chunk in chunks for row in chunk]]
    each = [
        combine(
            losses.loss_sum_M[list(rows)].float(),
            losses.tokens_M[list(rows)].float(),
            net(features_MD[list(rows)]),
            train.loss_reduction,
        )
        for rows in chunks
    ]
    return torch.stack(each).mean()


def train_from_losses(
    config: Config,
    inputs: Features,
    scaling: Scaling | None,
    losses: StoredLosses,
    output: Path,
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Train the score net, and leave what Stage 1 leaves, but for a VLM.

    Args:
        inputs: ids, and what the score net sees of each, sorted by id.
        scaling: of ratings among the inputs; kept with the net.
        losses: of the same samples.
        output: folder for ``score_net.safetensors``, ``sample_statistics.parquet`` and
            ``metrics.jsonl``.

    Returns:
        Steps and the last metrics.

    Raises:
        NotFiniteError: when the loss is no number any more.
    """
    run = StoredRun(config, inputs, losses)
    lines = list(run.run(advance))
    atomic.write_text(output / "metrics.jsonl", "".join(json.dumps(m) + "\n" for m in lines))
    seen_M = torch.zeros(len(inputs.ids), dtype=torch.long)
    statistics = SampleStatistics(seen_M, losses.loss_sum_M, losses.tokens_M)
    statistics.write(output / "sample_statistics.parquet", inputs.ids)
    train = config.train
    metadata = {
        "loss_reduction": train.loss_reduction,
        "weight_scope": train.weight_scope,
        "inputs": train.inputs,
        "scaling": None if scaling is None else scaling.to_dict(),
        "losses": "stored",
    }
    save_score_net(output / "score_net.safetensors", run.net.state_dict(), metadata)
    return {"steps": run.batches.steps, **lines[-1]}
