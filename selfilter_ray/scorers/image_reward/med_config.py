"""``med_config.json``: the sizes of the text encoder, as the public release writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.strict import Fraction, Strict

MAX_TOKENS = 35  # the release pads and cuts every text to this length

Width = Annotated[int, Field(ge=1, le=2**16)]


class MedConfig(Strict):
    """Every key that the release's file may hold; what is not needed for scoring is only checked.

    ``encoder_width`` is not used: the release replaces it by the width of its image encoder (the
    file says 768, ViT-L has 1024), and so does this.
    """

    hidden_size: Width
    num_hidden_layers: Annotated[int, Field(ge=1, le=256)]
    num_attention_heads: Width
    intermediate_size: Width
    max_position_embeddings: Annotated[int, Field(ge=MAX_TOKENS, le=2**16)]
    vocab_size: Annotated[int, Field(ge=1, le=2**22)]
    layer_norm_eps: Annotated[float, Field(gt=0)]
    hidden_act: Literal["gelu"]
    add_cross_attention: Literal[True]
    pad_token_id: Literal[0] = 0
    position_embedding_type: Literal["absolute"] = "absolute"
    model_type: Literal["bert"] = "bert"
    architectures: list[str] = Field(default_factory=list)
    attention_probs_dropout_prob: Fraction = 0.0
    hidden_dropout_prob: Fraction = 0.0
    initializer_range: float = 0.02
    type_vocab_size: Width = 2
    encoder_width: Width | None = None

    @model_validator(mode="after")
    def _whole_heads(self) -> MedConfig:
        if self.hidden_size % self.num_attention_heads:
            raise ValueError("hidden_size must be a multiple of num_attention_heads")
        return self


def read_med_config(path: Path) -> MedConfig:
    """The checked file.

    Raises:
        ConfigError: when there is no such file.
        ArtifactError: when it is not JSON, lacks a key, or describes another architecture.
    """
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"image_reward.config {path} cannot be read: {error.strerror}. Give the path of the "
            "release's med_config.json."
        ) from None
    try:
        return MedConfig.model_validate(json.loads(text), strict=True)
    except ValidationError as error:
        wrong = [f"{_key(item['loc'])}: {item['msg']}" for item in error.errors()]
        raise ArtifactError(
            f"{path} does not describe ImageReward's text encoder: {'; '.join(wrong)}. Take the "
            "release's med_config.json."
        ) from None
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} is not JSON: {error}. Copy it again.") from None


def _key(location: tuple[int | str, ...]) -> str:
    return ".".join(map(str, location)) or "the file"
