"""Samples as the HTTP interface takes them: NDJSON, plain or compressed by gzip."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from selfilter_ray.errors import DataError
from selfilter_ray.service.ingest.row import Fault, Row

LINE_BYTES = 64 * 2**20
_BOM = b"\xef\xbb\xbf"
_SPACES = bytes.maketrans(b"\r", b" ")  # where JSON allows it, it is white space


def sample_rows(file: Path, start: int) -> Iterator[Row]:
    """The lines of a file from the line ``start`` on; blank ones are passed over.

    Raises:
        DataError: when the file cannot be read to its end.
    """
    number = 0
    try:
        with _opened(file) as lines:
            while line := lines.readline(LINE_BYTES):
                whole = line.endswith(b"\n") or not _skip_rest(lines)
                if number >= start:
                    yield from _row(file, number, line.removeprefix(_BOM).strip(), whole)
                number += 1
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{file} cannot be read after line {number}: {error}") from None


def count_lines(file: Path) -> int:
    """How many lines a file has; those of a damaged one up to the damage."""
    number = 0
    try:
        with _opened(file) as lines:
            while block := lines.read(2**20):
                number += block.count(b"\n")
    except (OSError, EOFError, zlib.error):
        return number
    return number


def _opened(file: Path) -> BinaryIO:
    packed = file.suffix.lower() == ".gz"
    return cast(BinaryIO, gzip.open(file, "rb")) if packed else open(file, "rb")


def _skip_rest(lines: BinaryIO) -> bool:
    """Go to the end of a line that is too long; whether there was anything left of it."""
    skipped = False
    while rest := lines.readline(LINE_BYTES):
        skipped = True
        if rest.endswith(b"\n"):
            break
    return skipped


def _row(file: Path, number: int, line: bytes, whole: bool) -> Iterator[Row]:
    locator = f"{file}#{number}"
    if not whole:
        fault = Fault("line_too_long", f"more than {LINE_BYTES} bytes", "shrink its images")
        yield Row(number, locator, fault=fault)
    elif line:
        yield Row(number, locator, line.translate(_SPACES))
