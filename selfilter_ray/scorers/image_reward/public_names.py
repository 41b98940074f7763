"""The tensors of the public checkpoint: their names, and the sizes that their shapes give away."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping

from transformers import BlipTextConfig, BlipVisionConfig

from selfilter_ray.errors import ArtifactError
from selfilter_ray.scorers.image_reward.med_config import MedConfig

# In the file, but no part of the score: position_ids is 0, 1, 2, ...; the two projections belong
# to BLIP's contrastive loss and were frozen while the reward was learned.
NOT_USED = frozenset(
    {
        "blip.text_encoder.embeddings.position_ids",
        "blip.vision_proj.weight",
        "blip.vision_proj.bias",
        "blip.text_proj.weight",
        "blip.text_proj.bias",
    }
)

VISION = "blip.visual_encoder."
_PARTS = {"vision.": VISION, "text.": "blip.text_encoder.", "head.": "mlp."}
_VISION_NAMES = {
    "embeddings.class_embedding": "cls_token",
    "embeddings.position_embedding": "pos_embed",
    "embeddings.patch_embedding": "patch_embed.proj",
    "encoder.layers": "blocks",
    "layer_norm1": "norm1",
    "layer_norm2": "norm2",
    "self_attn.qkv": "attn.qkv",  # both keep query, key and value as thirds of one matrix
    "self_attn.projection": "attn.proj",
    "post_layernorm": "norm",
}
_HEAD_WIDTH = 64  # of ViT-B and ViT-L; shapes do not tell it
_BLOCK = re.compile(rf"{re.escape(VISION)}blocks\.(\d+)\.")


def public_name(name: str) -> str:
    """What the public checkpoint calls a tensor of ``ImageReward``."""
    part = name[: name.index(".") + 1]
    rest = name.removeprefix(part)
    if part == "vision.":
        for ours, public in _VISION_NAMES.items():
            rest = rest.replace(ours, public)
    return _PARTS[part] + rest


def vision_config(shapes: Mapping[str, tuple[int, ...]]) -> BlipVisionConfig:
    """Sizes of the image encoder, from the shapes of a checkpoint's tensors.

    Raises:
        ArtifactError: when a tensor that tells a size is missing or has an impossible shape.
    """
    patch = _shape(shapes, "patch_embed.proj.weight", 4)
    positions = _shape(shapes, "pos_embed", 3)
    hidden = _shape(shapes, "blocks.0.mlp.fc1.weight", 2)
    width, patch_size = patch[0], patch[2]
    grid = math.isqrt(max(positions[1] - 1, 0))
    if width < 1 or width % _HEAD_WIDTH or patch_size < 1 or grid < 1:
        raise ArtifactError(
            f"the checkpoint's image encoder is no ViT of BLIP: {VISION}patch_embed.proj.weight "
            f"has shape {patch} (its width must be a multiple of {_HEAD_WIDTH}), {VISION}pos_embed "
            f"{positions}. Take the release's ImageReward.pt."
        )
    return BlipVisionConfig(
        hidden_size=width,
        intermediate_size=hidden[0],
        num_hidden_layers=len({match[1] for match in map(_BLOCK.match, shapes) if match}),
        num_attention_heads=width // _HEAD_WIDTH,
        image_size=grid * patch_size,
        patch_size=patch_size,
        hidden_act="gelu",
        layer_norm_eps=1e-6,
    )


def text_config(config: MedConfig, vision_width: int) -> BlipTextConfig:
    """Sizes of the text encoder, which looks at image states of ``vision_width``."""
    return BlipTextConfig(
        vocab_size=config.vocab_size,
        hidden_size=config.hidden_size,
        encoder_hidden_size=vision_width,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        max_position_embeddings=config.max_position_embeddings,
        hidden_act=config.hidden_act,
        layer_norm_eps=config.layer_norm_eps,
        pad_token_id=config.pad_token_id,
        is_decoder=True,  # transformers makes the cross-attention for this; the call stays two-way
    )


def _shape(shapes: Mapping[str, tuple[int, ...]], name: str, dimensions: int) -> tuple[int, ...]:
    shape = shapes.get(VISION + name, ())
    if len(shape) != dimensions:
        found = f"has shape {shape}" if VISION + name in shapes else "is missing"
        raise ArtifactError(
            f"the checkpoint is not ImageReward: {VISION}{name} {found}. Take the release's "
            "ImageReward.pt, or the same tensors under the same names as safetensors."
        )
    return shape
