"""The pool as Stage 1 sees it: encoded samples and padded batches.

Rows are numbers in the pool sorted by id, so an epoch's order depends on the seed and the ids only.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch.utils.data import Dataset

from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.errors import DataError
from selfilter_ray.features.shards import Features
from selfilter_ray.samples.files import sample_of, samples_of
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.stage1.families.contract import Picture
from selfilter_ray.stage1.families.registry import family_of
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.model import Batch
from selfilter_ray.stage1.pictures import KeptPictures
from selfilter_ray.stage1.prompt import encode


class Example(NamedTuple):
    """One sample, ready to be padded into a batch."""

    row: int
    input_ids: list[int]
    labels: list[int]
    pictures: list[Picture]
    features_D: torch.Tensor


class Stage1Data(Dataset[Example]):
    """Random access to the samples that have features.

    Args:
        samples: the table of ``samples/`` with id, turns and images.
        features: of the usable samples, sorted by id.
        model: what ``from_pretrained`` takes: its family says how a sample becomes tokens.
        pictures: what the image processor makes of pictures is kept here, for the next epoch and
            for other models with the same processor.
    """

    def __init__(
        self,
        samples: pa.Table,
        features: Features,
        model: str,
        config: TrainConfig,
        limits: LimitsConfig,
        pictures: KeptPictures | None = None,
    ) -> None:
        self.samples = samples_of(samples, features.ids)
        self.features = features
        self.config = config
        self.limits = limits
        self.pictures = KeptPictures() if pictures is None else pictures
        self.family = family_of(model)
        self.tokenizer = self.family.tokenizer
        self._blank: Picture | None = None

    @property
    def reads_from_a_store(self) -> bool:
        """Whether images are opened by URI."""
        places = pc.list_flatten(self.samples["images"])
        return bool(pc.any(pc.match_substring(places, "://")).as_py())

    def __len__(self) -> int:
        return len(self.features.ids)

    def __getitem__(self, row: int) -> Example:
        sample = sample_of(self.samples.slice(row, 1).to_pylist()[0])
        try:
            pictures = [
                self.pictures.get(name, partial(self._picture, name)) for name in sample.images
            ]
        except BadRow as error:
            raise DataError(
                f"the image of {sample.id} was there when features were made, and is not usable "
                f"now: {error.detail}. Put it back."
            ) from None
        tokens = [picture.tokens for picture in pictures]
        encoded = encode(
            sample.turns, self.config.prompt, self.family, tokens, self.config.max_length
        )
        features_D = torch.from_numpy(self.features.features_ND[row].copy())
        return Example(row, encoded.input_ids, encoded.labels, pictures, features_D)

    def _picture(self, name: str) -> Picture:
        return self.family.picture(load_image(name, self.limits))

    def collate(self, examples: Sequence[Example]) -> Batch:
        """A batch for training; one without pictures gets a blank, where nothing sees it.

        Under ZeRO all ranks must run the same modules in the same order, whatever their batches
        hold: DeepSpeed pairs what ranks gather and reduce by its order. So a blank picture stands
        behind the first text, masked as padding is.
        """
        pictures = _pictures(examples)
        if pictures:
            return self._batch(examples, pictures)
        if self._blank is None:
            self._blank = self.family.blank()
        return self._batch(examples, [self._blank], self._blank.tokens)

    def padded(self, examples: Sequence[Example]) -> Batch:
        """A batch with no more pictures than its samples have and the model needs."""
        if self.family.needs_pictures:
            return self.collate(examples)
        return self._batch(examples, _pictures(examples))

    def _batch(
        self, examples: Sequence[Example], pictures: Sequence[Picture], behind: Sequence[int] = ()
    ) -> Batch:
        """Padded on the right, and masked there, so that it changes nothing.

        ``behind``: ids behind the first text, masked too.
        """
        pad = self.tokenizer.pad_token_id or 0
        ids = [example.input_ids for example in examples]
        text = max(map(len, ids))
        length = text + len(behind)
        input_ids_BT = torch.tensor([_padded(row, length, pad) for row in ids])
        input_ids_BT[0, text:] = torch.tensor(behind, dtype=input_ids_BT.dtype)
        mask = [[1] * len(row) + [0] * (length - len(row)) for row in ids]
        return Batch(
            rows=torch.tensor([example.row for example in examples]),
            input_ids_BT=input_ids_BT,
            attention_mask_BT=torch.tensor(mask),
            labels_BT=torch.tensor([_padded(e.labels, length, IGNORED) for e in examples]),
            pictures=self.family.gather(pictures) if pictures else {},
            token_inputs=self.family.token_inputs(input_ids_BT),
            features_BD=torch.stack([example.features_D for example in examples]),
        )


def _padded(values: list[int], length: int, filler: int) -> list[int]:
    return values + [filler] * (length - len(values))


def _pictures(examples: Sequence[Example]) -> list[Picture]:
    return [picture for example in examples for picture in example.pictures]
