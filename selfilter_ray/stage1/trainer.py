"""The Stage 1 loop of one rank. It knows nothing of Ray: it needs a process group and callbacks.

The same optimizer steps are made by any number of ranks, and an interrupted run continues from its
newest checkpoint as if it had not been: what a step sees depends on its number, and what is random
in a forward pass on the number of its chunk.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch.utils.data import DataLoader

from selfilter_ray.config import Config
from selfilter_ray.samples.files import read_samples
from selfilter_ray.stage1.agreement import STOP_FILE, Agreement, NotFiniteError, StoppedError
from selfilter_ray.stage1.batches import Slot, batches_of, chunk_seed, text_lengths
from selfilter_ray.stage1.checkpoint import load_checkpoint, save_checkpoint
from selfilter_ray.stage1.data import Stage1Data
from selfilter_ray.stage1.engine import full_weights, shards_at_load, start_engine
from selfilter_ray.stage1.families.load import load_model
from selfilter_ray.stage1.loggers import StepLog
from selfilter_ray.stage1.loss import Round, supervised_tokens
from selfilter_ray.stage1.model import Batch, Stage1Model
from selfilter_ray.stage1.outputs import save_outputs
from selfilter_ray.stage1.pictures import KeptPictures
from selfilter_ray.stage1.rows import Paths, training_rows
from selfilter_ray.stage1.score_net import ScoreNet
from selfilter_ray.stage1.statistics import SampleStatistics
from selfilter_ray.stage1.step_metrics import chunk_sums, no_sums, step_metrics

__all__ = ["NotFiniteError", "Paths", "StoppedError", "Trainer"]


class Trainer:
    """One rank of a Stage 1 run.

    Args:
        config: the run's config.
        paths: inputs and outputs.
        device: of this rank.
        pictures: as ``Stage1Data``.
    """

    def __init__(
        self,
        config: Config,
        paths: Paths,
        device: torch.device,
        pictures: KeptPictures | None = None,
    ) -> None:
        self.config, self.paths, self.device = config, paths, device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.ranks = dist.get_world_size() if dist.is_initialized() else 1
        train = config.train
        self.features, self.scaling, cluster_M = training_rows(train, paths)
        samples = read_samples(paths.samples, ["id", "turns", "images"])
        limits = config.data.limits
        self.data = Stage1Data(samples, self.features, paths.model, train, limits, pictures)
        lengths_M = text_lengths(self.data.samples) if train.group_by_length else None
        self.batches = batches_of(train, len(self.data), config.seed, lengths_M)
        self.statistics = SampleStatistics.empty(len(self.data))
        model = self._model(self.features.features_ND.shape[1], cluster_M)
        self.engine = start_engine(model, train, self.batches.steps, self.ranks)
        self.agreement = Agreement(paths.output / STOP_FILE, device)
        self.log = StepLog(paths.output, train) if self.rank == 0 else None
        self.position = 0  # optimizer steps done
        self._learning_rate = 0.0

    def run(
        self,
        save: Callable[[dict[str, float]], None],
        noticed: Callable[[], bool] | None = None,
    ) -> dict[str, Any]:
        """Train to the end.

        Args:
            save: called by every rank at each checkpoint, with the metrics of the step; it has to
                call ``save_checkpoint``.
            noticed: called by every rank now and then, equally often: whether a machine is about
                to be taken away, so that a checkpoint is due at once.

        Returns:
            A summary: steps, ranks, and the last metrics.

        Raises:
            NotFiniteError: when the loss is no number any more.
            StoppedError: when the file ``stop`` in the output folder asked for it; a checkpoint is
                saved before.
        """
        metrics: dict[str, float] = {}
        loader = self._loader()
        while self.position < self.batches.steps:
            metrics = self._step(loader)
            if self.log is not None:
                self.log.write(metrics)
            if self.position < self.batches.steps:
                self._save_if_due(metrics, save, noticed)
        self._save_outputs()
        if self.log is not None:
            self.log.close()
        return {"steps": self.batches.steps, "world_size": self.ranks, **metrics}

    def save_checkpoint(self, folder: Path) -> None:
        """Everything needed to go on exactly from here. All ranks must call it."""
        save_checkpoint(folder, self.engine, self.position, self.statistics)

    def load_checkpoint(self, folder: Path) -> None:
        """Go on from a checkpoint, written by any number of ranks.

        Raises:
            ArtifactError: when it is damaged, or of another model.
        """
        position, self.statistics = load_checkpoint(folder, self.engine)
        self.position = position.steps
        if self.log is not None:
            self.log.start(self.position)

    def start_log(self) -> None:
        """Begin an empty log."""
        if self.log is not None:
            self.log.start(0)

    def _model(self, features: int, cluster_M: torch.Tensor | None) -> Stage1Model:
        train = self.config.train
        torch.manual_seed(self.config.seed)
        sharding = shards_at_load(train, self.ranks)
        dtype = torch.bfloat16 if train.bf16 else torch.float32
        vlm = load_model(self.paths.model, dtype, train.lora.quantize)
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
        first = self.position * self.batches.accumulation
        last = self.batches.steps * self.batches.accumulation
        rows = (slot.rows for number in range(first, last) for slot in self._slots(number))
        yield from DataLoader(
            self.data,
            batch_sampler=rows,  # type: ignore[arg-type]
            collate_fn=self.data.collate,
            num_workers=self.config.train.loader_workers,
            multiprocessing_context=self._start_method(),
            generator=torch.Generator(),
        )

    def _start_method(self) -> str | None:
        """Of loader workers. A process forked from one that talks to a store would hang in it."""
        far = self.config.train.loader_workers > 0 and self.data.reads_from_a_store
        return "spawn" if far else None

    def _slots(self, number: int) -> list[Slot]:
        return self.batches.slots(number, self.rank, self.ranks)

    def _step(self, loader: Iterator[Batch]) -> dict[str, float]:
        """One optimizer step; its metrics."""
        began = time.monotonic()
        first = self.position * self.batches.accumulation
        parts = []
        for number in range(first, first + self.batches.accumulation):
            slots = self._slots(number)
            batches = [next(loader).to(self.device) for _ in slots]
            rounds = self._rounds(number, slots, batches)
            for slot, batch, whole in zip(slots, batches, rounds, strict=True):
                parts.append(self._forward_backward(slot, batch, whole, len(slots)))
        self.position += 1
        return self._metrics(torch.stack(parts).sum(0), began)

    def _rounds(
        self, number: int, slots: Sequence[Slot], batches: Sequence[Batch]
    ) -> list[Round | None]:
        """For each slot what it must know of the whole round: with a global softmax only."""
        if self.config.train.weight_scope != "global" or self.config.train.objective == "plain":
            return [None] * len(slots)
        chunks = self.batches.round(number)
        rows = [row for chunk in chunks for row in chunk]
        features_GD = torch.from_numpy(self.features.features_ND[rows]).to(self.device)
        own = [
            supervised_tokens(batch.labels_BT).sum()
            for slot, batch in zip(slots, batches, strict=True)
            if not slot.repeats
        ]
        tokens = torch.stack([*own, torch.zeros((), device=self.device)]).sum()
        if self.ranks > 1:
            dist.all_reduce(tokens)
        starts = np.cumsum([0, *map(len, chunks)])
        return [
            Round(
                features_GD,
                torch.arange(starts[slot.place], starts[slot.place + 1], device=self.device),
                tokens,
                len(chunks),
            )
            for slot in slots
        ]

    def _forward_backward(
        self, slot: Slot, batch: Batch, whole: Round | None, slots: int
    ) -> torch.Tensor:
        """Forward, backward, and a step where an accumulation ends; what metrics are made of."""
        torch.manual_seed(chunk_seed(self.config.seed, slot.chunk))
        losses = self.engine(batch) if whole is None else self.engine(batch, whole)
        if not self.agreement.on(losses.loss):
            raise NotFiniteError(
                f"the loss is NaN or infinite at step {self.position + 1}: lower "
                "train.learning_rate, or look at the batch's data."
            )
        # DeepSpeed takes the mean over ranks and slots; wanted is the mean over the round's chunks.
        share = 0.0 if slot.repeats else self.ranks * slots / slot.chunks
        self.engine.backward(losses.loss * share)
        self._learning_rate = float(self.engine.get_lr()[0])  # step() moves on to the next one
        self.engine.step()
        if slot.repeats:
            return no_sums(self.device)
        self.statistics.record(slot.chunk, batch.rows, losses.loss_sum_B, losses.tokens_B)
        return chunk_sums(losses, 1.0 / (slot.chunks * self.batches.accumulation))

    def _metrics(self, sums: torch.Tensor, began: float) -> dict[str, float]:
        gradient = self.engine.get_global_grad_norm()  # not known without ZeRO
        known = {} if gradient is None else {"gradient_norm": float(gradient)}
        return {
            "step": self.position,
            "epoch": round(self.batches.epochs_after(self.position), 4),
            **known,
            "learning_rate": self._learning_rate,
            **step_metrics(sums, time.monotonic() - began),
        }

    def _save_if_due(
        self,
        metrics: dict[str, float],
        save: Callable[[dict[str, float]], None],
        noticed: Callable[[], bool] | None,
    ) -> None:
        due = self.position % self.config.train.checkpoint_steps == 0
        urgent = self.agreement.looked() and noticed is not None and noticed()
        if due or urgent or self.agreement.stop:
            save(metrics)
        if self.agreement.stop:
            if self.log is not None:
                self.log.close()
            raise StoppedError(
                f"it was asked to stop, after step {self.position} of {self.batches.steps}. The "
                "same command continues."
            )

    def _save_outputs(self) -> None:
        train = self.config.train
        whole = train.save_vlm and train.trainable.language_model != "lora"
        weights = full_weights(self.engine, frozen=whole, keep=self.rank == 0)
        statistics = self.statistics.merged(self.device)
        if self.rank == 0:
            save_outputs(self, weights, statistics)
        if self.ranks > 1:
            dist.barrier()
