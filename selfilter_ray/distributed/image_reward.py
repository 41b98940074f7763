"""The ImageReward pass on Ray Data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from selfilter_ray.config import Config
from selfilter_ray.distributed.passes import Pass, make_shards
from selfilter_ray.features.extract import COLUMNS
from selfilter_ray.features.shards import Shard
from selfilter_ray.scorers.image_reward.rater import ImageRewardRater


def reward_shards(
    config: Config,
    shards: Sequence[Shard],
    samples: Path,
    folder: Path,
    key: str,
    progress: Callable[[int], None],
) -> None:
    """Rate the samples of the given shards; arguments as ``featurize_shards``."""
    settings = config.ratings.image_reward
    assert settings is not None
    arguments = {"settings": settings, "limits": config.data.limits}
    work = Pass("ratings.image_reward", ImageRewardRater, arguments, COLUMNS, calls_per_actor=2)
    make_shards(work, settings, config.ray, shards, samples, folder, key, progress)
