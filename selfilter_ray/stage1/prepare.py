"""Before Stage 1 starts: the initial model, and how long the run will be."""

from __future__ import annotations

import shutil
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from selfilter_ray.config import Config
from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.files import iterate_samples, read_samples
from selfilter_ray.stage1.batches import batches_of
from selfilter_ray.stage1.engine import prepare_accelerator
from selfilter_ray.stage1.vlm import prepare_vlm
from selfilter_ray.training import INITIAL_VLM


def prepare_model(config: Config, samples: Path, folder: Path) -> str:
    """What ``from_pretrained`` takes on every rank.

    Args:
        samples: of the run; a model from scratch gets its words from them.
        folder: where a model that has to be built is kept; remove it when it is not needed.
    """
    target = folder / INITIAL_VLM
    folder.mkdir(parents=True, exist_ok=True)
    if target.exists():
        return str(target)
    prepare_accelerator()
    disable_progress_bar()
    part = target.with_name(f"{INITIAL_VLM}.part")
    shutil.rmtree(part, ignore_errors=True)
    table = read_samples(samples, ["id", "turns"]).sort_by("id")
    texts = (turn.text for sample in iterate_samples(table) for turn in sample.turns)
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
    return batches_of(config.train, rows, config.seed).steps
