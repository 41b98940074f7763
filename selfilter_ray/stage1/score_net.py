"""The score net: one bias-free linear layer from features to z (Self-Filter, section 3).

Shapes: N samples, D features. Difficulty is d = -z.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError

FORMAT = "1"


class ScoreNet(torch.nn.Module):
    """z_i = w . x_i, without a bias: it would vanish in the softmax."""

    def __init__(self, features: int, init: Literal["zeros", "uniform"] = "zeros") -> None:
        super().__init__()
        self.linear = torch.nn.Linear(features, 1, bias=False)
        if init == "zeros":
            torch.nn.init.zeros_(self.linear.weight)

    def forward(self, features_ND: torch.Tensor) -> torch.Tensor:
        """(N, D) to (N,), in float32 whatever the parameters' type."""
        z_N1 = torch.nn.functional.linear(features_ND.float(), self.linear.weight.float())
        return z_N1.squeeze(-1)

    @property
    def features(self) -> int:
        """D."""
        return self.linear.in_features


def save_score_net(path: Path, weight_1D: torch.Tensor, metadata: dict[str, Any]) -> None:
    """Write the weights as safetensors, with what is needed to use them again as metadata."""
    tensors = {"weight": weight_1D.detach().float().cpu().contiguous()}
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
            weight_1D = file.get_tensor("weight")
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist: run the train stage first.") from None
    except (SafetensorError, OSError) as error:
        raise ArtifactError(f"{path} is not a whole safetensors file: {error}") from None
    metadata = _metadata(header)
    if metadata is None or weight_1D.ndim != 2 or len(weight_1D) != 1:
        raise ArtifactError(f"{path} is not a score net of format {FORMAT}.")
    if not torch.isfinite(weight_1D).all():
        raise ArtifactError(f"{path} holds NaN or Infinity: train again.")
    net = ScoreNet(weight_1D.shape[1])
    net.linear.weight.data.copy_(weight_1D)
    return net.requires_grad_(False), metadata


def _metadata(header: dict[str, str]) -> dict[str, Any] | None:
    """What ``save_score_net`` was given, or None where the header is not of its making."""
    try:
        metadata = json.loads(header["metadata"])
    except (KeyError, ValueError):
        return None
    return metadata if header.get("format") == FORMAT and isinstance(metadata, dict) else None
