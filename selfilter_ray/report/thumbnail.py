"""Small JPEG pictures that stand inside the page."""

from __future__ import annotations

import base64
import io

from PIL import Image

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.images import load_image
from selfilter_ray.samples.quarantine import BadRow

JPEG_QUALITY = 78


def thumbnail(path: str, pixels: int, limits: LimitsConfig) -> str | None:
    """The image of a path or URI, at most ``pixels`` in each direction, as a data address.

    None when it cannot be read.

    It is decoded as the stages decode it: what the report shows is what the models saw.
    """
    try:
        picture = load_image(path, limits)
    except BadRow:
        return None
    picture.thumbnail((pixels, pixels), Image.Resampling.LANCZOS, reducing_gap=2.0)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=JPEG_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode("ascii")
