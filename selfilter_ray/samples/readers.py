"""Readers: from a file or folder to its rows, one at a time, each with its place and its text.

A row that cannot be decoded is yielded with the reason; a file that cannot be read at all, or whose
rows cannot be told apart, is a ``DataError``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from selfilter_ray.errors import DataError
from selfilter_ray.samples.json_rows import decode_row, iterate_list
from selfilter_ray.samples.quarantine import BadRow

TURN_COLUMNS = ("conversations", "messages", "texts")
ARROW_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class RawRow:
    """One row of the input. ``error`` is set when ``row`` could not be decoded.

    ``record`` is the row's own text where the format is text, else its JSON.
    """

    locator: str
    row: Any
    record: str
    error: BadRow | None = None


def data_files(path: Path) -> list[Path]:
    """The files of an input: the file itself, or those of a dataset folder, in a fixed order.

    A folder is a Hugging Face dataset saved to disk (``state.json``), one of several splits
    (``dataset_dict.json``), a folder of parquet files, an image folder with ``metadata.jsonl``,
    or a folder of JSON and JSONL files.

    Raises:
        DataError: when there is no such path, or the folder holds no data file.
    """
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise DataError(f"input {path} does not exist: correct data.inputs.")
    if (path / "dataset_dict.json").is_file():
        splits = _json_field(path / "dataset_dict.json", "splits")
        return [file for split in splits for file in data_files(_child(path, split))]
    if (path / "state.json").is_file():
        parts = _json_field(path / "state.json", "_data_files")
        names = [part.get("filename") if isinstance(part, dict) else None for part in parts]
        return [_child(path, name) for name in names]
    for pattern in ("**/*.parquet", "**/metadata.jsonl", "**/*.jsonl", "**/*.ndjson", "**/*.json"):
        files = sorted(file for file in path.glob(pattern) if file.is_file())
        if files:
            return files
    raise DataError(
        f"folder {path} holds no data: expected a Hugging Face dataset, parquet, JSONL or JSON."
    )


def _child(folder: Path, name: Any) -> Path:
    """A file or folder that a dataset names: directly below it, never elsewhere."""
    if not isinstance(name, str) or "\0" in name or Path(name).name in {"", ".."}:
        raise DataError(f"{folder} is damaged: it names a part {name!r}.")
    return folder / Path(name).name


def read_rows(file: Path) -> Iterator[RawRow]:
    """All rows of one data file.

    Raises:
        DataError: when the file is empty, damaged, or of an unknown format.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        known = ", ".join(sorted(READERS))
        raise DataError(f"{file} has an unknown format: expected one of {known}.")
    try:
        if file.stat().st_size == 0:
            raise DataError(f"{file} is empty: there is nothing to select from.")
        yield from reader(file)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error}") from None


def _read_json(file: Path) -> Iterator[RawRow]:
    try:
        text = file.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start}).") from None
    for number, (record, row, bad) in enumerate(iterate_list(text, str(file))):
        yield RawRow(f"{file}#{number}", row, record, bad)


def _read_jsonl(file: Path) -> Iterator[RawRow]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines):
            if number == 0:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            locator = f"{file}#{number}"
            try:
                record = line.strip().decode("utf-8")
            except UnicodeDecodeError as error:
                yield RawRow(
                    locator, None, "", BadRow("json_invalid", f"not UTF-8: byte {error.start}")
                )
                continue
            row, bad = decode_row(record)
            yield RawRow(locator, _with_image(row), record, bad)


def _read_parquet(file: Path) -> Iterator[RawRow]:
    try:
        parquet = pq.ParquetFile(file)
    except pa.ArrowException as error:
        raise DataError(f"{file} is not a readable parquet file: {error}") from None
    columns = _plain_columns(parquet.schema_arrow, file)
    with parquet:
        yield from _arrow_rows(
            parquet.iter_batches(ARROW_BATCH_ROWS, columns=columns, use_threads=False), file
        )


def _read_arrow(file: Path) -> Iterator[RawRow]:
    try:
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            columns = _plain_columns(stream.schema, file)
            pieces = (
                batch.slice(start, ARROW_BATCH_ROWS)
                for batch in _validated(stream, columns)
                for start in range(0, batch.num_rows, ARROW_BATCH_ROWS)
            )
            yield from _arrow_rows(pieces, file)
    except pa.ArrowException as error:
        raise DataError(f"{file} is not a readable Arrow stream: {error}") from None


def _validated(stream: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    # Arrow trusts the offsets of a stream: wrong ones would read memory that is not ours.
    for batch in stream:
        plain = batch.select(columns)
        plain.validate(full=True)
        yield plain


def _plain_columns(schema: pa.Schema, file: Path) -> list[str]:
    # Extension types are left alone: some of them unpickle their values.
    plain = [field.name for field in schema if not _holds_extension(field.type)]
    if not any(name in plain for name in TURN_COLUMNS):
        raise DataError(
            f"{file} has no column {', '.join(TURN_COLUMNS[:-1])} or {TURN_COLUMNS[-1]} "
            f"(it has: {', '.join(schema.names) or 'none'})."
        )
    return plain


def _holds_extension(type: pa.DataType) -> bool:
    if isinstance(type, pa.BaseExtensionType):
        return True
    inner = [type.field(number).type for number in range(type.num_fields)]
    if isinstance(type, pa.DictionaryType):
        inner.append(type.value_type)
    return any(_holds_extension(part) for part in inner)


def _with_image(row: Any) -> Any:
    """Image folders call the image ``file_name``."""
    if isinstance(row, dict) and "image" not in row and "images" not in row and "file_name" in row:
        return {**row, "image": row["file_name"]}
    return row


def _arrow_rows(batches: Iterator[pa.RecordBatch], file: Path) -> Iterator[RawRow]:
    number = 0
    try:
        for batch in batches:
            for row in batch.to_pylist():
                yield RawRow(f"{file}#{number}", _with_image(row), _json_of(row))
                number += 1
    except (pa.ArrowException, ValueError, OverflowError) as error:  # also dates Python lacks
        raise DataError(f"{file} is damaged after row {number}: {error}") from None


def _json_of(row: dict[str, Any]) -> str:
    """The row as JSON. Bytes are named by their length: the row itself stays in the input file."""
    return json.dumps(_without_bytes(row), ensure_ascii=False, default=str)


def _without_bytes(value: Any) -> Any:
    if isinstance(value, bytes):
        return f"<{len(value)} bytes>"
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN; columns use it for what is missing
    if isinstance(value, dict):
        return {key: _without_bytes(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_without_bytes(item) for item in value]
    return value


def _json_field(file: Path, name: str) -> list[Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))[name]
        assert isinstance(value, list)
    except (ValueError, KeyError, TypeError, AssertionError, OSError):
        raise DataError(f"{file} is damaged: it must hold a list {name!r}.") from None
    return value


READERS: dict[str, Callable[[Path], Iterator[RawRow]]] = {
    ".json": _read_json,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
