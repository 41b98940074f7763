"""Scoring passes as parts of a run: which VLM passes over the pool, into which folder, under which
key. A pass that was stopped goes on, one that is complete is not made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from selfilter_ray.config import Config
from selfilter_ray.features.shards import plan_shards, shard_record, shards_to_make
from selfilter_ray.measure.settings import MeasureConfig
from selfilter_ray.run_folder import RunFolder, stage_key
from selfilter_ray.stage1.prepare import prepare_model
from selfilter_ray.training import INITIAL_VLM

PRE = "pre"  # the VLM before tuning
LOSSES = "losses"  # the same, but nothing is measured of it but the loss


@dataclass(frozen=True)
class VlmPass:
    """A pass of one VLM over the pool.

    Attributes:
        place: folder of its shards.
        key: what its rows depend on, the settings of the pass left out.
        vlm: gives the model.
        base: gives the model under it, where it may be adapters.
        measure: settings of the pass.
    """

    place: Path
    key: str
    vlm: Callable[[], str]
    base: Callable[[], str] | None
    measure: MeasureConfig

    def whole_key(self, config: Config) -> str:
        """The key of its shards."""
        train = config.train
        seen = (train.prompt, train.max_length, train.bf16)
        return stage_key(self.key, self.measure.result_fields(), seen)

    def is_complete(self, config: Config, rows: int) -> bool:
        """Whether all shards of a pool of so many rows are there."""
        key, plan = self.whole_key(config), plan_shards(rows, self.measure.shard_rows)
        return all(shard_record(self.place, shard, key) is not None for shard in plan)


def make_pass(
    made: VlmPass,
    config: Config,
    folder: RunFolder,
    connect: Callable[[], None],
    advance: Callable[[int], None],
) -> None:
    """Make what is missing of a pass; what its folder holds of another one is removed.

    Args:
        connect: makes sure that Ray is up.
        advance: told the rows of each finished shard.
    """
    rows, key = int(folder.require("read")["out"]), made.whole_key(config)
    todo = shards_to_make(made.place, key, rows, made.measure.shard_rows)
    if todo:
        connect()
        from selfilter_ray.distributed.measure import measure_shards

        measure_shards(
            made.vlm(),
            config.train,
            config.data.limits,
            made.measure,
            config.ray,
            todo,
            folder.samples,
            made.place,
            key,
            advance,
            made.base() if made.base is not None else None,
        )
    drop_initial_vlm(folder)


def pass_before_tuning(
    config: Config, folder: RunFolder, features_key: str, losses_only: bool = False
) -> VlmPass:
    """The pass of the VLM that Stage 1 starts from.

    Args:
        features_key: of the feature stage, whose samples it passes over.
        losses_only: leave out whatever is not the loss; it then has a folder of its own.
    """
    key = stage_key(features_key, config.train.vlm.result_fields(), config.seed)
    measure = config.measure
    if losses_only:
        nothing = {"no_image": False, "no_question": False, "grand": False}
        measure = measure.model_copy(update=nothing)
    place = folder.measured / (LOSSES if losses_only else PRE)
    return VlmPass(place, key, lambda: initial_vlm(config, folder), None, measure)


def initial_vlm(config: Config, folder: RunFolder) -> str:
    """The VLM before any tuning; ``drop_initial_vlm`` when it is not needed any more."""
    return prepare_model(config, folder.samples, folder.measured)


def drop_initial_vlm(folder: RunFolder) -> None:
    """Remove the VLM that was built for a pass, perhaps by an interrupted run of other settings."""
    shutil.rmtree(folder.measured / INITIAL_VLM, ignore_errors=True)
