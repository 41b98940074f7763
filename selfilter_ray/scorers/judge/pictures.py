"""The pictures of a request: decoded under the limits, made small, sent as JPEG in a data URL."""

from __future__ import annotations

import base64
import hashlib
import io
import math
from pathlib import Path
from typing import Any

from PIL import Image

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.picture_files import picture_file
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.scorers.judge.settings import JudgeConfig

PIXELS_PER_TOKEN = 28 * 28  # a usual patch of today's models; they differ


def data_url(path: str, settings: JudgeConfig, limits: LimitsConfig) -> str:
    """One picture of at most ``settings.image_pixels`` pixels.

    Nothing of the file is sent as it was: no metadata, no hidden frames.

    Raises:
        BadRow: as ``load_image``.
    """
    image = _shrunk(load_image(path, limits), settings.image_pixels)
    jpeg = io.BytesIO()
    image.save(jpeg, "JPEG", quality=settings.jpeg_quality)
    return "data:image/jpeg;base64," + base64.b64encode(jpeg.getvalue()).decode()


def picture_part(url: str) -> dict[str, Any]:
    """A picture as a part of a chat message."""
    return {"type": "image_url", "image_url": {"url": url}}


def digest(path: str, limits: LimitsConfig) -> str:
    """Hash of a picture file, so that another picture under the same name is another question."""
    try:
        with picture_file(path, limits, whole=True) as file:
            if isinstance(file.content, Path):
                with open(file.content, "rb") as opened:
                    return hashlib.file_digest(opened, "sha256").hexdigest()
            return hashlib.sha256(file.content.read()).hexdigest()
    except (OSError, BadRow):
        return "unusable"  # refused when it is loaded


def tokens(pictures: int, settings: JudgeConfig) -> int:
    """A guess at what so many pictures cost, each as large as it may be."""
    return pictures * math.ceil(settings.image_pixels / PIXELS_PER_TOKEN)


def _shrunk(image: Image.Image, pixels: int) -> Image.Image:
    scale = math.sqrt(pixels / (image.width * image.height))
    if scale >= 1.0:
        return image
    size = (max(1, int(image.width * scale)), max(1, int(image.height * scale)))
    return image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
