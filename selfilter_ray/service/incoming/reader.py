"""From a sample of a request to what can be scored: images fetched, headers and limits checked.

Pixels are decoded by the scorer. Turns, image marks and images pass the checks that the rows of a
dataset pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.images import check_image
from selfilter_ray.samples.parse import parse_row
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import Turn
from selfilter_ray.service.incoming.digest import digest_of_conversation, digest_of_features
from selfilter_ray.service.incoming.encoding import decode_base64
from selfilter_ray.service.incoming.files import read_below
from selfilter_ray.service.incoming.refusals import Unusable, refused
from selfilter_ray.service.incoming.schemas import ImageIn, SampleIn
from selfilter_ray.service.incoming.url import ImageFetcher
from selfilter_ray.service.incoming.vectors import read_features
from selfilter_ray.service.messages import Incoming, Refused
from selfilter_ray.service.settings import ServiceConfig, ServiceLimits

SAMPLES_AT_ONCE = 8  # of those whose images are being read


def limits_of_records(limits: ServiceLimits) -> LimitsConfig:
    """The service's limits, in the words of the dataset's."""
    return LimitsConfig(
        image_bytes=limits.image_bytes,
        image_pixels=limits.image_pixels,
        image_aspect_ratio=limits.image_aspect_ratio,
        images_per_record=limits.images,
        turns=limits.turns,
        text_bytes=limits.text_bytes,
    )


class Allowance:
    """Bytes of images that a request may still bring into memory, by whatever way."""

    def __init__(self, size: int) -> None:
        self._size = self._left = size

    def take(self, size: int) -> None:
        if size > self._left:
            detail = f"the images of this request have more than {self._size} bytes together"
            raise Unusable("images_too_large", detail)
        self._left -= size


class SampleReader:
    """Reads samples. Used by one event loop.

    Args:
        features: numbers of the image's and the text's half.
        fetcher: of images by URL; None for one as configured.
    """

    def __init__(
        self, config: ServiceConfig, features: tuple[int, int], fetcher: ImageFetcher | None = None
    ) -> None:
        self._features = features
        self._limits = limits_of_records(config.limits)
        self._images_bytes = config.limits.images_bytes
        self._root = Path(config.images.root) if config.images.root is not None else None
        self._fetcher = fetcher or ImageFetcher(config.images.urls, config.limits.image_bytes)

    async def read(self, sample: SampleIn) -> Incoming | Refused:
        """One sample, or why it cannot be scored."""
        return await self._read(sample, Allowance(self._images_bytes))

    async def read_all(self, samples: Sequence[SampleIn]) -> list[Incoming | Refused]:
        """The samples of a request, in their order; a bad one fails alone."""
        allowance = Allowance(self._images_bytes)
        places = asyncio.Semaphore(SAMPLES_AT_ONCE)

        async def read(sample: SampleIn) -> Incoming | Refused:
            async with places:
                return await self._read(sample, allowance)

        if not any(sample.all_images for sample in samples):
            return [await self._read(sample, allowance) for sample in samples]
        return list(await asyncio.gather(*(read(sample) for sample in samples)))

    async def _read(self, sample: SampleIn, allowance: Allowance) -> Incoming | Refused:
        try:
            if sample.features is not None:
                features_D = read_features(sample.features, self._features)
                return Incoming(sample.id, digest_of_features(features_D), features_D)
            turns = self._turns(sample)
            images = tuple([await self._image(image, allowance) for image in sample.all_images])
        except (Unusable, BadRow) as error:
            return refused(sample.id, error)
        if images:  # there is much to hash
            digest = await asyncio.to_thread(digest_of_conversation, turns, images)
        else:
            digest = digest_of_conversation(turns, images)
        return Incoming(sample.id, digest, turns=turns, images=images)

    def _turns(self, sample: SampleIn) -> tuple[Turn, ...]:
        first = (sample.conversations or [])[: self._limits.turns + 1]  # one too many is enough
        turns = [turn.model_dump(by_alias=True) for turn in first]
        plain = [{key: value for key, value in turn.items() if value is not None} for turn in turns]
        row = {"conversations": plain, "images": ["not read yet"] * len(sample.all_images)}
        return parse_row(row, self._limits).turns

    async def _image(self, image: ImageIn, allowance: Allowance) -> bytes:
        if image.url is not None:
            content = await self._fetcher.fetch(image.url)
        elif image.path is not None:
            content = await asyncio.to_thread(self._file, image.path)
        else:
            content = await asyncio.to_thread(self._decoded, image.base64 or "")
        allowance.take(len(content))
        await asyncio.to_thread(check_image, content, self._limits)
        return content

    def _file(self, name: str) -> bytes:
        if self._root is None:
            raise Unusable("image_path_off", "this service reads no images by path")
        return read_below(self._root, name, self._limits.image_bytes)

    def _decoded(self, text: str) -> bytes:
        limit = self._limits.image_bytes
        if len(text) // 4 * 3 > limit + 2:
            raise Unusable("image_too_large", f"more than {limit} bytes")
        try:
            return decode_base64(text)
        except ValueError as error:
            raise Unusable("image_base64", f"not base64: {error}") from None
