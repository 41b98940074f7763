"""The tables of a run, as columns: nothing here makes one Python object a row of the pool."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from selfilter_ray.run_folder import RunFolder

Floats = NDArray[np.float64]
SCORES: dict[str, pa.DataType] = {
    "id": pa.string(),
    "difficulty": pa.float32(),
    "answer_tokens": pa.int32(),
}
SELECTION: dict[str, pa.DataType] = {
    "id": pa.string(),
    "rank": pa.int64(),
    "difficulty_at_pick": pa.float32(),
    "penalty": pa.float32(),
    "penalised_ids": pa.list_(pa.string()),
    "penalised_similarity": pa.list_(pa.float32()),
}


@dataclass(frozen=True, slots=True)
class RunTables:
    """What the charts and the sheets are drawn from.

    Attributes:
        ids: ids of the scored pool, ``[rows]``.
        difficulty: ``[rows]``, NaN where unknown.
        answer_tokens: ``[rows]``, NaN where unknown.
        chosen: ``[rows]``, whether the record was picked.
        selection: the picks in the order of their rank.
    """

    ids: pa.ChunkedArray
    difficulty: Floats
    answer_tokens: Floats
    chosen: NDArray[np.bool_]
    selection: pa.Table

    @property
    def rows(self) -> int:
        return len(self.ids)

    @property
    def picks(self) -> int:
        return int(self.selection.num_rows)

    def difficulties(self, ids: list[str]) -> list[float | None]:
        """The difficulty of each id, None where it is not known."""
        rows = _positions(ids, self.ids)
        values = [None if row is None else float(self.difficulty[row]) for row in rows]
        return [None if value is None or not np.isfinite(value) else value for value in values]

    def ranks(self, ids: list[str]) -> list[int | None]:
        """The rank of each id among the picks, from 0; None where it was not picked."""
        ranks = self.selection.column("rank")
        rows = _positions(ids, self.selection.column("id"))
        return [None if row is None else ranks[row].as_py() for row in rows]


def load_tables(folder: RunFolder) -> RunTables:
    """Read scores and selection; a missing file counts as one without rows."""
    scores = _read(folder.scores, SCORES)
    selection = _read(folder.selection, SELECTION).sort_by("rank")
    ids = scores.column("id")
    chosen = pc.is_in(ids, value_set=selection.column("id").combine_chunks())
    return RunTables(
        ids=ids,
        difficulty=floats(scores.column("difficulty")),
        answer_tokens=floats(scores.column("answer_tokens")),
        chosen=np.asarray(chosen.to_numpy(), dtype=np.bool_),
        selection=selection,
    )


def floats(column: pa.ChunkedArray) -> Floats:
    """A numeric column as float64 with NaN for null, ``[rows]``."""
    filled = pc.fill_null(pc.cast(column, pa.float64()), float("nan"))
    return np.asarray(filled.to_numpy(), dtype=np.float64)


def mean(values: Floats) -> float | None:
    """Mean of the finite values, None when there is none."""
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if finite.size else None


def _positions(ids: list[str], column: pa.ChunkedArray) -> list[int | None]:
    wanted = pc.is_in(column, value_set=pa.array(ids, pa.string()))
    rows = np.flatnonzero(np.asarray(wanted.to_numpy()))
    found: dict[str, Any] = dict(zip(column.take(pa.array(rows)).to_pylist(), rows, strict=True))
    return [int(found[name]) if name in found else None for name in ids]


def _read(path: Path, columns: dict[str, pa.DataType]) -> pa.Table:
    schema = pa.schema(list(columns.items()))
    if not path.exists():
        return schema.empty_table()
    present = set(pq.read_schema(path).names)
    table = pq.read_table(path, columns=[name for name in columns if name in present])
    for name, kind in columns.items():
        if name not in present:
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
    return table.select(list(columns)).cast(schema)
