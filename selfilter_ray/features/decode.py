"""Pictures decoded in threads, a few batches ahead of the model that uses them.

Shapes: B pictures of a batch, C H W one of them as the model takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from PIL import Image

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.quarantine import BadRow

# A picture: the path or URI of its file, or the bytes of it.
Name = TypeVar("Name", str, bytes, str | bytes)


@dataclass(frozen=True, slots=True)
class DecodedBatch(Generic[Name]):
    """Some pictures in their order; those that cannot be used are told apart.

    Attributes:
        names: of the B pictures that can be used: paths, or the bytes of their files.
        pixels_BCHW: their model inputs; an empty tensor where B is 0.
        problems: every other picture, and what is wrong with it.
    """

    names: tuple[Name, ...]
    pixels_BCHW: torch.Tensor
    problems: dict[Name, BadRow]


class Decoder:
    """Reads, checks and preprocesses pictures. May be used by several callers at once."""

    def __init__(
        self,
        preprocess: Callable[[Image.Image], torch.Tensor],
        limits: LimitsConfig,
        batch_size: int,
        threads: int,
        prefetch_batches: int,
    ) -> None:
        """``preprocess`` turns an RGB picture into (C, H, W); it is called from all threads."""
        self._preprocess = preprocess
        self._limits = limits
        self._batch_size = batch_size
        self._prefetch_batches = prefetch_batches
        self._threads = ThreadPoolExecutor(threads, "decode")

    def batches(self, names: Sequence[Name]) -> Iterator[DecodedBatch[Name]]:
        """The pictures in their order, ``prefetch_batches`` under way while one is used."""
        ahead: deque[list[tuple[Name, Future[torch.Tensor | BadRow]]]] = deque()
        for start in range(0, len(names), self._batch_size):
            batch = names[start : start + self._batch_size]
            ahead.append([(name, self._threads.submit(self._pixels, name)) for name in batch])
            if len(ahead) > self._prefetch_batches:
                yield _collected(ahead.popleft())
        while ahead:
            yield _collected(ahead.popleft())

    def _pixels(self, name: str | bytes) -> torch.Tensor | BadRow:
        try:
            return self._preprocess(load_image(name, self._limits))
        except BadRow as error:
            return error


def _collected(
    batch: Sequence[tuple[Name, Future[torch.Tensor | BadRow]]],
) -> DecodedBatch[Name]:
    pixels: dict[Name, torch.Tensor] = {}
    problems: dict[Name, BadRow] = {}
    for name, future in batch:
        result = future.result()
        if isinstance(result, BadRow):
            problems[name] = result
        else:
            pixels[name] = result
    stacked = torch.stack(list(pixels.values())) if pixels else torch.empty(0)
    return DecodedBatch(tuple(pixels), stacked, problems)
