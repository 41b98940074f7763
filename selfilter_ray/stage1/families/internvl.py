"""InternVL: a picture as a row of tiles and a thumbnail, each of a fixed number of tokens."""

from __future__ import annotations

import torch

from selfilter_ray.stage1.families.contract import Family, Parts


class InternVl(Family):
    """``InternVLForConditionalGeneration``. Its tiles follow each other, picture after picture."""

    model_types = ("internvl",)

    @classmethod
    def parts(cls, model: torch.nn.Module) -> Parts:
        return Parts(
            language_model="model.language_model",
            head="lm_head",
            projector=("model.multi_modal_projector",),
            vision=("model.vision_tower",),
        )
