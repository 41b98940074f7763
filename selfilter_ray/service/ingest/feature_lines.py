"""The features of a run's pool as samples: the service scores them without an embedder.

N rows, I and T features of the image and of the text.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfilter_ray.errors import ArtifactError
from selfilter_ray.features.shards import OK, TEXT_ONLY
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.service.client.encode import encode_features
from selfilter_ray.service.client.lines import encode_line
from selfilter_ray.service.ingest.row import Fault, Row

COLUMNS = ("id", "image_embedding", "text_embedding", "status", "detail")
BATCH_ROWS = 256


def feature_folder(path: Path) -> Path | None:
    """The folder of shards: ``path``, or that of the run whose folder it is."""
    return next((folder for folder in (path, path / "features") if _has_shards(folder)), None)


def feature_rows(file: Path, start: int) -> Iterator[Row]:
    """The rows of a shard from the row ``start`` on, in their stored order.

    Raises:
        ArtifactError: when the shard is damaged.
    """
    number = 0
    try:
        with pq.ParquetFile(file) as shard:
            for batch in shard.iter_batches(BATCH_ROWS, columns=list(COLUMNS), use_threads=False):
                skipped = min(max(start - number, 0), batch.num_rows)
                yield from _rows(file, number + skipped, batch.slice(skipped))
                number += batch.num_rows
    except (pa.ArrowException, KeyError, ValueError) as error:
        raise ArtifactError(
            f"shard {file} is damaged after row {number} ({error}): make it again by featurize."
        ) from None


def count_features(file: Path) -> int:
    return pq.read_metadata(file).num_rows


def _has_shards(folder: Path) -> bool:
    return folder.is_dir() and any(folder.glob("shard-*.parquet"))


def _rows(file: Path, start: int, batch: pa.RecordBatch) -> Iterator[Row]:
    image_NI, text_NT = (_matrix(batch[name]) for name in COLUMNS[1:3])
    said = zip(*(batch[name].to_pylist() for name in ("id", "status", "detail")), strict=True)
    for row, (id, status, detail) in enumerate(said):
        number, locator = start + row, f"{file}#{start + row}"
        if status in {OK, TEXT_ONLY}:
            features = encode_features(image_NI[row], text_NT[row])
            yield Row(number, locator, encode_line({"id": id, "features": features}), id)
        else:
            yield Row(number, locator, id=id, fault=Fault.of(BadRow(status, detail or "")))


def _matrix(column: pa.FixedSizeListArray) -> np.ndarray:
    # Rows that failed are null: they take their place in the values nevertheless.
    width = column.type.list_size
    values = column.values.slice(column.offset * width, len(column) * width)
    matrix: np.ndarray = values.to_numpy(zero_copy_only=False).reshape(len(column), width)
    return matrix
