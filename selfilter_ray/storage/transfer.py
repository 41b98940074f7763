"""Whole files to a store and back, by pieces: memory does not grow with a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from selfilter_ray import atomic
from selfilter_ray.errors import StorageError
from selfilter_ray.storage.connection import filesystem, told
from selfilter_ray.storage.places import Uri

PIECE = 8 * 2**20  # bytes in memory of a file on its way


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
    return etag, 0 if etag else _modified(uri)


def _plain(metadata: Mapping[str | bytes, str | bytes] | None) -> dict[str, str]:
    return {_text(name).lower(): _text(value) for name, value in (metadata or {}).items()}


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _copy(file: Path, target: Path) -> None:
    with open(file, "rb") as source, open(target, "wb") as written:
        while piece := source.read(PIECE):
            written.write(piece)


def _modified(uri: Uri) -> int:
    with told(uri, "look at"):
        return int(filesystem(uri).get_file_info(uri.path).mtime_ns or 0)
