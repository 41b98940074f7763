"""The Stage 1 loop of one rank. It knows nothing of Ray: it needs a process group and a callback.

An interrupted run continues from its newest checkpoint and ends with the same weights as one that
was not: data order, optimizer, schedule and random state are all part of a checkpoint.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.utils.data import DataLoader
from transformers import LlavaForConditionalGeneration

from selfilter_ray import atomic
from selfilter_ray.config import Config
from selfilter_ray.errors import ConfigError, SelfilterError
from selfilter_ray.samples.files import read_samples
from selfilter_ray.stage1.data import Batches, Stage1Data
from selfilter_ray.stage1.engine import full_weights, shards_at_load, start_engine
from selfilter_ray.stage1.model import Batch, Stage1Model
from selfilter_ray.stage1.outputs import save_outputs
from selfilter_ray.stage1.rows import Paths, training_rows
from selfilter_ray.stage1.score_net import ScoreNet
from selfilter_ray.stage1.statistics import SampleStatistics

__all__ = ["NotFiniteError", "Paths", "Trainer"]

TAG = "stage1"


class NotFiniteError(SelfilterError):
    """The loss became NaN or infinite. Training again from the checkpoint would end the same."""


class Trainer:
    """One rank of a Stage 1 run.

    Args:
        config: the run's config.
        paths: inputs and outputs.
        device: of this rank.
    """

    def __init__(self, config: Config, paths: Paths, device: torch.device) -> None:
        self.config, self.paths, self.device = config, paths, device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        train = config.train
        features, self.scaling, cluster_M = training_rows(train, paths)
        samples = read_samples(paths.samples, ["id", "turns", "images"])
        self.data = Stage1Data(samples, features, paths.model, train, config.data.limits)
        self.batches = Batches(
            len(self.data),
            train.batch_size,
            train.gradient_accumulation,
            train.epochs,
            config.seed,
            self.rank,
            self.ranks,
        )
        self.statistics = SampleStatistics.empty(len(self.data))
        self.engine = start_engine(
            self._model(features.features_ND.shape[1], cluster_M), train, self.batches.steps
        )
        self.position = 0  # micro-batches done
        self._learning_rate = 0.0
        self._on_gpu = device.type == "cuda"
        self._metrics = paths.output / "metrics.jsonl"

    def run(self, save: Callable[[dict[str, float]], None]) -> dict[str, Any]:
        """Train to the end.

        Args:
            save: called by every rank at each checkpoint, with the metrics of the step; it has to
                call ``save_checkpoint``.

        Returns:
            A summary: steps, ranks, and the last metrics.

        Raises:
            NotFiniteError: when the loss is no number any more.
        """
        train = self.config.train
        metrics: dict[str, float] = {}
        parts: list[torch.Tensor] = []
        began = time.monotonic()
        for batch in self._loader():
            parts.append(self._micro_step(batch))
            if self.position % train.gradient_accumulation:
                continue
            metrics = self._step_metrics(parts, time.monotonic() - began)
            parts, began = [], time.monotonic()
            self._log(metrics)
            step = self.position // train.gradient_accumulation
            if step % train.checkpoint_steps == 0 and step < self.batches.steps:
                save(metrics)
                began = time.monotonic()
        self._save_outputs()
        return {"steps": self.batches.steps, "world_size": self.ranks, **metrics}

    def save_checkpoint(self, folder: Path) -> None:
        """Everything needed to go on exactly from here. All ranks must call it."""
        self.engine.save_checkpoint(str(folder), tag=TAG)
        state = {
            "position": self.position,
            "ranks": self.ranks,
            "statistics": asdict(self.statistics),
            "random": torch.get_rng_state(),
            "random_gpu": torch.cuda.get_rng_state(self.device) if self._on_gpu else None,
        }
        torch.save(state, folder / f"rank-{self.rank}.pt")

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint.

        Raises:
            ConfigError: when it was written by another number of ranks.
        """
        file = folder / f"rank-{self.rank}.pt"
        state: dict[str, Any] = (
            torch.load(file, weights_only=True) if file.exists() else {"ranks": -1}
        )
        if state["ranks"] != self.ranks:
            raise ConfigError(
                f"the checkpoint in {folder} was not written by {self.ranks} workers: set "
                "train.workers to what it was, or start Stage 1 again with --redo."
            )
        self.engine.load_checkpoint(str(folder), tag=TAG)
        self.position = int(state["position"])
        self.statistics = SampleStatistics(**state["statistics"])
        torch.set_rng_state(state["random"])
        if self._on_gpu:
            torch.cuda.set_rng_state(state["random_gpu"], self.device)
        self._keep_log(self.position // self.config.train.gradient_accumulation)

    def start_log(self) -> None:
        """Begin an empty ``metrics.jsonl``."""
        self._keep_log(0)

    def _model(self, features: int, cluster_M: torch.Tensor | None) -> Stage1Model:
        train = self.config.train
        torch.manual_seed(self.config.seed)
        sharding = shards_at_load(train)
        vlm = LlavaForConditionalGeneration.from_pretrained(
            self.paths.model, dtype=torch.bfloat16 if train.bf16 else torch.float32
        )
        if sharding is not None:
            # transformers notes here all renamings it knows, not those it used: it would save the
            # weights under names that it does not find again. None stands for the usual names.
            vlm._weight_conversions = None
        del sharding
        init = "zeros" if train.objective == "plain" else train.score_net_init
        net = ScoreNet(features, init, train.score_net_hidden)
        model = Stage1Model(vlm.train(), net, train, cluster_M)
        if train.bf16:
            # Under ZeRO-3 DeepSpeed leaves score net and adapters as they are, and fails on them.
            for parameter in model.parameters():
                parameter.data = parameter.data.bfloat16()
        return model.to(self.device)

    def _loader(self) -> Iterator[Batch]:
        remaining = (self.batches[n] for n in range(self.position, self.batches.micro_batches))
        yield from DataLoader(
            self.data,
            batch_sampler=remaining,  # type: ignore[arg-type]
            collate_fn=self.data.collate,
            num_workers=self.config.train.loader_workers,
            # A generator of its own: drawing from torch's would shift the dropout of a resumed run.
            generator=torch.Generator(),
        )

    def _micro_step(self, batch: Batch) -> torch.Tensor:
        """Forward, backward, and a step at the end of an accumulation; returns loss parts."""
        losses = self.engine(batch.to(self.device))
        finite = torch.isfinite(losses.loss).float()
        self._stop_unless(finite)
        self.engine.backward(losses.loss)
        self._learning_rate = float(self.engine.get_lr()[0])  # step() moves on to the next one
        self.engine.step()
        self.statistics.record(self.position, batch.rows, losses.loss_sum_B, losses.tokens_B)
        self.position += 1
        return torch.stack(
            [
                losses.loss.detach().double(),
                losses.loss_sum_B.double().sum(),
                losses.tokens_B.double().sum(),
                losses.z_B.double().sum(),
                losses.z_B.double().square().sum(),
                torch.tensor(float(len(batch.rows)), dtype=torch.float64, device=self.device),
            ]
        )

    def _stop_unless(self, finite: torch.Tensor) -> None:
        if self.ranks > 1:
            dist.all_reduce(finite, dist.ReduceOp.MIN)
        if not bool(finite.item()):
            raise NotFiniteError(
                f"the loss is NaN or infinite at micro-batch {self.position}: lower "
                "train.learning_rate, or look at the batch's data."
            )

    def _step_metrics(self, parts: list[torch.Tensor], seconds: float) -> dict[str, float]:
        total = torch.stack(parts).sum(0)
        if self.ranks > 1:
            dist.all_reduce(total)
        loss, loss_sum, tokens, z, z_square, samples = total.tolist()
        gradient = self.engine.get_global_grad_norm()
        return {
            "step": self.position // self.config.train.gradient_accumulation,
            "epoch": round(self.batches.epoch_of(self.position - 1), 4),
            "loss": loss / (len(parts) * self.ranks),
            "plain_loss": loss_sum / max(tokens, 1.0),
            "score_std": max(0.0, z_square / samples - (z / samples) ** 2) ** 0.5,
            "gradient_norm": float(gradient) if gradient is not None else 0.0,
            "learning_rate": self._learning_rate,
            "samples": samples,
            "tokens": tokens,
            "seconds": seconds,
            "samples_per_second": samples / seconds,
        }

    def _log(self, metrics: dict[str, float]) -> None:
        if self.rank == 0:
            with open(self._metrics, "a", encoding="utf-8") as lines:
                lines.write(json.dumps(metrics) + "\n")

    def _keep_log(self, steps: int) -> None:
        """Drop the steps after a checkpoint: they are going to be made again."""
        if self.rank == 0:
            lines = self._metrics.read_text(encoding="utf-8").splitlines() if steps else []
            atomic.write_text(self._metrics, "".join(line + "\n" for line in lines[:steps]))

    def _save_outputs(self) -> None:
        train = self.config.train
        whole = train.save_vlm and train.trainable.language_model != "lora"
        weights = full_weights(self.engine, frozen=whole, keep=self.rank == 0)
        statistics = self.statistics.merged(self.device)
        if self.rank == 0:
            save_outputs(self, weights, statistics)
        if self.ranks > 1:
            dist.barrier()
