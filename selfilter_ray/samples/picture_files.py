"""The file of a picture, wherever it lies: its size is looked at before anything of it is read."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.storage import MissingError, TooLargeError, is_uri, read_bytes
from selfilter_ray.storage.objects import opened

# A path, a URI, or the bytes of a file.
Source = str | Path | bytes
HEADER_BYTES = 65_536  # the headers of nearly all pictures end before that


@dataclass(frozen=True, slots=True)
class PictureFile:
    """What Pillow opens, and its size in bytes."""

    content: Path | BinaryIO
    size: int


@contextmanager
def picture_file(source: Source, limits: LimitsConfig, whole: bool) -> Iterator[PictureFile]:
    """Open a picture.

    Args:
        whole: that all of it will be read; of a URI otherwise only the pieces that are looked at
            are fetched.

    Raises:
        BadRow: image_missing, image_broken where it is empty, image_too_large.
        StorageError: when the store of a URI does not answer.
    """
    if isinstance(source, bytes):
        _check_size(len(source), limits)
        yield PictureFile(io.BytesIO(source), len(source))
    elif is_uri(source):
        with _of_uri(str(source), limits, whole) as file:
            yield file
    else:
        path = Path(source)
        yield PictureFile(path, _size_of(path, limits))


@contextmanager
def _of_uri(uri: str, limits: LimitsConfig, whole: bool) -> Iterator[PictureFile]:
    try:
        if whole:
            content = read_bytes(uri, limits.image_bytes)
            _check_size(len(content), limits)
            yield PictureFile(io.BytesIO(content), len(content))
            return
        with opened(uri, HEADER_BYTES) as (stream, size):
            _check_size(size, limits)
            yield PictureFile(stream, size)
    except MissingError as error:
        raise BadRow("image_missing", str(error)) from None
    except TooLargeError as error:
        _check_size(error.size, limits)
        raise


def _size_of(path: Path, limits: LimitsConfig) -> int:
    try:
        if not path.is_file():
            raise BadRow("image_missing", f"no such file: {path}")
        size = path.stat().st_size
    except (OSError, ValueError) as error:
        detail = f"{type(error).__name__}: {error}"[:200]
        raise BadRow("image_missing", f"{path}: {detail}") from None
    _check_size(size, limits)
    return size


def _check_size(size: int, limits: LimitsConfig) -> None:
    if size == 0:
        raise BadRow("image_broken", "the file is empty")
    if size > limits.image_bytes:
        raise BadRow("image_too_large", f"{size} bytes, the limit is {limits.image_bytes}")
