"""The feature pass on Ray Data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from selfilter_ray.config import Config, FeaturizeConfig, LimitsConfig
from selfilter_ray.distributed.passes import Pass, make_shards
from selfilter_ray.features.embedder import build_embedder
from selfilter_ray.features.extract import COLUMNS, Extractor
from selfilter_ray.features.shards import Shard


class FeatureMaker(Extractor):
    """An extractor with the embedder that its settings name."""

    def __init__(self, featurize: FeaturizeConfig, limits: LimitsConfig, device: str) -> None:
        super().__init__(build_embedder(featurize.embedder, device), featurize, limits)

    def weights_hash(self) -> str:
        return self.embedder.weights_hash()


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
    arguments = {"featurize": settings, "limits": config.data.limits}
    work = Pass("featurize", FeatureMaker, arguments, COLUMNS, calls_per_actor=2)
    make_shards(work, settings, config.ray, shards, samples, features, key, progress)
