"""The scoring pass on Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from selfilter_ray.config import LimitsConfig, RayConfig, TrainConfig
from selfilter_ray.distributed.passes import Pass, make_shards
from selfilter_ray.features.shards import Shard
from selfilter_ray.measure.measurer import COLUMNS, Measurer
from selfilter_ray.measure.settings import MeasureConfig


def measure_shards(
    model: str,
    train: TrainConfig,
    limits: LimitsConfig,
    measure: MeasureConfig,
    ray_config: RayConfig,
    shards: Sequence[Shard],
    samples: Path,
    folder: Path,
    key: str,
    progress: Callable[[int], None],
    base: str | None = None,
) -> None:
    """Measure the given shards with one VLM, on as many actors as ``measure`` says.

    Args:
        model, train, limits, measure, base: as ``Measurer``.
        ray_config: of the instance that is up.
        shards: what is still to be made.
        samples, folder: where to read and to write; every node of the cluster must reach them.
        key: goes into each completion record.
        progress: told the rows of each finished shard.

    Raises:
        SelfilterError: when the model cannot be loaded.
    """
    arguments = {
        "model": model,
        "train": train,
        "limits": limits,
        "measure": measure,
        "base": base,
    }
    work = Pass("measure", Measurer, arguments, COLUMNS, calls_per_actor=2)
    make_shards(work, measure, ray_config, shards, samples, folder, key, progress)
