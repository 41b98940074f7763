"""Which adapter a model gets: by the ``model_type`` of its config."""

from __future__ import annotations

from typing import Any

from selfilter_ray.errors import ConfigError
from selfilter_ray.stage1.families.auto import Auto
from selfilter_ray.stage1.families.contract import Family
from selfilter_ray.stage1.families.idefics import Idefics
from selfilter_ray.stage1.families.internvl import InternVl
from selfilter_ray.stage1.families.llava import Llava
from selfilter_ray.stage1.families.llava_next import LlavaNext
from selfilter_ray.stage1.families.minigpt4 import MiniGpt4
from selfilter_ray.stage1.families.qwen_vl import QwenVl

FAMILIES: tuple[type[Family], ...] = (Llava, LlavaNext, MiniGpt4, QwenVl, Idefics, InternVl)
BY_TYPE: dict[str, type[Family]] = {
    model_type: family for family in FAMILIES for model_type in family.model_types
}


def family_class(config: Any) -> type[Family]:
    """The adapter of a model with that config; ``Auto`` where it has none of its own.

    Raises:
        ConfigError: when there is none.
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    model_type = str(config.model_type)
    if model_type in BY_TYPE:
        return BY_TYPE[model_type]
    if model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ConfigError(
            f"models of type {model_type} are not supported: there are {', '.join(BY_TYPE)}, and "
            "what AutoModelForImageTextToText of transformers loads."
        )
    return Auto


def family_of(path: str) -> Family:
    """Load config and processor of a model, not its weights.

    Args:
        path: a folder or hub name.

    Raises:
        ConfigError: when no family fits, or the processor cannot be used.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path)
    kind = family_class(config)
    return kind(path, config, kind.load_processor(path, config))
