"""LLaVA 1.0 and 1.5: one CLIP picture of a fixed number of tokens, Vicuna's prompt."""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from selfilter_ray.stage1.families.contract import Family, Parts, Picture


class Llava(Family):
    """``LlavaForConditionalGeneration``.

    Its tokens are counted by the config, since folders of older releases, and those that Stage 1
    wrote before, hold tokenizer and image processor without a processor's own settings.
    """

    model_types = ("llava",)
    prompt = "vicuna_v1"

    @classmethod
    def load_processor(cls, path: str, config: Any) -> Any:
        processor = super().load_processor(path, config)
        if processor.patch_size is None:
            processor.patch_size = config.vision_config.patch_size
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = 1  # the class token of a CLIP tower
        return processor

    @classmethod
    def parts(cls, model: torch.nn.Module) -> Parts:
        return Parts(
            language_model="model.language_model",
            head="lm_head",
            projector=("model.multi_modal_projector",),
            vision=("model.vision_tower",),
        )

    @classmethod
    def constants(cls, model: torch.nn.Module) -> tuple[str, ...]:
        """The second layer of transformers' projector is the identity for LLaVA 1.0's one."""
        config: Any = model.config
        linear = config.projector_hidden_act == "linear"
        return ("model.multi_modal_projector.linear_2",) if linear else ()

    def picture(self, image: Image.Image) -> Picture:
        made = self.processor.image_processor(image, return_tensors="pt")
        return Picture(self.fixed_tokens, {"pixel_values": made["pixel_values"]})

    @property
    def fixed_tokens(self) -> list[int]:
        return [self.image_id] * int(self.config.image_seq_length)
