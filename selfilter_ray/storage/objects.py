"""Files and objects: look, list, read, write, remove. Every failure is a ``StorageError``."""

from __future__ import annotations

import io
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from selfilter_ray import atomic
from selfilter_ray.errors import StorageError
from selfilter_ray.storage.connection import filesystem, told
from selfilter_ray.storage.places import Uri, is_uri

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileInfo


class TooLargeError(StorageError):
    """The object is larger than the caller takes. ``size`` is its own, in bytes."""

    def __init__(self, message: str, size: int = 0) -> None:
        super().__init__(message)
        self.size = size


@dataclass(frozen=True, slots=True)
class Found:
    """An object: its path below the place that was listed, bytes, and the store's own time."""

    name: str
    size: int
    modified_ns: int


def exists(place: str | Path) -> bool:
    """Whether there is such a file or folder.

    Raises:
        StorageError: when the store does not answer.
    """
    if not is_uri(place):
        return Path(place).exists()
    from pyarrow.fs import FileType

    return _info(Uri.of(str(place))).type != FileType.NotFound


def size_of(place: str) -> int | None:
    """Bytes of the object of a URI; None when there is none.

    Raises:
        StorageError: when the store does not answer.
    """
    info = _info(Uri.of(place))
    return int(info.size) if info.is_file else None


def _info(uri: Uri) -> FileInfo:
    with told(uri, "look at"):
        return filesystem(uri).get_file_info(uri.path)


def read_bytes(place: str | Path, most: int) -> bytes:
    """The content of a file or object.

    Args:
        most: bytes; the size is looked at before anything is read.

    Raises:
        MissingError: when there is none.
        TooLargeError: when it is larger.
        StorageError: when the store does not answer.
    """
    uri = _uri(place)
    with told(uri, "read"), filesystem(uri).open_input_file(uri.path) as opened:
        size = int(opened.size())
        if size > most:
            raise TooLargeError(f"{uri.plain} has {size} bytes, the limit is {most}.", size)
        content: bytes = opened.read(size)
    if len(content) != size:
        raise StorageError(f"{uri.plain} ended after {len(content)} of {size} bytes: run again.")
    return content


@contextmanager
def opened(place: str, piece: int) -> Iterator[tuple[BinaryIO, int]]:
    """A file or object to be read here and there, by pieces of so many bytes; and its size.

    Raises:
        MissingError: when there is none.
        StorageError: when the store does not answer, also while it is read.
    """
    uri = _uri(place)
    with told(uri, "read"):
        source = filesystem(uri).open_input_file(uri.path)
    with source:
        yield cast(BinaryIO, io.BufferedReader(_Told(source, uri), piece)), int(source.size())


class _Told(io.RawIOBase):
    """A pyarrow file for Python's own buffering, with our errors."""

    def __init__(self, source: NativeFile, uri: Uri) -> None:
        self._source, self._uri = source, uri

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._source.seek(offset, whence))

    def tell(self) -> int:
        return int(self._source.tell())

    def readinto(self, buffer: Any) -> int:
        with told(self._uri, "read"):
            content = self._source.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


def _uri(place: str | Path) -> Uri:
    """A local path is a file of the local file system."""
    if is_uri(place):
        return Uri.of(str(place))
    return Uri("file", "", str(Path(place).absolute()).lstrip("/"))


def write_bytes(place: str, content: bytes) -> None:
    """Write a file or object whole; who reads sees the old one or the new one.

    Raises:
        StorageError: when that fails.
    """
    uri = _uri(place)
    if uri.scheme == "file":
        with told(uri, "write"):
            atomic.write_with(Path(uri.path), lambda temporary: temporary.write_bytes(content))
        return
    with told(uri, "write"), filesystem(uri).open_output_stream(uri.path) as stream:
        stream.write(content)


def list_files(uri: Uri) -> list[Found]:
    """Every object below a URI, or the one that it names; none where there is nothing.

    Raises:
        StorageError: when the store does not answer.
    """
    from pyarrow.fs import FileSelector

    with told(uri, "list"):
        system = filesystem(uri)
        selector = FileSelector(uri.path, recursive=True, allow_not_found=True)
        try:
            infos = system.get_file_info(selector)
        except NotADirectoryError:
            infos = []
        if not infos and uri.key:
            infos = [system.get_file_info(uri.path)]
    start = len(uri.path) + 1
    files = (info for info in infos if info.is_file)
    return [Found(info.path[start:], int(info.size), int(info.mtime_ns)) for info in files]


def list_top(uri: Uri) -> list[str]:
    """Names of the files and folders directly below a URI.

    Raises:
        StorageError: when the store does not answer.
    """
    from pyarrow.fs import FileSelector

    with told(uri, "list"):
        selector = FileSelector(uri.path, allow_not_found=True)
        return sorted(info.base_name for info in filesystem(uri).get_file_info(selector))


def delete(place: str) -> None:
    """Remove a file or object, or all below a folder; nothing where there is none.

    Raises:
        StorageError: when that fails.
    """
    from pyarrow.fs import FileType

    uri = _uri(place)
    with told(uri, "remove"):
        system = filesystem(uri)
        kind = system.get_file_info(uri.path).type
        if kind == FileType.File:
            system.delete_file(uri.path)
        elif kind == FileType.Directory:
            system.delete_dir(uri.path)


def new_token() -> str:
    """A name that nobody else has."""
    return secrets.token_hex(8)
