"""The config section of ImageReward."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfilter_ray.strict import Positive, Strict


class ImageRewardConfig(Strict):
    """ImageReward over Ray Data actors.

    ``weights``: path of ``ImageReward.pt``, or the same tensors as safetensors. ``config``: path of
    ``med_config.json``. ``tokenizer``: a folder with the ``vocab.txt`` of bert-base-uncased, or a
    hub name.
    """

    speed_only = frozenset({"actors", "decode_threads", "prefetch_batches"})

    weights: str
    config: str
    tokenizer: str = "bert-base-uncased"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    batch_size: Positive = 32
    actors: Positive | tuple[Positive, Positive] = 1
    cpus_per_actor: Positive = 1
    gpus_per_actor: Annotated[float, Field(ge=0.0)] | None = None
    decode_threads: Positive = 2
    prefetch_batches: Positive = 4

    @model_validator(mode="after")
    def _actor_range(self) -> ImageRewardConfig:
        if isinstance(self.actors, tuple) and self.actors[0] > self.actors[1]:
            raise ValueError("actors: [min, max] needs min <= max")
        return self
