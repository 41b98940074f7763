"""What goes into ImageReward: pictures cropped and scaled, texts as token numbers, as published.

Shapes: B texts, T = 35 tokens, C H W one picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from torchvision import transforms  # type: ignore[import-untyped]
from transformers import BertTokenizer

from selfilter_ray.errors import ConfigError
from selfilter_ray.scorers.image_reward.med_config import MAX_TOKENS

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def picture_transform(size: int) -> Callable[[Image.Image], torch.Tensor]:
    """RGB picture to (3, size, size): shorter side scaled bicubically, middle cut out."""
    transform: Callable[[Image.Image], torch.Tensor] = transforms.Compose(
        [
            transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(size),
            transforms.ToTensor(),
            transforms.Normalize(CLIP_MEAN, CLIP_STD),
        ]
    )
    return transform


class Prompts:
    """bert-base-uncased with BLIP's two extra tokens, for one thread at a time.

    The first token stays [CLS]: the release's ``score`` does not put [ENC] there, as BLIP's
    matching head does. Making one raises ConfigError when the tokenizer is not there, or has
    another number of tokens than the model.
    """

    def __init__(self, tokenizer: str, vocab_size: int) -> None:
        self._tokenizer = _tokenizer(tokenizer)
        self._tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        self._tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        if len(self._tokenizer) != vocab_size:
            raise ConfigError(
                f"image_reward.tokenizer {tokenizer} has {len(self._tokenizer)} tokens with [DEC] "
                f"and [ENC], the model {vocab_size}: give a folder with the vocab.txt of "
                "bert-base-uncased."
            )

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Token numbers and mask, both (B, T) int64; a text is cut, or filled up, to 35 tokens."""
        tokens = self._tokenizer(
            list(texts),
            padding="max_length",
            truncation=True,
            max_length=MAX_TOKENS,
            return_tensors="pt",
        )
        return tokens["input_ids"], tokens["attention_mask"]


def _tokenizer(name: str) -> BertTokenizer:
    try:
        return BertTokenizer.from_pretrained(name, local_files_only=Path(name).is_dir())
    except Exception as error:  # hub, file and JSON errors of many types
        raise ConfigError(
            f"image_reward.tokenizer {name} cannot be loaded: {type(error).__name__}: "
            f"{str(error)[:200]}. Give a folder with the vocab.txt of bert-base-uncased."
        ) from None
