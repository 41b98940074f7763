"""The public checkpoint: read without running code, checked tensor by tensor, then used."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.scorers.image_reward.med_config import MedConfig
from selfilter_ray.scorers.image_reward.model import ImageReward
from selfilter_ray.scorers.image_reward.public_names import (
    NOT_USED,
    public_name,
    text_config,
    vision_config,
)

_NAMES_SHOWN = 5


def load_image_reward(weights: Path, config: MedConfig) -> ImageReward:
    """The model with the weights of a file, in float32 on the CPU, for inference.

    Args:
        weights: ``ImageReward.pt``, a flat dict of tensors, or ``*.safetensors`` of its names.
        config: sizes of the text encoder; those of the image encoder come from the shapes.

    Raises:
        ConfigError: when there is no such file.
        ArtifactError: when it holds more than tensors, is cut off, or is not exactly the tensors of
            this architecture, naming those that are missing, unknown or of another shape.
    """
    state = read_state(weights)
    vision = vision_config({name: tuple(tensor.shape) for name, tensor in state.items()})
    with torch.device("meta"):
        model = ImageReward(vision, text_config(config, vision.hidden_size))
    empty = model.state_dict()
    _check(weights, state, {public_name(name): tensor for name, tensor in empty.items()})
    filled = {name: state[public_name(name)].float() for name in empty}
    model.load_state_dict(filled, strict=True, assign=True)
    positions = torch.arange(config.max_position_embeddings).unsqueeze(0)
    model.text.embeddings.position_ids = positions  # no weight: the only tensor no file fills
    return model.requires_grad_(False).eval()


def read_state(path: Path) -> dict[str, torch.Tensor]:
    """Names to tensors of a checkpoint, on the CPU.

    Raises:
        ConfigError: when there is no such file.
        ArtifactError: when it is refused or damaged.
    """
    if not path.is_file():
        raise ConfigError(
            f"image_reward.weights {path} is not a file: give the path of the release's "
            "ImageReward.pt."
        )
    try:
        state = _load(path)
    except pickle.UnpicklingError:
        raise ArtifactError(
            f"{path} is refused: it holds something else than tensors, and to read that could run "
            "code of whoever made the file. Take ImageReward.pt from its publisher, or safetensors."
        ) from None
    except Exception as error:  # torch and safetensors raise many types on damaged files
        raise ArtifactError(
            f"{path} cannot be read ({type(error).__name__}): it is cut off, or no checkpoint. "
            "Copy it again."
        ) from None
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise ArtifactError(f"{path} holds no names of tensors: take the release's ImageReward.pt.")
    others = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ArtifactError(f"{path} holds more than tensors: {_listed(others)}.")
    return state


def _load(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def _check(
    path: Path, state: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor]
) -> None:
    """Every tensor of the model is in the file, whole, and nothing else is."""
    both = [name for name in expected if name in state]
    problems = {
        "missing": [name for name in expected if name not in state],
        "unknown": [name for name in state if name not in expected and name not in NOT_USED],
        "of another shape": [
            f"{name} {tuple(state[name].shape)} instead of {tuple(expected[name].shape)}"
            for name in both
            if state[name].shape != expected[name].shape
        ],
        "not finite numbers": [name for name in both if not _is_finite(state[name])],
    }
    found = [f"{what}: {_listed(names)}" for what, names in problems.items() if names]
    if found:
        raise ArtifactError(
            f"{path} does not fit ImageReward with this med_config.json. {'; '.join(found)}. Take "
            "weights and config of one release."
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    plain = tensor.layout is torch.strided and tensor.device.type == "cpu"
    return plain and tensor.is_floating_point() and bool(torch.isfinite(tensor).all())


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")
