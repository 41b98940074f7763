"""What the live page shows of a sample: a small JPEG of its first image, and the first words."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.record import Turn, scorer_text
from selfilter_ray.service.messages import Preview
from selfilter_ray.service.settings import PreviewSettings

QUALITIES = (75, 50, 30)
WANTED_BYTES = 3072


def preview_of(
    turns: tuple[Turn, ...],
    images: Sequence[bytes],
    settings: PreviewSettings,
    limits: LimitsConfig,
) -> Preview:
    """Of a conversation whose images are known to be good."""
    text = scorer_text(turns)[: settings.characters]
    if not images or not settings.pixels:
        return Preview(text)
    return Preview(text, thumbnail_jpeg(images[0], settings.pixels, limits))


def thumbnail_jpeg(image: bytes, pixels: int, limits: LimitsConfig) -> bytes:
    """The image at most ``pixels`` wide and high, in about 3 kB and with nothing but its pixels.

    Raises:
        BadRow: as ``load_image``.
    """
    picture = load_image(image, limits, least_edge=2 * pixels)
    picture.thumbnail((pixels, pixels), Image.Resampling.LANCZOS, reducing_gap=2.0)
    plain = Image.new("RGB", picture.size)  # a picture's own metadata would be saved with it
    plain.paste(picture)
    content = b""
    for quality in QUALITIES:
        file = io.BytesIO()
        plain.save(file, "JPEG", quality=quality, optimize=True)
        content = file.getvalue()
        if len(content) <= WANTED_BYTES:
            break
    return content
