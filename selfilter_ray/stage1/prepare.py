"""Before Stage 1 starts: the initial model, and how long the run will be."""

from __future__ import annotations

import shutil

from transformers.utils.logging import disable_progress_bar

from selfilter_ray.config import Config
from selfilter_ray.errors import ConfigError
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import iterate_samples, read_samples
from selfilter_ray.stage1.data import Batches
from selfilter_ray.stage1.engine import prepare_accelerator
from selfilter_ray.stage1.vlm import prepare_vlm

INITIAL_VLM = "initial_vlm"


def prepare_model(config: Config, folder: RunFolder) -> str:
    """What ``from_pretrained`` takes on every rank; a model to be built lies in ``stage1/``."""
    target = folder.stage1 / INITIAL_VLM
    folder.stage1.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return str(target)
    prepare_accelerator()
    disable_progress_bar()
    part = target.with_name(f"{INITIAL_VLM}.part")
    shutil.rmtree(part, ignore_errors=True)
    samples = read_samples(folder.samples, ["id", "turns"]).sort_by("id")
    texts = (turn.text for sample in iterate_samples(samples) for turn in sample.turns)
    try:
        name = prepare_vlm(config.train.vlm, part, texts, config.seed)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"train.vlm cannot be loaded: {error} Give the path of a model's folder, or the name "
            "of one that this machine can download."
        ) from error
    if not part.exists():
        return name
    part.rename(target)
    return str(target)


def count_steps(config: Config, rows: int) -> int:
    """Optimizer steps of the whole run."""
    train = config.train
    batches = Batches(
        rows,
        train.batch_size,
        train.gradient_accumulation,
        train.epochs,
        config.seed,
        ranks=train.workers,
    )
    return batches.steps
