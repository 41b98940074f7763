"""Stage 1 as a stage of a run: on the pool or a part of it, with a VLM that learns or with a frozen
one, of which the losses are enough.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from selfilter_ray.config import Config
from selfilter_ray.features.shards import model_hash, shard_seconds, usable_ids
from selfilter_ray.measure.table import load_measured
from selfilter_ray.measuring import PRE, VlmPass, drop_initial_vlm, make_pass, pass_before_tuning
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.stage1.rows import Paths, part_of_pool, training_rows
from selfilter_ray.stage1.stored import StoredLosses, train_from_losses
from selfilter_ray.stage1.summary import correlations
from selfilter_ray.stages import StageKeys
from selfilter_ray.storage.shared import remove
from selfilter_ray.training import train_into


def trained_part(config: Config, folder: RunFolder) -> np.ndarray | None:
    """The ids that Stage 1 trains on, sorted; None for all usable ones."""
    fraction = config.train.pool_fraction
    if fraction == 1.0:
        return None
    return part_of_pool(usable_ids(folder.features), fraction, config.seed)


def run_stage1(
    config: Config,
    folder: RunFolder,
    keys: StageKeys,
    part: np.ndarray | None,
    connect: Callable[[], None],
    advance: Callable[[int], None],
) -> dict[str, Any]:
    """Train the score net, and the VLM unless ``train.losses`` says that stored losses will do.

    Args:
        part: as ``trained_part``.
        connect: makes sure that Ray is up.
        advance: told each optimizer step.

    Returns:
        What goes into the stage's record, ``models`` among it.
    """
    if config.train.losses == "stored":
        summary = _from_stored_losses(config, folder, keys, connect, advance)
    else:
        summary = train_into(
            folder.stage1, keys["train"], config, folder, connect, advance, ids=part
        )
    models = {"vlm": summary.pop("vlm")}
    return {"models": models, **summary, "correlations": correlations(folder)}


def _from_stored_losses(
    config: Config,
    folder: RunFolder,
    keys: StageKeys,
    connect: Callable[[], None],
    advance: Callable[[int], None],
) -> dict[str, Any]:
    drop_initial_vlm(folder)
    losses = _losses_pass(config, folder, keys)
    make_pass(losses, config, folder, connect, lambda rows: None)
    began = time.monotonic()
    remove(folder.stage1)  # of another training
    paths = Paths(folder.samples, folder.features, folder.stage1, "", folder.ratings)
    inputs, scaling, _ = training_rows(config.train, paths)
    stored = StoredLosses.of(load_measured(losses.place, inputs.ids))
    summary = train_from_losses(config, inputs, scaling, stored, folder.stage1, advance)
    seconds = {"stored losses": shard_seconds(losses.place), "net": time.monotonic() - began}
    return {**summary, "vlm": model_hash(losses.place), "parts": seconds}


def _losses_pass(config: Config, folder: RunFolder, keys: StageKeys) -> VlmPass:
    """The pass that some method needs anyway, or is already there; otherwise one of losses only.

    A sample's loss is the same in both.
    """
    whole = pass_before_tuning(config, folder, keys["featurize"])
    rows = int(folder.require("read")["out"])
    if PRE in keys.wanted.models or whole.is_complete(config, rows):
        return whole
    return pass_before_tuning(config, folder, keys["featurize"], losses_only=True)
