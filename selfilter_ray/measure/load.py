"""The VLM to measure with: any folder that Stage 1 starts from or leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers.utils.logging import disable_progress_bar

from selfilter_ray.errors import ArtifactError, ConfigError, SelfilterError
from selfilter_ray.stage1.families.load import load_model

ADAPTERS = "adapter_config.json"
BESIDE_ADAPTERS = "beside_adapters.safetensors"  # as stage1/outputs.py leaves it


def whole_model(model: str, base: str | None) -> str:
    """What to load config, and processor from: adapters come without a config.

    Args:
        model: a folder or hub name of a VLM, or a folder of adapters.
        base: the model that adapters belong to; None takes the one that they name.

    Raises:
        ArtifactError: when the adapters' config is damaged.
    """
    file = Path(model) / ADAPTERS
    if not file.is_file():
        return model
    try:
        return base or str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(f"{file} is damaged ({error}): train again.") from None


def load_vlm(model: str, base: str | None, dtype: torch.dtype, device: str) -> Any:
    """A VLM for inference, with its adapters where ``model`` holds those.

    Raises:
        ArtifactError: when its folder is damaged.
        ConfigError: when it is not there.
    """
    disable_progress_bar()
    whole = whole_model(model, base)
    try:
        vlm = load_model(whole, dtype)
        if whole != model:
            vlm = _with_adapters(vlm, Path(model))
    except SelfilterError:
        raise
    except Exception as error:  # the loaders raise many types on damaged files
        kind = ArtifactError if Path(whole).is_dir() else ConfigError
        raise kind(
            f"the VLM {model} cannot be loaded: {error} Give the path of a whole model's folder, "
            "or the name of one that this machine can download; train again where it is Stage 1's."
        ) from error
    return vlm.to(device, dtype).eval().requires_grad_(False)


def _with_adapters(vlm: Any, folder: Path) -> Any:
    """Adapters laid over the model, not merged into it: in bfloat16 a sum would lose digits."""
    try:
        from peft import PeftModel
    except ImportError:
        raise ConfigError(f"{folder} holds adapters: they need selfilter-ray[lora].") from None
    adapted = PeftModel.from_pretrained(vlm, folder, autocast_adapter_dtype=False)
    beside = load_file(folder / BESIDE_ADAPTERS)
    unknown = adapted.load_state_dict(beside, strict=False).unexpected_keys
    if unknown:
        raise ArtifactError(f"{folder} does not fit its base: {unknown[0]} is not part of it.")
    return adapted.get_base_model()
