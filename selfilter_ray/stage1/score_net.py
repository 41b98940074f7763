"""The score net: from a sample's inputs to z. Self-Filter's is one bias-free linear layer
(section 3); CoIDO's is a small MLP.

Shapes: N samples, D features. Difficulty is d = -z.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError

FORMAT = "1"


class ScoreNet(torch.nn.Module):
    """z_i = w . x_i, without a bias: it would vanish in the softmax.

    With ``hidden`` sizes there are as many layers with a bias and a ReLU before that.
    """

    def __init__(
        self,
        features: int,
        init: Literal["zeros", "uniform"] = "zeros",
        hidden: Sequence[int] = (),
    ) -> None:
        super().__init__()
        sizes = [features, *hidden]
        self.hidden = torch.nn.ModuleList(
            torch.nn.Linear(before, after) for before, after in itertools.pairwise(sizes)
        )
        self.linear = torch.nn.Linear(sizes[-1], 1, bias=False)
        self.features = features
        if init == "zeros":
            torch.nn.init.zeros_(self.linear.weight)

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        """(N, D) to (N,), in float32 (float64 for float64) whatever the parameters' type."""
        x_ND = features_ND if features_ND.dtype == torch.float64 else features_ND.float()
        for layer in self.hidden:
            x_ND = torch.relu(_linear(x_ND, layer))
        return _linear(x_ND, self.linear).squeeze(-1)


def _linear(x_ND: torch.Tensor, layer: Any) -> torch.Tensor:
    bias = None if layer.bias is None else layer.bias.to(x_ND.dtype)
    return torch.nn.functional.linear(x_ND, layer.weight.to(x_ND.dtype), bias)


def save_score_net(
    path: Path, weights: Mapping[str, torch.Tensor], metadata: dict[str, Any]
) -> None:
    """Write the weights as safetensors, with what is needed to use them again as metadata.

    Args:
        weights: the net's state; a linear net is stored as the one tensor ``weight``.
    """
    tensors = {name: value.detach().float().cpu().contiguous() for name, value in weights.items()}
    tensors["weight"] = tensors.pop("linear.weight")
    header = {"format": FORMAT, "metadata": json.dumps(metadata, sort_keys=True)}
    atomic.write_with(path, lambda temporary: save_file(tensors, temporary, metadata=header))


def load_score_net(path: Path) -> tuple[ScoreNet, dict[str, Any]]:
    """The score net and its metadata.

    Raises:
        ArtifactError: when the file is missing, cut off, no safetensors, or of another version.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist: run the train stage first.") from None
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file: {error}") from None
    metadata = _metadata(header)
    net = _net(tensors) if metadata is not None else None
    if net is None or metadata is None:
        raise ArtifactError(f"{path} is not a score net of format {FORMAT}.")
    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ArtifactError(f"{path} holds NaN or Infinity: train again.")
    return net.requires_grad_(False), metadata


def _net(tensors: dict[str, torch.Tensor]) -> ScoreNet | None:
    """The net whose state these are, or None."""
    state = {"linear.weight" if name == "weight" else name: t for name, t in tensors.items()}
    last = state.get("linear.weight")
    layers = [state.get(f"hidden.{n}.weight") for n in range(len(state) // 2)]
    first = next((layer for layer in layers if layer is not None), last)
    if first is None or first.ndim != 2:
        return None
    hidden = [len(layer) for layer in layers if layer is not None]
    net = ScoreNet(first.shape[1], hidden=hidden)
    try:
        net.load_state_dict(state)
    except RuntimeError:
        return None
    return net


def _metadata(header: dict[str, str]) -> dict[str, Any] | None:
    """What ``save_score_net`` was given, or None where the header is not of its making."""
    try:
        metadata = json.loads(header["metadata"])
    except (KeyError, ValueError):
        return None
    return metadata if header.get("format") == FORMAT and isinstance(metadata, dict) else None
