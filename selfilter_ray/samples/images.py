"""Images from untrusted files: looked at from the header before a pixel is decoded.

The header gives format and size; what is too large, too thin or of an unknown format is refused
there. Decoding then yields one RGB picture whatever the file's mode, orientation or frame count.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from selfilter_ray.config import LimitsConfig
from selfilter_ray.errors import StorageError
from selfilter_ray.samples.picture_files import Source, picture_file
from selfilter_ray.samples.quarantine import BadRow

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

ImageFile.LOAD_TRUNCATED_IMAGES = False
# Once for the process: images are opened by many threads, and catch_warnings is not for threads.
warnings.filterwarnings("ignore", module=r"PIL\.")


def check_image(source: Source, limits: LimitsConfig) -> int:
    """Refuse an image by its size on disk and its header, without decoding it.

    Args:
        source: a path, a URI, or the bytes of a file.

    Returns:
        Bytes of the file.

    Raises:
        BadRow: image_missing, image_broken, image_format, image_too_large, image_aspect_ratio.
        StorageError: when the store of a URI does not answer.
    """
    with picture_file(source, limits, whole=False) as file, _opened(file.content, limits):
        return file.size


def load_image(source: Source, limits: LimitsConfig, least_edge: int | None = None) -> Image.Image:
    """Check and decode the first frame as upright RGB; transparency is laid on white.

    Args:
        least_edge: a JPEG may be decoded at a smaller scale that leaves so many pixels in each
            direction, which is quicker; None for its own scale.

    Raises:
        BadRow: as ``check_image``, and image_broken when the pixels cannot be decoded.
        StorageError: when the store of a URI does not answer.
    """
    with picture_file(source, limits, whole=True) as file, _opened(file.content, limits) as image:
        try:
            if least_edge is not None:
                image.draft(None, (least_edge, least_edge))
            return _as_rgb(ImageOps.exif_transpose(image))
        except StorageError:
            raise
        except Exception as error:  # Pillow raises many types on hostile files
            raise BadRow("image_broken", f"cannot be decoded: {_short(error)}") from None


def _opened(content: Path | BinaryIO, limits: LimitsConfig) -> Image.Image:
    try:
        image = Image.open(content, formats=FORMATS)
    except StorageError:
        raise
    except UnidentifiedImageError:
        raise BadRow("image_format", "not an image of a known format") from None
    except Image.DecompressionBombError as error:  # Pillow's own limit lies above our default
        raise BadRow("image_too_large", str(error)[:200]) from None
    except Exception as error:  # see load_image
        raise BadRow("image_broken", f"header cannot be read: {_short(error)}") from None
    try:
        _check_size(*image.size, limits)
    except BadRow:
        image.close()
        raise
    return image


def _check_size(width: int, height: int, limits: LimitsConfig) -> None:
    if width < 1 or height < 1:
        raise BadRow("image_broken", f"size is {width} x {height}")
    if width * height > limits.image_pixels:
        raise BadRow(
            "image_too_large", f"{width} x {height} pixels, the limit is {limits.image_pixels}"
        )
    ratio = max(width, height) / min(width, height)
    if ratio > limits.image_aspect_ratio:
        raise BadRow(
            "image_aspect_ratio", f"{width} x {height}, the limit is {limits.image_aspect_ratio}:1"
        )


def _as_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or image.mode in {"I", "F"}:
        return _scaled_gray(image).convert("RGB")
    if image.mode in {"RGBA", "LA", "PA"} or "transparency" in image.info:
        layer = image.convert("RGBA")
        ground = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(ground, layer).convert("RGB")
    return image.convert("RGB")


def _scaled_gray(image: Image.Image) -> Image.Image:
    # Pillow clips deep grays to 255 instead of scaling them.
    gray_HW = np.nan_to_num(np.asarray(image, dtype=np.float64))
    top = 65535.0 if image.mode != "F" else max(float(gray_HW.max()), 1e-12)
    gray_HW = np.clip(gray_HW, 0.0, top) / top * 255.0
    return Image.fromarray(gray_HW.astype(np.uint8))


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:200]
