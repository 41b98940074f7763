"""Tunes a fresh VLM on some records and evaluates it. It knows nothing of Ray.

A process makes one of these and keeps it: what is slow to come by - libraries, the process group,
decoded pictures - is there for the second model.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from selfilter_ray.compare.trained.cells import Kind
from selfilter_ray.config import Config
from selfilter_ray.errors import DataError
from selfilter_ray.evaluate.evaluation import Evaluation, evaluate
from selfilter_ray.evaluate.table import NO_ANSWER
from selfilter_ray.features.shards import OK, TEXT_ONLY
from selfilter_ray.samples.files import SCHEMA, read_samples
from selfilter_ray.stage1.engine import prepare_accelerator
from selfilter_ray.stage1.outputs import VLM
from selfilter_ray.stage1.pictures import KeptPictures
from selfilter_ray.stage1.rows import Paths, write_rows
from selfilter_ray.stage1.trainer import Trainer

MIB = 2**20
COMPLETE = frozenset({OK, TEXT_ONLY, NO_ANSWER})


@dataclass(frozen=True)
class Places:
    """What cells read. On another host the paths are others.

    Attributes:
        samples, held_out: folders of samples.
        blind_samples, blind_held_out: the same without pictures.
    """

    samples: Path
    held_out: Path
    blind_samples: Path
    blind_held_out: Path


@dataclass(frozen=True)
class Work:
    """A cell as it travels to the process that does it.

    Attributes:
        model: what ``from_pretrained`` takes: the fresh model.
        tuned: a model that is tuned already and has only to be evaluated; None tunes.
    """

    kind: Kind
    seed: int
    steps: int | None
    ids: np.ndarray
    model: str
    tuned: str | None = None


class Tuner:
    """For any number of cells of one run.

    Args:
        config: of the run.
        places: on this host.
        device: ``cpu`` or ``cuda``.
        threads: of torch.
    """

    def __init__(self, config: Config, places: Places, device: str = "cpu", threads: int = 1):
        prepare_accelerator()
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed's device
        torch.set_num_threads(threads)
        if not dist.is_initialized():
            backend = "nccl" if device == "cuda" else "gloo"
            alone = dist.HashStore()  # type: ignore[attr-defined]
            dist.init_process_group(backend, store=alone, rank=0, world_size=1)
        self.config, self.places, self.device = config, places, device
        self.settings = config.compare.train
        self.pictures = KeptPictures(self.settings.pictures_mib * MIB)
        self.held_out = {
            blind: read_samples(folder, SCHEMA.names)
            for blind, folder in ((False, places.held_out), (True, places.blind_held_out))
        }

    def __call__(self, work: Work) -> dict[str, Any]:
        """Tune, evaluate, and forget the model.

        Returns:
            JSON values: the evaluation, ``steps``, the last ``loss`` and ``seconds`` of both.

        Raises:
            SelfilterError: with what to do.
        """
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="selfilter-cell-") as folder:
            model, summary = work.tuned or work.model, {}
            if work.kind != "fresh" and work.tuned is None:
                summary = self._tune(work, Path(folder))
                model = str(Path(folder) / VLM)
            tuned = time.monotonic()
            evaluation = evaluate(
                model,
                self.held_out[work.kind == "blind"],
                self.config.tuning(),
                self.config.data.limits,
                self.settings.evaluate,
                self.device,
                base=work.model,
                pictures=self.pictures,
            )
        _check_complete(evaluation)
        return {
            "evaluation": evaluation.to_json(),
            "steps": int(summary.get("steps", 0)),
            "loss": summary.get("plain_loss"),
            "seconds": {"tune": tuned - began, "evaluate": time.monotonic() - tuned},
        }

    def _tune(self, work: Work, folder: Path) -> dict[str, Any]:
        rows = folder / "rows.parquet"
        write_rows(rows, work.ids)
        samples = self.places.blind_samples if work.kind == "blind" else self.places.samples
        paths = Paths(samples, folder, folder, work.model, rows=rows)
        config = tuning_config(self.config, work.seed, work.steps)
        trainer = Trainer(config, paths, torch.device(self.device), self.pictures)
        try:
            trainer.start_log()
            return trainer.run(lambda metrics: None)
        finally:
            # The engine's hooks hold the model, and it them: the next one needs their memory.
            trainer.engine.destroy()
            del trainer
            gc.collect()
            if self.device == "cuda":
                torch.cuda.empty_cache()


def _check_complete(evaluation: Evaluation) -> None:
    """Models are compared on the same records, or not at all.

    Raises:
        DataError: when a picture could not be read, or the model does not give numbers any more.
    """
    bad = {k: n for k, n in evaluation.summary.statuses.items() if k not in COMPLETE}
    if bad:
        said = ", ".join(f"{count} {status}" for status, count in sorted(bad.items()))
        raise DataError(
            f"of {evaluation.summary.rows} held-out records could not be evaluated: {said}. "
            "Pictures must be readable on every host; where losses are no numbers, lower "
            "tune.learning_rate."
        )


def tuning_config(config: Config, seed: int, steps: int | None) -> Config:
    """The config under which a cell is tuned: without logs, and pictures stay in this process."""
    train = config.tuning().model_copy(update={"loggers": (), "loader_workers": 0})
    if steps is not None:
        train = train.model_copy(update={"steps": steps})
    return config.model_copy(update={"train": train, "seed": seed})
