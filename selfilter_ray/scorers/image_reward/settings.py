"""The config section of ImageReward."""

from __future__ import annotations

from typing import Literal

from selfilter_ray.strict import ActorsConfig, Positive


class ImageRewardConfig(ActorsConfig):
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
    decode_threads: Positive = 2
    prefetch_batches: Positive = 4
