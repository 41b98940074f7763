"""Where a VLM comes from: ``train.vlm`` and ``tune.vlm``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfilter_ray.strict import Positive, Strict


class VisionConfig(Strict):
    """A CLIP vision tower built from these sizes, with random weights."""

    image_size: Positive = 64
    patch_size: Positive = 16
    hidden_size: Positive = 64
    layers: Annotated[int, Field(ge=2)] = 2
    heads: Positive = 2

    @model_validator(mode="after")
    def _whole_patches(self) -> VisionConfig:
        if self.image_size % self.patch_size:
            raise ValueError("image_size must be a multiple of patch_size")
        if self.hidden_size % self.heads:
            raise ValueError("hidden_size must be a multiple of heads")
        return self


class TextConfig(Strict):
    """A LLaMA language model built from these sizes, with random weights and its own tokenizer."""

    vocab_size: Annotated[int, Field(ge=300)] = 512
    hidden_size: Positive = 96
    intermediate_size: Positive = 256
    layers: Positive = 2
    heads: Positive = 4

    @model_validator(mode="after")
    def _whole_heads(self) -> TextConfig:
        if self.hidden_size % self.heads:
            raise ValueError("hidden_size must be a multiple of heads")
        return self


class PretrainedVlm(Strict):
    """A whole VLM of any family: a folder or hub name."""

    kind: Literal["pretrained"] = "pretrained"
    path: str


class AssembledVlm(Strict):
    """A language model behind a vision tower and a projector, as LLaVA is first put together.

    ``language_model``: a folder, a hub name, or ``package:smollm2``. ``vision``: a folder or hub
    name of a CLIP model, or sizes for a new one. ``projector_weights``: a pretrained projector
    (``mm_projector.bin`` of the LLaVA releases, or safetensors).
    """

    kind: Literal["assembled"] = "assembled"
    language_model: str
    vision: str | VisionConfig = VisionConfig()
    projector: Literal["mlp", "linear"] = "mlp"
    projector_weights: str | None = None


class ScratchVlm(Strict):
    """A small LLaVA with random weights, for the quickstart and for tests."""

    kind: Literal["scratch"] = "scratch"
    vision: VisionConfig = VisionConfig()
    text: TextConfig = TextConfig()


VlmConfig = Annotated[PretrainedVlm | AssembledVlm | ScratchVlm, Field(discriminator="kind")]
