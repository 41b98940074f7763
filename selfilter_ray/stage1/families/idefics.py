"""Idefics3 and SmolVLM: tiles with their row and column, then the whole picture.

Shapes: N tiles, C H W a tile.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image

from selfilter_ray.stage1.families.contract import Family, Parts, Picture


class Idefics(Family):
    """``Idefics3ForConditionalGeneration`` and ``SmolVLMForConditionalGeneration``.

    The model takes (samples, pictures, C, H, W) and drops what is zero everywhere. A batch's tiles
    are given as those of one sample, so that none is padding.
    """

    model_types = ("idefics3", "smolvlm")

    @classmethod
    def load_processor(cls, path: str, config: Any) -> Any:
        """SmolVLM's own needs num2words, for videos; what it does to pictures is the same."""
        from transformers import Idefics3Processor

        return Idefics3Processor.from_pretrained(path)

    @classmethod
    def parts(cls, model: torch.nn.Module) -> Parts:
        return Parts(
            language_model="model.text_model",
            head="lm_head",
            projector=("model.connector",),
            vision=("model.vision_model",),
        )

    def picture(self, image: Image.Image) -> Picture:
        tokens, tensors = super().picture(image)
        return Picture(tokens, {name: value[0] for name, value in tensors.items()})

    def gather(self, pictures: Sequence[Picture]) -> dict[str, torch.Tensor]:
        """Smaller tiles are padded below and to the right, where their mask is zero."""
        sides = [picture.tensors["pixel_values"].shape[-2:] for picture in pictures]
        height, width = (max(side) for side in zip(*sides, strict=True))
        gathered = {}
        for name in pictures[0].tensors:
            parts = [_padded(picture.tensors[name], height, width) for picture in pictures]
            gathered[name] = torch.cat(parts)[None]
        return gathered


def _padded(tiles: torch.Tensor, height: int, width: int) -> torch.Tensor:
    below, right = height - tiles.shape[-2], width - tiles.shape[-1]
    return torch.nn.functional.pad(tiles, (0, right, 0, below))
