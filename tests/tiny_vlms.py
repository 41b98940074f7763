"""A tiny model of every family, built here: random weights, its own tokenizer and processor.

Each is saved as a folder that ``AutoProcessor`` and ``AutoModelForImageTextToText`` load. Noise is
added to all weights, so that pictures, positions and biases matter to the loss.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from tiny_tokenizers import (
    COMMAND,
    IDEFICS,
    INTERN,
    MISTRAL,
    QWEN,
    byte_tokenizer,
    llama_tokenizer,
)

SIDE = 32  # pixels of a tower's input
TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
}
VISION: dict[str, Any] = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _llama(tokenizer: Any) -> Any:
    return transformers.LlamaConfig(**TEXT, **_ids(tokenizer))


def _ids(tokenizer: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def _clip() -> Any:
    return transformers.CLIPVisionConfig(**VISION, image_size=SIDE, patch_size=16)


def llava() -> tuple[Any, Any]:
    """LLaVA 1.5: 4 tokens a picture."""
    tokenizer = llama_tokenizer("<image>")
    size = {"height": SIDE, "width": SIDE}
    processor = transformers.LlavaProcessor(
        transformers.CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size=size),
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    config = transformers.LlavaConfig(
        vision_config=_clip(),
        text_config=_llama(tokenizer),
        image_token_index=processor.image_token_id,
        image_seq_length=4,
    )
    return transformers.LlavaForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    """LLaVA-NeXT: the whole picture, its tiles, and a token at the end of each row."""
    tokenizer = llama_tokenizer("<image>")
    grid = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]
    images = transformers.LlavaNextImageProcessor(
        size={"shortest_edge": SIDE},
        crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=grid,
    )
    processor = transformers.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=16,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=MISTRAL,
    )
    config = transformers.LlavaNextConfig(
        vision_config=_clip(),
        text_config=_llama(tokenizer),
        image_token_index=processor.image_token_id,
        image_grid_pinpoints=grid,
    )
    return transformers.LlavaNextForConditionalGeneration(config), processor


def minigpt4() -> tuple[Any, Any]:
    """BLIP-2 with a LLaMA: 4 queries a picture. The Q-Former has dropout, as the published one."""
    tokenizer = llama_tokenizer("<image>")
    processor = transformers.Blip2Processor(
        transformers.BlipImageProcessor(size={"height": SIDE, "width": SIDE}),
        tokenizer,
        num_query_tokens=4,
    )
    config = transformers.Blip2Config(
        vision_config=transformers.Blip2VisionConfig(**VISION, image_size=SIDE, patch_size=16),
        qformer_config=transformers.Blip2QFormerConfig(
            vocab_size=8, encoder_hidden_size=24, max_position_embeddings=8, **VISION
        ),
        text_config=_llama(tokenizer),
        num_query_tokens=4,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return transformers.Blip2ForConditionalGeneration(config), processor


QWEN_MARKS = (
    "<|im_start|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


def _qwen(name: str, vision: dict[str, Any], video: Any) -> tuple[Any, Any]:
    """Dynamic resolution: patches of 4 pixels, four of which are one token."""
    tokenizer = byte_tokenizer("<|im_end|>", *QWEN_MARKS)
    patches = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2}
    processor = getattr(transformers, f"{name}Processor")(
        transformers.Qwen2VLImageProcessor(
            size={"shortest_edge": 16 * 16, "longest_edge": SIDE * SIDE}, **patches
        ),
        tokenizer,
        video(**patches),
        chat_template=QWEN,
    )
    text = TEXT | _ids(tokenizer) | {"head_dim": 8}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
    place = {
        f"{kind}_token_id": tokenizer.convert_tokens_to_ids(f"<|{mark}|>")
        for kind, mark in {
            "image": "image_pad",
            "video": "video_pad",
            "vision_start": "vision_start",
            "vision_end": "vision_end",
        }.items()
    }
    sizes = {
        "depth": 2,
        "num_heads": 2,
        "patch_size": 4,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    }
    config = getattr(transformers, f"{name}Config")(
        vision_config=sizes | vision, text_config=text | {"rope_parameters": rope}, **place
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    """Qwen2-VL."""
    vision = {"embed_dim": 24, "hidden_size": 32, "mlp_ratio": 2}
    return _qwen("Qwen2VL", vision, transformers.Qwen2VLVideoProcessor)


def qwen2_5_vl() -> tuple[Any, Any]:
    """Qwen2.5-VL: one layer of its tower attends inside windows of two by two tokens."""
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "window_size": 16,
        "fullatt_block_indexes": [1],
    }
    return _qwen("Qwen2_5_VL", vision, transformers.Qwen2VLVideoProcessor)


def qwen3_vl() -> tuple[Any, Any]:
    """Qwen3-VL: a tower's first layer is added to the text's first layer (DeepStack)."""
    vision = {
        "hidden_size": 24,
        "intermediate_size": 32,
        "out_hidden_size": 32,
        "num_position_embeddings": 64,
        "deepstack_visual_indexes": [0],
    }
    return _qwen("Qwen3VL", vision, transformers.Qwen3VLVideoProcessor)


def _idefics(name: str, tokenizer: Any, images: Any) -> tuple[Any, Any]:
    """Tiles of 32 pixels, 4 tokens each, with row and column, and the whole picture."""
    processor = transformers.Idefics3Processor(
        images(size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}),
        tokenizer,
        image_seq_len=4,
        chat_template=IDEFICS,
    )
    config = getattr(transformers, f"{name}Config")(
        vision_config=VISION | {"image_size": SIDE, "patch_size": 8},
        text_config=_llama(tokenizer),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        pad_token_id=tokenizer.pad_token_id,
        scale_factor=2,
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), processor


def _idefics_tokenizer() -> Any:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    marks = ("<fake_token_around_image>", "<image>", "<global-img>", "<|im_start|>", *places)
    return byte_tokenizer("<end_of_utterance>", *marks)


def idefics3() -> tuple[Any, Any]:
    """Idefics3."""
    return _idefics("Idefics3", _idefics_tokenizer(), transformers.Idefics3ImageProcessor)


def smolvlm() -> tuple[Any, Any]:
    """SmolVLM2: its own processor needs num2words, for videos; see ``save``."""
    return _idefics("SmolVLM", _idefics_tokenizer(), transformers.SmolVLMImageProcessor)


def internvl() -> tuple[Any, Any]:
    """InternVL: up to 4 tiles and a thumbnail, 4 tokens each."""
    tokenizer = byte_tokenizer(
        "<|im_end|>",
        "<|im_start|>",
        start_image_token="<img>",
        end_image_token="</img>",
        context_image_token="<IMG_CONTEXT>",
        video_token="<video>",
    )
    processor = transformers.InternVLProcessor(
        transformers.GotOcr2ImageProcessor(
            size={"height": SIDE, "width": SIDE}, crop_to_patches=True, max_patches=4
        ),
        tokenizer,
        transformers.InternVLVideoProcessor(size={"height": SIDE, "width": SIDE}),
        image_seq_length=4,
        chat_template=INTERN,
    )
    config = transformers.InternVLConfig(
        vision_config=VISION | {"image_size": [SIDE, SIDE], "patch_size": [8, 8]},
        text_config=transformers.Qwen2Config(**TEXT, **_ids(tokenizer)),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return transformers.InternVLForConditionalGeneration(config), processor


def cohere2_vision() -> tuple[Any, Any]:
    """Command A Vision, which has no adapter of its own: it stands for ``auto``."""
    marks = ["START_OF_TURN", "END_OF_TURN", "USER", "CHATBOT", "SYSTEM"]
    tokenizer = byte_tokenizer(
        "<|END_OF_TURN_TOKEN|>",
        *(f"<|{mark}_TOKEN|>" for mark in marks if mark != "END_OF_TURN"),
        boi_token="<|START_OF_IMG|>",
        eoi_token="<|END_OF_IMG|>",
        image_token="<|IMG_PATCH|>",
        img_line_break_token="<|IMG_LINE_BREAK|>",
    )
    tokenizer.bos_token = "<|endoftext|>"
    images = transformers.Cohere2VisionImageProcessor(
        size={"height": SIDE, "width": SIDE}, patch_size=2, max_patches=4
    )
    processor = transformers.Cohere2VisionProcessor(images, tokenizer, chat_template=COMMAND)
    config = transformers.Cohere2VisionConfig(
        vision_config=transformers.SiglipVisionConfig(**VISION, image_size=SIDE, patch_size=8),
        text_config=transformers.Cohere2Config(**TEXT, **_ids(tokenizer), sliding_window=16),
        image_token_id=tokenizer.image_token_id,
        alignment_intermediate_size=32,
    )
    return transformers.Cohere2VisionForConditionalGeneration(config), processor


TINY: dict[str, Callable[[], tuple[Any, Any]]] = {
    made.__name__: made
    for made in (
        llava,
        llava_next,
        minigpt4,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        idefics3,
        smolvlm,
        internvl,
        cohere2_vision,
    )
}


def save_tiny(name: str, folder: Path) -> Path:
    """Build the model of that name and write it as a folder; returns the folder."""
    torch.manual_seed(7)
    model, processor = TINY[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
