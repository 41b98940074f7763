"""The feature pass on Ray Data: shards go to a pool of actors, files come out."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import torch
from ray.data import ActorPoolStrategy

from selfilter_ray.config import Config
from selfilter_ray.distributed.runtime import gpus_each, require
from selfilter_ray.errors import ConfigError, SelfilterError
from selfilter_ray.features.embedder import build_embedder
from selfilter_ray.features.extract import COLUMNS, Extractor
from selfilter_ray.features.shards import Shard, ShardRecord, finish_shard
from selfilter_ray.samples.files import read_sample_range

# Two shards in an actor at once: one is decoded while the model works on the other.
CALLS_PER_ACTOR = 2


class ShardActor:
    """Holds a model; makes one shard a call."""

    def __init__(self, config: dict[str, Any], samples: str, features: str, key: str) -> None:
        settings = Config.model_validate(config)
        torch.set_num_threads(settings.featurize.cpus_per_actor)
        self.samples, self.features, self.key = Path(samples), Path(features), key
        self.problem: SelfilterError | None = None
        device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        try:
            embedder = build_embedder(settings.featurize.embedder, device)
        except SelfilterError as error:
            self.problem = error  # raised here, it would reach the user as a death of the actor
            return
        self.extract = Extractor(embedder, settings.featurize, settings.data.limits)
        self.model = embedder.weights_hash()

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        if self.problem is not None:
            return {"rows": 0, "problem": str(self.problem)}
        began = time.monotonic()
        shard = Shard(int(row["number"]), int(row["start"]), int(row["stop"]))
        samples = read_sample_range(self.samples, shard.start, shard.stop, COLUMNS)
        table = self.extract(samples)
        record = ShardRecord(self.key, table.num_rows, time.monotonic() - began, self.model)
        finish_shard(self.features, shard, table, record)
        return {"rows": table.num_rows, "problem": ""}


def featurize_shards(
    config: Config,
    shards: list[Shard],
    samples: Path,
    features: Path,
    key: str,
    progress: Callable[[int], None],
) -> None:
    """Make the given shards, in any order, on as many actors as the config says.

    Args:
        config: the run's config; its ``featurize`` section is used.
        shards: what is still to be made.
        samples, features: folders that every node of the cluster can reach.
        key: goes into each completion record.
        progress: told the rows of each finished shard.

    Raises:
        ConfigError: when the embedder cannot be built.
    """
    settings = config.featurize
    gpus = gpus_each(settings.gpus_per_actor)
    lowest, highest = (
        settings.actors
        if isinstance(settings.actors, tuple)
        else (settings.actors, settings.actors)
    )
    require(config.ray, highest, settings.cpus_per_actor, gpus, "featurize.actors x cpus_per_actor")
    work = [{"number": s.number, "start": s.start, "stop": s.stop} for s in shards]
    dataset = ray.data.from_items(work, override_num_blocks=len(work)).map(
        ShardActor,  # type: ignore[arg-type]
        fn_constructor_kwargs={
            "config": config.model_dump(mode="json"),
            "samples": str(samples),
            "features": str(features),
            "key": key,
        },
        compute=ActorPoolStrategy(
            min_size=min(lowest, len(work)),
            max_size=min(highest, len(work)),
            max_concurrent_calls_per_actor=CALLS_PER_ACTOR,
            enable_true_multi_threading=True,
        ),
        num_cpus=settings.cpus_per_actor,
        num_gpus=gpus,
    )
    for row in dataset.iter_rows():
        if row["problem"]:
            raise ConfigError(row["problem"])
        progress(int(row["rows"]))
