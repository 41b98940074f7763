"""A VLM that is measured with: from a sample to prompts, from prompts to statistics.

Shapes: B batch, T tokens, D hidden size, C H W a preprocessed picture, P pictures of the batch.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.features.embedder import hash_weights
from selfilter_ray.features.shards import Features
from selfilter_ray.measure.load import load_vlm, whole_model
from selfilter_ray.measure.prompts import without_image, without_question
from selfilter_ray.measure.token_statistics import TokenStatistics, token_statistics
from selfilter_ray.samples.files import SCHEMA
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.record import IMAGE_TOKEN, Sample
from selfilter_ray.stage1.data import Example, Stage1Data
from selfilter_ray.stage1.prompt import Encoded, encode


class Prompt(NamedTuple):
    """What the VLM is given of one sample; a picture is (C, H, W)."""

    encoded: Encoded
    pixels: list[torch.Tensor]


class MeasuredVlm:
    """Several threads may use it; the tokenizer and the model work for one at a time.

    Args:
        model: a folder or hub name of a LLaVA, or a folder of adapters that Stage 1 left.
        train: prompt and ``max_length`` say what is supervised.
        limits: of images.
        bf16: the model's type; float32 when false.
        device: for the model.
        base: the model that adapters belong to; None takes the one that they name.

    Raises:
        SelfilterError: when the model is not there, damaged, or has no fast tokenizer.
    """

    def __init__(
        self,
        model: str,
        train: TrainConfig,
        limits: LimitsConfig,
        bf16: bool,
        device: str,
        base: str | None = None,
    ) -> None:
        self.train, self.limits, self.device = train, limits, device
        self.vlm = load_vlm(model, base, torch.bfloat16 if bf16 else torch.float32, device)
        # Training's own tokenizer, image processor and padding; its samples are not needed.
        none = Features(np.empty(0, object), np.empty((0, 0), np.float32), np.empty(0, np.float32))
        samples = SCHEMA.empty_table()
        self.data = Stage1Data(samples, none, whole_model(model, base), train, limits)
        self._image_token = int(self.data.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN))
        self._tokenizer, self._model = threading.Lock(), threading.Lock()

    def weights_hash(self) -> str:
        """SHA-256 over all weights."""
        return hash_weights(self.vlm)

    def whole(self, sample: Sample) -> Encoded:
        """The prompt and labels that training gives the sample."""
        data, train = self.data, self.train
        with self._tokenizer:
            return encode(
                sample.turns, train.prompt, data.tokenizer, data.image_tokens, train.max_length
            )

    def without_image(self, whole: Encoded) -> Encoded:
        """See ``prompts.without_image``."""
        return without_image(whole, self._image_token)

    def without_question(self, whole: Encoded, sample: Sample) -> Encoded:
        """See ``prompts.without_question``."""
        data, prompt = self.data, self.train.prompt
        with self._tokenizer:
            return without_question(whole, sample.turns, prompt, data.tokenizer, data.image_tokens)

    def pixels(self, sample: Sample) -> list[torch.Tensor]:
        """The sample's pictures as the vision tower takes them.

        Raises:
            BadRow: when one is missing or broken.
        """
        images = (load_image(Path(name), self.limits) for name in sample.images)
        return [
            self.data.processor(image, return_tensors="pt")["pixel_values"][0] for image in images
        ]

    def statistics(
        self, prompts: Sequence[Prompt], chunk_tokens: int, grand: bool
    ) -> TokenStatistics:
        """Of one batch; a tensor (B, T, vocabulary) is never made."""
        unused_D = torch.zeros(0)
        examples = [Example(0, *encoded, pixels, unused_D) for encoded, pixels in prompts]
        batch = self.data.collate(examples).to(self.device)
        head, pixels_PCHW = self.vlm.get_output_embeddings(), batch.pixels_PCHW
        with self._model, torch.inference_mode():
            hidden_BTD = self.vlm.model(
                input_ids=batch.input_ids_BT,
                attention_mask=batch.attention_mask_BT,
                pixel_values=None if pixels_PCHW is None else pixels_PCHW.to(head.weight.dtype),
                use_cache=False,
            ).last_hidden_state
            labels_BT = batch.labels_BT
            return token_statistics(
                hidden_BTD, labels_BT, head.weight, head.bias, chunk_tokens, grand
            )
