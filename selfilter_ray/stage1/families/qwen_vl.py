"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: pictures of any size, positions in three dimensions."""

from __future__ import annotations

from typing import Any

import torch

from selfilter_ray.stage1.families.contract import Family, Parts


class QwenVl(Family):
    """The patches of all pictures follow each other; ``image_grid_thw`` tells them apart.

    Positions of a picture's tokens come from its grid and from ``mm_token_type_ids``. What the
    attention mask hides is left out of them.
    """

    model_types = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")

    def __init__(self, path: str, config: Any, processor: Any) -> None:
        super().__init__(path, config, processor)
        self.image_mark = f"<|vision_start|>{self.image_token}<|vision_end|>"

    @classmethod
    def parts(cls, model: torch.nn.Module) -> Parts:
        """The mergers, which lead from the tower to the text model, are inside the tower."""
        visual: Any = model.get_submodule("model.visual")
        children = [
            f"model.visual.{name}"
            for name, child in visual.named_children()
            if any(True for _ in child.parameters())
        ]
        return Parts(
            language_model="model.language_model",
            head="lm_head",
            projector=tuple(name for name in children if "merger" in name),
            vision=tuple(name for name in children if "merger" not in name),
        )

    def token_inputs(self, input_ids_BT: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": (input_ids_BT == self.image_id).to(torch.int32)}
