"""The feature pass and its embedders: config section ``featurize``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from selfilter_ray.strict import ActorsConfig, Positive, Strict


class OpenClipConfig(Strict):
    """Any open_clip architecture; ``pretrained``: a tag, a checkpoint, or null for none."""

    name: Literal["open_clip"] = "open_clip"
    architecture: str = "ViT-L-14"
    pretrained: str | None = "openai"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"


class BundledConfig(Strict):
    """EfficientNet-Lite0 and MiniLM, real weights that come as packages. Not CLIP."""

    name: Literal["bundled"] = "bundled"
    image_size: Annotated[int, Field(ge=32, le=512)] = 224


EmbedderConfig = Annotated[OpenClipConfig | BundledConfig, Field(discriminator="name")]


class FeaturizeConfig(ActorsConfig):
    """The feature pass over Ray Data actors.

    ``shard_rows`` records make one shard: the grain of work, of files and of resuming.
    """

    speed_only = frozenset({"actors", "decode_threads", "prefetch_batches"})

    embedder: EmbedderConfig = OpenClipConfig()
    batch_size: Positive = 64
    shard_rows: Positive = 2048
    decode_threads: Positive = 2
    prefetch_batches: Positive = 4
