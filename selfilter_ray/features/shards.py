"""Fixed shards of the pool, each a parquet file and a record that it is complete; ``features/``.

A shard is a range of rows of ``samples/``, so its content depends neither on the number of actors
nor on an earlier interruption. The record is written after the file; a shard without one is made
again. The feature pass keeps its rows so, and every other pass over the pool.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError
from selfilter_ray.samples.quarantine import BadRow, Quarantined

# Values of ``status`` of a usable row; any other is a reason of the quarantine.
OK = "ok"
TEXT_ONLY = "text_only"


@dataclass(frozen=True, slots=True)
class Shard:
    """Rows ``start`` to ``stop`` of the pool."""

    number: int
    start: int
    stop: int

    def file(self, folder: Path) -> Path:
        return folder / f"shard-{self.number:05d}.parquet"

    def record_file(self, folder: Path) -> Path:
        return folder / f"shard-{self.number:05d}.done.json"


@dataclass(frozen=True, slots=True)
class ShardRecord:
    """Says that a shard is complete, what it was made from and by which model."""

    key: str
    rows: int
    seconds: float
    model: str


@dataclass(frozen=True, slots=True)
class Features:
    """The features of the usable records, sorted by id.

    Attributes:
        ids: N strings.
        features_ND: float32, the two halves beside each other (Self-Filter's CLIP setting).
        clip_score_N: float32, NaN where there is none.
    """

    ids: np.ndarray
    features_ND: np.ndarray
    clip_score_N: np.ndarray


def plan_shards(rows: int, shard_rows: int) -> list[Shard]:
    """All shards of a pool of ``rows`` records."""
    starts = range(0, rows, shard_rows)
    return [Shard(n, start, min(start + shard_rows, rows)) for n, start in enumerate(starts)]


def shards_to_make(folder: Path, key: str, rows: int, shard_rows: int) -> list[Shard]:
    """The shards that are not complete under ``key``; what was made under another is removed."""
    plan = plan_shards(rows, shard_rows)
    remove_other_shards(folder, key, plan)
    return [shard for shard in plan if shard_record(folder, shard, key) is None]


def finish_shard(folder: Path, shard: Shard, table: pa.Table, record: ShardRecord) -> None:
    """Write the file, then the record that makes it count."""
    atomic.write_table(shard.file(folder), table)
    atomic.write_json(shard.record_file(folder), asdict(record))


def shard_record(folder: Path, shard: Shard, key: str) -> ShardRecord | None:
    """The record of a complete shard made under ``key``, or None."""
    record = _record(shard.record_file(folder))
    if record is None:
        return None
    complete = record.key == key and record.rows == shard.stop - shard.start
    return record if complete and shard.file(folder).is_file() else None


def _record(file: Path) -> ShardRecord | None:
    """A record from its file; None when there is none, or it is torn."""
    try:
        return ShardRecord(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def shard_keys(folder: Path) -> set[str]:
    """The keys that the complete shards of a folder were made under."""
    records = (_record(file) for file in folder.glob("shard-*.done.json"))
    return {record.key for record in records if record is not None}


def shard_seconds(folder: Path) -> float:
    """Seconds that actors spent on the complete shards of a folder."""
    records = (_record(file) for file in folder.glob("shard-*.done.json"))
    return sum(record.seconds for record in records if record is not None)


def remove_other_shards(folder: Path, key: str, shards: list[Shard]) -> None:
    """Drop everything that was not made under ``key``: left-overs of other settings."""
    wanted = {
        name(folder)
        for shard in shards
        if shard_record(folder, shard, key) is not None
        for name in (shard.file, shard.record_file)
    }
    for path in folder.glob("shard-*"):
        if path not in wanted:
            path.unlink()


def shard_files(folder: Path, stage: str = "featurize") -> list[Path]:
    """The files of all shards that a stage left in a folder.

    Raises:
        ArtifactError: when there is none.
    """
    files = sorted(folder.glob("shard-*.parquet"))
    if not files:
        raise ArtifactError(f"{folder} holds no shards: run the {stage} stage again.")
    return files


def read_shards(files: Sequence[Path], columns: Sequence[str]) -> pa.Table:
    """Some columns of some shards, in no particular order.

    Raises:
        ArtifactError: when a file is missing or damaged.
    """
    try:
        return pa.concat_tables(pq.read_table(file, columns=list(columns)) for file in files)
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"shards in {files[0].parent} are damaged: {error}. Remove them and run again."
        ) from None


def load_features(folder: Path) -> Features:
    """All usable rows of all shards.

    Raises:
        ArtifactError: when a file is missing or damaged.
    """
    return load_shards(shard_files(folder))


def load_shards(files: Sequence[Path]) -> Features:
    """The usable rows of some shard files."""
    table = read_shards(files, ["id", "image_embedding", "text_embedding", "scores", "status"])
    table = table.filter(_usable(table))
    table = table.take(pc.sort_indices(table["id"]))
    clip = pc.struct_field(table["scores"].combine_chunks(), "clip_score")
    return Features(
        ids=table["id"].to_numpy(zero_copy_only=False),
        features_ND=features_of(table),
        clip_score_N=clip.to_numpy(zero_copy_only=False).astype(np.float32),
    )


def usable_ids(folder: Path) -> np.ndarray:
    """The ids of all usable rows, sorted."""
    table = read_shards(shard_files(folder), ["id", "status"])
    ids: np.ndarray = table.filter(_usable(table))["id"].to_numpy()
    return np.sort(ids)


def features_of(table: pa.Table) -> np.ndarray:
    """(N, I + T) float32: the image half and the text half of each row, beside each other."""
    halves = [_matrix(table[name]) for name in ("image_embedding", "text_embedding")]
    return np.concatenate(halves, axis=1)


def model_hash(folder: Path) -> str:
    """Hash of the model that made all shards.

    Raises:
        ArtifactError: when nodes of the cluster used different weights.
    """
    records = (json.loads(file.read_text()) for file in folder.glob("shard-*.done.json"))
    models = {str(record["model"]) for record in records}
    if len(models) != 1:
        raise ArtifactError(
            f"the shards in {folder} were made by {len(models)} different models: give every node "
            "the same weights, remove the folder and run again."
        )
    return models.pop()


def failed_rows(folder: Path) -> list[Quarantined]:
    """The rows that could not be featurized, as lines of the quarantine."""
    table = read_shards(shard_files(folder), ["id", "locator", "status", "detail"])
    failed = table.filter(pc.invert(_usable(table))).sort_by("id").to_pylist()
    return [
        Quarantined.of(BadRow(row["status"], row["detail"]), row["locator"], row["id"], "featurize")
        for row in failed
    ]


def _usable(table: pa.Table) -> pa.ChunkedArray:
    return pc.is_in(table["status"], pa.array([OK, TEXT_ONLY]))


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    values = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    # The type knows the width even where a shard has no usable row.
    result: np.ndarray = values.flatten().to_numpy().reshape(len(values), values.type.list_size)
    return result
