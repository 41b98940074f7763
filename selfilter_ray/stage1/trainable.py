"""Which parameters of a VLM learn: whole parts, adapters, or neither."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import torch

from selfilter_ray.config import LoraConfig, TrainConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.stage1.families.contract import Family, Parts
from selfilter_ray.stage1.families.registry import family_class

AUTO, LORA = "auto", "lora"
LINEAR_LAYERS = re.compile(
    r"(q_proj|k_proj|v_proj|o_proj|qkv_proj|gate_proj|up_proj|down_proj|gate_up_proj)$"
)


def language_model_mode(config: TrainConfig, family: type[Family]) -> str:
    """``full``, ``lora`` or ``frozen``: ``auto`` is the family's own."""
    mode = config.trainable.language_model
    return family.language_model if mode == AUTO else mode


def with_trainable_parts(vlm: Any, config: TrainConfig) -> torch.nn.Module:
    """Freeze what is not to learn; add the adapters when they are asked for.

    Args:
        vlm: the model as ``load_model`` gives it.

    Returns:
        The model, or peft's around it.

    Raises:
        ConfigError: when nothing of it is left to learn with adapters, or peft is not there.
    """
    family = family_class(vlm.config)
    mode = language_model_mode(config, family)
    parts = family.parts(vlm)
    learning = _learning(vlm, parts, config, mode) - _within(vlm, family.constants(vlm))
    for name, value in vlm.named_parameters():
        value.requires_grad_(name in learning)
    if config.gradient_checkpointing:
        vlm.gradient_checkpointing_enable({"use_reentrant": False})
    if mode != LORA:
        whole: torch.nn.Module = vlm
        return whole
    adapted = _with_lora(vlm, parts, config.lora)
    for name, value in adapted.named_parameters():
        if name.removeprefix("base_model.model.") in learning:
            value.requires_grad_(True)
    return adapted


def still_towers(vlm: Any) -> list[torch.nn.Module]:
    """Modules of the vision part in which nothing learns, as a Q-Former with its dropout."""
    parts = set(family_class(vlm.config).parts(vlm).vision)
    return [
        module
        for name, module in vlm.named_modules()
        if name in parts and not any(value.requires_grad for value in module.parameters())
    ]


def _learning(vlm: torch.nn.Module, parts: Parts, config: TrainConfig, mode: str) -> set[str]:
    chosen = config.trainable
    language = _within(vlm, [part for part in (parts.language_model, parts.head) if part])
    vision, projector = _within(vlm, parts.vision), _within(vlm, parts.projector)
    learning: set[str] = set()
    if mode == "full":
        learning |= language - vision - projector
    if chosen.vision_tower:
        learning |= vision - projector
    if chosen.projector:
        learning |= projector
    return learning


def _within(vlm: torch.nn.Module, parts: Iterable[str]) -> set[str]:
    """Names of the parameters of those submodules, or of those that are themselves named.

    Raises:
        ConfigError: when the model has no such part.
    """
    names = [name for name, _ in vlm.named_parameters(remove_duplicate=False)]
    found: set[str] = set()
    for part in parts:
        inside = {name for name in names if name == part or name.startswith(part + ".")}
        if not inside:
            raise ConfigError(
                f"this {type(vlm).__name__} has no {part}: its parts are not where its family "
                "has them. Use a checkpoint in transformers' own form."
            )
        found |= inside
    return found


def _with_lora(vlm: Any, parts: Parts, config: LoraConfig) -> torch.nn.Module:
    try:
        from peft import LoraConfig as PeftLora
        from peft import get_peft_model
    except ImportError:
        raise ConfigError(
            "train.trainable.language_model: lora needs selfilter-ray[lora]."
        ) from None
    targets = lora_targets(vlm, parts)
    adapter = PeftLora(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=targets
    )
    adapted: torch.nn.Module = get_peft_model(vlm, adapter)
    return adapted


def lora_targets(vlm: torch.nn.Module, parts: Parts) -> list[str]:
    """Linear layers of the language model's attention and MLP, by the names that models use.

    Raises:
        ConfigError: when there is none.
    """
    beside = (*parts.vision, *parts.projector)
    targets = [
        name
        for name, _ in vlm.named_modules()
        if name.startswith(parts.language_model + ".")
        and not any(name.startswith(part + ".") for part in beside)
        and LINEAR_LAYERS.search(name)
    ]
    if not targets:
        raise ConfigError(
            f"no layer of {type(vlm).__name__}'s language model has a name that adapters are known "
            "for: set train.trainable.language_model to full or frozen."
        )
    return targets
