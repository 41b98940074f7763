"""MiniGPT-4: BLIP-2's tower and Q-Former before a LLaMA, joined by one linear layer.

Only that layer, ``language_projection``, learns, unless the config says otherwise.
"""

from __future__ import annotations

from typing import Any

import torch
from PIL import Image

from selfilter_ray.errors import ConfigError
from selfilter_ray.stage1.families.contract import Family, Parts, Picture


class MiniGpt4(Family):
    """``Blip2ForConditionalGeneration`` with a decoder, such as Vicuna, for its text model.

    The prompt is that of MiniGPT-4 with Vicuna v0, ``###Human: ... ###Assistant: ...``. (The one
    with LLaMA 2, ``[INST] ... [/INST] ...``, is another.) A picture stands inside ``<Img>``.

    Raises:
        ConfigError: when the text model is an encoder with a decoder, or the processor's image
            token is not the model's.
    """

    model_types = ("blip-2",)
    prompt = "minigpt4"
    language_model = "frozen"
    needs_pictures = True

    def __init__(self, path: str, config: Any, processor: Any) -> None:
        if not config.use_decoder_only_language_model:
            raise ConfigError(
                f"the text model of {path} is an encoder with a decoder: Stage 1 trains BLIP-2 "
                "with a decoder, such as Vicuna."
            )
        super().__init__(path, config, processor)
        if self.image_id != config.image_token_id:
            raise ConfigError(
                f"{path}: the tokenizer's {self.image_token} is {self.image_id}, the config's "
                f"image_token_index is {config.image_token_id}. Make them agree."
            )
        self.image_mark = f"<Img>{self.image_token}</Img>"

    @classmethod
    def parts(cls, model: torch.nn.Module) -> Parts:
        """The Q-Former and its queries count as vision."""
        return Parts(
            language_model="language_model",
            head="language_model.lm_head",
            projector=("language_projection",),
            vision=("vision_model", "qformer", "query_tokens"),
        )

    def picture(self, image: Image.Image) -> Picture:
        """BLIP-2's own processor puts pictures before the whole text; here they have a place."""
        made = self.processor.image_processor(image, return_tensors="pt")
        return Picture(self.fixed_tokens, {"pixel_values": made["pixel_values"]})

    @property
    def fixed_tokens(self) -> list[int]:
        return [self.image_id] * int(self.config.num_query_tokens)
