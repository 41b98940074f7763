"""``samples/`` of a run folder: the usable records as parquet, read whole or by row range."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError
from selfilter_ray.samples.record import Sample, Turn

ROWS_PER_FILE = 65_536
ROWS_PER_GROUP = 1_024

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("source", pa.string()),
        ("turns", pa.list_(pa.struct([("role", pa.string()), ("text", pa.string())]))),
        ("images", pa.list_(pa.string())),
        ("locator", pa.string()),
        ("record", pa.string()),
    ]
)


def write_samples(folder: Path, table: pa.Table) -> None:
    """Write the table as ``part-*.parquet``, replacing what was there."""
    for old in folder.glob("part-*.parquet"):
        old.unlink()
    for number, file in enumerate(part_files(folder, table.num_rows)):
        part = table.slice(number * ROWS_PER_FILE, ROWS_PER_FILE)
        with atomic.replacing(file) as temporary:
            pq.write_table(part, temporary, compression="zstd", row_group_size=ROWS_PER_GROUP)


def part_files(folder: Path, rows: int) -> list[Path]:
    """The files that so many records are stored in."""
    return [folder / f"part-{number:05d}.parquet" for number in range(-(-rows // ROWS_PER_FILE))]


def read_samples(folder: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of all records, in their stored order.

    Raises:
        ArtifactError: when the files are missing or damaged.
    """
    files = sorted(folder.glob("part-*.parquet"))
    if not files:
        raise ArtifactError(f"{folder} holds no samples: run the read stage again.")
    try:
        return ds.dataset(files, schema=SCHEMA).to_table(columns=list(columns)).combine_chunks()
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(f"{folder} is damaged: {error}. Remove it and run again.") from None


def read_sample_range(folder: Path, start: int, stop: int, columns: Sequence[str]) -> pa.Table:
    """The rows ``start`` to ``stop`` of the stored order, touching only their row groups."""
    pieces = []
    while start < stop:
        number, offset = divmod(start, ROWS_PER_FILE)
        rows = min(stop - start, ROWS_PER_FILE - offset)
        pieces.append(_part_range(folder / f"part-{number:05d}.parquet", offset, rows, columns))
        start += rows
    return pa.concat_tables(pieces) if pieces else SCHEMA.empty_table().select(list(columns))


def _part_range(file: Path, offset: int, rows: int, columns: Sequence[str]) -> pa.Table:
    first, last = offset // ROWS_PER_GROUP, (offset + rows - 1) // ROWS_PER_GROUP
    with pq.ParquetFile(file) as parquet:
        groups = parquet.read_row_groups(range(first, last + 1), columns=list(columns))
    return groups.slice(offset - first * ROWS_PER_GROUP, rows)


def samples_of(samples: pa.Table, ids: np.ndarray) -> pa.Table:
    """The rows of a table whose ids are given, in the order of the ids."""
    place = pc.index_in(pa.array(ids, pa.string()), value_set=samples["id"].combine_chunks())
    return samples.take(place).combine_chunks()


def iterate_samples(table: pa.Table) -> Iterator[Sample]:
    """The rows of a table of samples; columns that it lacks are left empty."""
    for batch in table.to_batches(max_chunksize=1024):
        for row in batch.to_pylist():
            yield sample_of(row)


def table_of(samples: Sequence[Sample]) -> pa.Table:
    """Samples as a table."""
    return pa.Table.from_pylist([asdict(sample) for sample in samples], schema=SCHEMA)


def sample_of(row: dict[str, Any]) -> Sample:
    """A sample from its row."""
    turns = tuple(Turn(turn["role"], turn["text"]) for turn in row.get("turns", ()))
    return Sample(
        id=row.get("id", ""),
        source=row.get("source", ""),
        turns=turns,
        images=tuple(row.get("images", ())),
        locator=row.get("locator", ""),
        record=row.get("record", ""),
    )
