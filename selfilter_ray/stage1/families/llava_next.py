"""LLaVA-NeXT (1.6): the whole picture and its tiles, in a grid that fits the picture's shape.

Shapes: N tiles of a picture, C H W a tile.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from selfilter_ray.stage1.families.contract import Family, Parts, Picture


class LlavaNext(Family):
    """``LlavaNextForConditionalGeneration``, under its own chat template.

    There is one for each of its language models: Vicuna, Mistral, Yi, LLaMA 3.
    """

    model_types = ("llava_next",)

    @classmethod
    def load_processor(cls, path: str, config: Any) -> Any:
        processor = super().load_processor(path, config)
        if processor.patch_size is None:  # folders of older releases leave it to the model
            processor.patch_size = config.vision_config.patch_size
            processor.vision_feature_select_strategy = config.vision_feature_select_strategy
            processor.num_additional_image_tokens = 1  # the class token of a CLIP tower
        return processor

    @classmethod
    def parts(cls, model: torch.nn.Module) -> Parts:
        return Parts(
            language_model="model.language_model",
            head="lm_head",
            projector=("model.multi_modal_projector", "model.image_newline"),
            vision=("model.vision_tower",),
        )

    def picture(self, image: Image.Image) -> Picture:
        """The tiles of a batch's pictures follow each other, so that none has to be padded.

        The model counts each picture's from ``image_sizes``.
        """
        tokens, tensors = super().picture(image)
        pixel_values_NCHW = tensors["pixel_values"][0]
        return Picture(tokens, tensors | {"pixel_values": pixel_values_NCHW})
