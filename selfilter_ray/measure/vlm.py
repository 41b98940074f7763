"""A VLM that is measured with: from a sample to prompts, from prompts to statistics.

Shapes: B batch, T tokens, D hidden size.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.features.embedder import hash_weights
from selfilter_ray.features.shards import Features
from selfilter_ray.measure.load import load_vlm, whole_model
from selfilter_ray.measure.prompts import without_image, without_question
from selfilter_ray.measure.token_statistics import TokenStatistics, token_statistics
from selfilter_ray.samples.files import SCHEMA
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import Sample
from selfilter_ray.stage1.data import Example, Stage1Data
from selfilter_ray.stage1.families.contract import BLANK_SIZE, Picture
from selfilter_ray.stage1.head_loss import HeadLoss, head_inputs
from selfilter_ray.stage1.prompt import Encoded, encode


class Prompt(NamedTuple):
    """What the VLM is given of one sample."""

    encoded: Encoded
    pictures: list[Picture]


class MeasuredVlm:
    """Several threads may use it; the tokenizer and the model work for one at a time.

    Args:
        model: a folder or hub name of a VLM, or a folder of adapters that Stage 1 left.
        train: prompt and ``max_length`` say what is supervised.
        limits: of images.
        bf16: the model's type; float32 when false.
        device: for the model.
        base: the model that adapters belong to; None takes the one that they name.

    Raises:
        SelfilterError: when the model is not there, damaged, of a kind that is not supported, or
            has no fast tokenizer.
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
        if not HeadLoss(self.vlm).fused:
            raise ConfigError(
                f"{model} changes its logits behind its last layer, which the scoring pass does "
                "not: it cannot be measured. Choose a method that needs no scoring pass."
            )
        # Training's own tokens and padding; its samples are not needed.
        none = Features(np.empty(0, object), np.empty((0, 0), np.float32), np.empty(0, np.float32))
        samples = SCHEMA.empty_table()
        self.data = Stage1Data(samples, none, whole_model(model, base), train, limits)
        self._tokenizer, self._model = threading.Lock(), threading.Lock()

    def weights_hash(self) -> str:
        """SHA-256 over all weights."""
        return hash_weights(self.vlm)

    def whole(self, sample: Sample) -> Encoded:
        """The prompt and labels that training gives the sample.

        A picture that cannot be read has the length of a blank one; ``pictures`` fails on it.
        """
        tokens = self._picture_tokens(sample)
        with self._tokenizer:
            return encode(
                sample.turns, self.train.prompt, self.data.family, tokens, self.train.max_length
            )

    def without_image(self, whole: Encoded, sample: Sample) -> Encoded:
        """See ``prompts.without_image``."""
        with self._tokenizer:
            return without_image(whole, sample.turns, self.train.prompt, self.data.family)

    def without_question(
        self, whole: Encoded, sample: Sample, pictures: Sequence[Picture]
    ) -> Encoded:
        """See ``prompts.without_question``."""
        prompt, tokens = self.train.prompt, [picture.tokens for picture in pictures]
        with self._tokenizer:
            return without_question(whole, sample.turns, prompt, self.data.family, tokens)

    def pictures(self, sample: Sample) -> list[Picture]:
        """The sample's pictures as the model takes them.

        Raises:
            BadRow: when one is missing or broken.
        """
        return [self.picture(name) for name in sample.images]

    def picture(self, name: str) -> Picture:
        """One picture, by its name.

        Raises:
            BadRow: when it is missing or broken.
        """
        image = load_image(name, self.limits)
        with self._tokenizer:
            return self.data.family.picture(image)

    def statistics(
        self, prompts: Sequence[Prompt], chunk_tokens: int, grand: bool
    ) -> TokenStatistics:
        """Of one batch; a tensor (B, T, vocabulary) is never made."""
        unused_D = torch.zeros(0)
        examples = [
            Example(0, encoded.input_ids, encoded.labels, pictures, unused_D)
            for encoded, pictures in prompts
        ]
        batch = self.data.padded(examples).to(self.device)
        head = self.vlm.get_output_embeddings()
        with self._model, torch.inference_mode():
            with head_inputs(self.vlm) as seen:
                self.vlm(**batch.inputs(head.weight.dtype), use_cache=False)
            labels_BT, weight_VD, bias_V = batch.labels_BT, head.weight, head.bias
            return token_statistics(
                seen.hidden_BTD, labels_BT, weight_VD, bias_V, chunk_tokens, grand
            )

    def _picture_tokens(self, sample: Sample) -> list[list[int]]:
        family = self.data.family
        if family.fixed_tokens is not None:
            return [family.fixed_tokens] * len(sample.images)
        sizes = [self._size(name) for name in sample.images]
        with self._tokenizer:
            return [family.tokens_for(size) for size in sizes]

    def _size(self, name: str) -> tuple[int, int]:
        try:
            return load_image(name, self.limits).size
        except BadRow:
            return BLANK_SIZE
