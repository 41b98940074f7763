"""Objects below a URI: list, read, write, remove. Every failure is a ``StorageError``."""

from __future__ import annotations

import io
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from selfilter_ray import atomic
from selfilter_ray.errors import StorageError
from selfilter_ray.storage.places import Uri, is_uri

if TYPE_CHECKING:
    from pyarrow import NativeFile
    from pyarrow.fs import FileInfo, FileSystem

PIECE = 8 * 2**20  # bytes in memory of a file on its way
CONNECT_SECONDS, REQUEST_SECONDS = 10, 60
ATTEMPTS = 4


class MissingError(StorageError):
    """There is no such object."""


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


def filesystem(uri: Uri) -> FileSystem:
    """What opens the URI's path. Credentials come from the environment.

    Raises:
        StorageError: when the connection cannot be set up.
    """
    with told(uri, "reach"):
        # Connections do not survive a fork, so each process has its own.
        return _filesystem(uri.scheme, uri.bucket, uri.options, endpoint_of(uri), os.getpid())


def endpoint_of(uri: Uri) -> str | None:
    """The server that an s3 URI is asked of, where it is not that of the region."""
    if uri.scheme != "s3":
        return None
    named = dict(uri.options).get("endpoint_override")
    return (
        named or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None
    )


@lru_cache(maxsize=64)
def _filesystem(
    scheme: str,
    bucket: str,
    options: tuple[tuple[str, str], ...],
    endpoint: str | None,
    process: int,
) -> FileSystem:
    from pyarrow import fs

    if scheme == "file":
        return fs.LocalFileSystem()
    if scheme == "gs":
        return fs.FileSystem.from_uri(str(Uri(scheme, bucket, "", options)))[0]
    given: dict[str, Any] = dict(options)
    region = (
        given.get("region") or os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    )
    if region is None:
        region = "us-east-1" if endpoint else fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(
        region=region,
        endpoint_override=endpoint,
        scheme=given.get("scheme"),
        connect_timeout=CONNECT_SECONDS,
        request_timeout=REQUEST_SECONDS,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=ATTEMPTS),
    )


@contextmanager
def told(uri: Uri, what: str) -> Iterator[None]:
    """Turn whatever pyarrow raises into a ``StorageError`` that names the place and a remedy."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError:
        raise MissingError(f"{uri.plain} does not exist: correct the address.") from None
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise StorageError(_sentence(uri, what, str(error))) from None


def _sentence(uri: Uri, what: str, error: str) -> str:
    first = error.splitlines()[0][:300] if error else "no reason given"
    remedy = "look whether it answers from this host, and run again: what is finished is kept"
    if any(
        word in error
        for word in (
            "ACCESS_DENIED",
            "HTTP status 403",
            "Permission",
            "SIGNATURE",
            "INVALID_ACCESS_KEY",
            "credentials",
        )
    ):
        remedy = "give this host credentials that may list, read, write and delete there"
    elif "NO_SUCH_BUCKET" in error:
        remedy = "create the bucket, or correct the address"
    return f"cannot {what} {uri.plain} ({first}): {remedy}."


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


def upload(file: Path, uri: Uri) -> None:
    """Copy a local file to an object, by pieces."""
    if uri.scheme == "file":
        with told(uri, "write"):
            target = Path(uri.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with atomic.replacing(target) as temporary:
                _copy(file, temporary)
        return
    with told(uri, "write"), open(file, "rb") as source:
        system = filesystem(uri)
        stream = system.open_output_stream(uri.path)
        try:
            while piece := source.read(PIECE):
                stream.write(piece)
        except BaseException:
            # Closing would make an object of the part that was sent: none is better.
            stream.close()
            system.delete_file(uri.path)
            raise
        stream.close()


def download(uri: Uri, file: Path) -> dict[str, str]:
    """Copy an object to a local file, by pieces; what the store says of it."""
    with told(uri, "read"), filesystem(uri).open_input_file(uri.path) as source:
        size, metadata = int(source.size()), source.metadata()
        written = 0
        with atomic.replacing(file) as temporary, open(temporary, "wb") as target:
            while piece := source.read(PIECE):
                written += target.write(piece)
            if written != size:
                raise StorageError(f"{uri.plain} ended after {written} of {size} bytes: run again.")
    return _plain(metadata)


def metadata_of(uri: Uri) -> dict[str, str]:
    """What the store says of an object, names in lower case."""
    with told(uri, "look at"), filesystem(uri).open_input_file(uri.path) as source:
        return _plain(source.metadata())


def version_of(uri: Uri) -> tuple[str, int]:
    """ETag of an object, and the store's time of it; either is empty or 0 where unknown."""
    etag = metadata_of(uri).get("etag", "")
    return etag, 0 if etag else int(_info(uri).mtime_ns or 0)


def _plain(metadata: Mapping[str | bytes, str | bytes] | None) -> dict[str, str]:
    return {_text(name).lower(): _text(value) for name, value in (metadata or {}).items()}


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _copy(file: Path, target: Path) -> None:
    with open(file, "rb") as source, open(target, "wb") as written:
        while piece := source.read(PIECE):
            written.write(piece)


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
