"""Records of a pool, in every format that ``data.inputs`` takes, as samples of a request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq

from selfilter_ray.config.data import LimitsConfig
from selfilter_ray.config.load import parse_data
from selfilter_ray.samples.identity import content_hash, made_id
from selfilter_ray.samples.images import check_image
from selfilter_ray.samples.inputs import input_files
from selfilter_ray.samples.parse import ParsedRow, parse_row
from selfilter_ray.samples.paths import inside
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.readers import RawRow, read_rows
from selfilter_ray.samples.record import ASSISTANT, SYSTEM, USER
from selfilter_ray.service.client.encode import encode_image
from selfilter_ray.service.client.lines import encode_line
from selfilter_ray.service.ingest.row import Fault, Row

SPEAKERS = {USER: "human", ASSISTANT: "gpt", SYSTEM: "system"}
LIMITS = LimitsConfig()


def record_files(name: str) -> list[Path]:
    """The files of an input, as ``data.inputs`` names it.

    Raises:
        DataError: for an input that does not exist.
    """
    return [file.path for file in input_files(parse_data(inputs=[name]))]


def record_rows(file: Path, image_root: Path | None, start: int) -> Iterator[Row]:
    """The records of a file from the row ``start`` on, their images read.

    Raises:
        DataError: when the file cannot be read.
    """
    root = image_root or file.parent
    for number, raw in enumerate(read_rows(file)):
        if number >= start:
            yield _row(number, raw, root)


def count_records(file: Path) -> int | None:
    """How many records a file has, where its footer says so."""
    return pq.read_metadata(file).num_rows if file.suffix.lower() == ".parquet" else None


def _row(number: int, raw: RawRow, root: Path) -> Row:
    try:
        if raw.error is not None:
            raise raw.error
        parsed = parse_row(raw.row, LIMITS)
        images = [_content(image, root) for image in parsed.images]
    except BadRow as error:
        return Row(number, raw.locator, fault=Fault.of(error))
    id = parsed.id or made_id(content_hash(parsed.turns, [str(image) for image in parsed.images]))
    return Row(number, raw.locator, _line(id, parsed, images), id)


def _content(image: str | bytes, root: Path) -> bytes:
    source = inside(root, image) if isinstance(image, str) else image
    check_image(source, LIMITS)
    return source if isinstance(source, bytes) else source.read_bytes()


def _line(id: str, parsed: ParsedRow, images: list[bytes]) -> bytes:
    turns = [{"from": SPEAKERS[turn.role], "value": turn.text} for turn in parsed.turns]
    pictures = {"images": [encode_image(image) for image in images]} if images else {}
    return encode_line({"id": id, "conversations": turns, **pictures})
