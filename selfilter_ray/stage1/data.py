"""The pool as Stage 1 sees it: encoded samples, padded batches, and the order of both.

Rows are numbers in the pool sorted by id, so an epoch's order depends on the seed and the ids only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset
from transformers import AutoImageProcessor, AutoTokenizer, LlavaConfig

from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.features.shards import Features
from selfilter_ray.samples.files import sample_of, samples_of
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.model import Batch
from selfilter_ray.stage1.prompt import encode


class Example(NamedTuple):
    """One sample, ready to be padded into a batch."""

    row: int
    input_ids: list[int]
    labels: list[int]
    pixels: list[torch.Tensor]
    features_D: torch.Tensor


class Stage1Data(Dataset[Example]):
    """Random access to the samples that have features.

    Args:
        samples: the table of ``samples/`` with id, turns and images.
        features: of the usable samples, sorted by id.
        model: what ``from_pretrained`` takes: tokenizer, image processor and sizes come from it.
    """

    def __init__(
        self,
        samples: pa.Table,
        features: Features,
        model: str,
        config: TrainConfig,
        limits: LimitsConfig,
    ) -> None:
        self.samples = samples_of(samples, features.ids)
        self.features = features
        self.config = config
        self.limits = limits
        self.tokenizer = AutoTokenizer.from_pretrained(model)
        self.processor = AutoImageProcessor.from_pretrained(model)
        self.image_tokens = int(LlavaConfig.from_pretrained(model).image_seq_length)
        if not self.tokenizer.is_fast:
            raise ConfigError(f"{model} has no fast tokenizer: Stage 1 needs its offsets.")

    def __len__(self) -> int:
        return len(self.features.ids)

    def __getitem__(self, row: int) -> Example:
        sample = sample_of(self.samples.slice(row, 1).to_pylist()[0])
        encoded = encode(
            sample.turns,
            self.config.prompt,
            self.tokenizer,
            self.image_tokens,
            self.config.max_length,
        )
        try:
            pixels = [self._pixels(name) for name in sample.images]
        except BadRow as error:
            raise DataError(
                f"the image of {sample.id} was there when features were made, and is not usable "
                f"now: {error.detail}. Put it back."
            ) from None
        features_D = torch.from_numpy(self.features.features_ND[row].copy())
        return Example(row, encoded.input_ids, encoded.labels, pixels, features_D)

    def collate(self, examples: Sequence[Example]) -> Batch:
        """Pad on the right. Padding is masked, so it changes nothing."""
        length = max(len(example.input_ids) for example in examples)
        pad = self.tokenizer.pad_token_id or 0
        pixels = [picture for example in examples for picture in example.pixels]
        mask = [[1] * len(e.input_ids) + [0] * (length - len(e.input_ids)) for e in examples]
        return Batch(
            rows=torch.tensor([example.row for example in examples]),
            input_ids_BT=torch.tensor([_padded(e.input_ids, length, pad) for e in examples]),
            attention_mask_BT=torch.tensor(mask),
            labels_BT=torch.tensor([_padded(e.labels, length, IGNORED) for e in examples]),
            pixels_PCHW=torch.stack(pixels) if pixels else None,
            features_BD=torch.stack([example.features_D for example in examples]),
        )

    def _pixels(self, name: str) -> torch.Tensor:
        image = load_image(Path(name), self.limits)
        pixels_CHW: torch.Tensor = self.processor(image, return_tensors="pt")["pixel_values"][0]
        return pixels_CHW


class Batches:
    """Which rows every micro-batch holds, for one rank.

    An epoch is a permutation of all rows cut into chunks of ``ranks * batch_size``; a rank takes
    every ``ranks``-th row of a chunk. The last chunk may be smaller, but gives each rank a row.

    Args:
        rows: size of the pool.
        accumulation: micro-batches of one optimizer step; the number of micro-batches is rounded
            up to a multiple of it.
    """

    def __init__(
        self,
        rows: int,
        batch_size: int,
        accumulation: int,
        epochs: int,
        seed: int,
        rank: int = 0,
        ranks: int = 1,
    ) -> None:
        self.rows, self.seed, self.rank, self.ranks = rows, seed, rank, ranks
        self.chunk = batch_size * ranks
        self.per_epoch = -(-rows // self.chunk)
        self.steps = -(-self.per_epoch * epochs // accumulation)
        self.micro_batches = self.steps * accumulation

    def __getitem__(self, number: int) -> list[int]:
        """Rows of this rank in micro-batch ``number``."""
        epoch, chunk = divmod(number, self.per_epoch)
        order = np.random.default_rng([self.seed, epoch]).permutation(self.rows)
        rows = order[chunk * self.chunk : (chunk + 1) * self.chunk]
        if len(rows) < self.ranks:
            rows = np.concatenate([rows, np.resize(order, self.ranks - len(rows))])
        return [int(row) for row in rows[self.rank :: self.ranks]]

    def epoch_of(self, number: int) -> float:
        """How many epochs are finished after micro-batch ``number``."""
        return (number + 1) / self.per_epoch


def _padded(values: list[int], length: int, filler: int) -> list[int]:
    return values + [filler] * (length - len(values))
