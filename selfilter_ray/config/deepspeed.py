"""``deepspeed`` of a config: a mapping, or the path of a DeepSpeed JSON file that holds one.

What the file says is taken in when the config is read, so that a run's key depends on it and not
on its name, and no worker needs it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator

# The loop counts on these: they come from batch_size, gradient_accumulation and learning_rate.
RESERVED = frozenset(
    {
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "optimizer",
        "scheduler",
    }
)
AUTO = "auto"


def _mapping(value: Any) -> Any:
    """The file's content; values "auto" are left out, as other settings or DeepSpeed decide."""
    if not isinstance(value, str):
        return value
    try:
        tree = json.loads(Path(value).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{value} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"{value} is not JSON: {error}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{value} must hold a mapping of DeepSpeed settings")
    return _without_auto(tree)


def _without_auto(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(value) if isinstance(value, dict) else value
        for key, value in tree.items()
        if value != AUTO
    }


def _unreserved(deepspeed: dict[str, Any]) -> dict[str, Any]:
    taken = sorted(RESERVED & deepspeed.keys())
    if taken:
        raise ValueError(f"deepspeed.{taken[0]} is made from other settings of train: set those")
    if _section(deepspeed, "fp16").get("enabled"):
        raise ValueError("deepspeed.fp16 is not supported: use bf16, or float32 with bf16: false")
    if "enabled" in _section(deepspeed, "bf16"):
        raise ValueError("deepspeed.bf16.enabled is made from train.bf16: set that")
    for part in ("offload_optimizer", "offload_param"):
        _refuse_nvme(_section(_section(deepspeed, "zero_optimization"), part), part)
    return deepspeed


def _section(tree: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = tree.get(key)
    return value if isinstance(value, dict) else {}


def _refuse_nvme(section: Mapping[str, Any], part: str) -> None:
    if section.get("device") == "nvme":
        raise ValueError(
            f"deepspeed.zero_optimization.{part}.device: nvme cannot be checkpointed: use cpu"
        )


DeepSpeedSettings = Annotated[
    dict[str, Any], BeforeValidator(_mapping), AfterValidator(_unreserved)
]
