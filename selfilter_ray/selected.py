"""The chosen records as files: verbatim, in pick order, in the input's own format."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfilter_ray import atomic
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import read_samples, samples_of
from selfilter_ray.samples.inputs import files_here
from selfilter_ray.select.contract import Selection
from selfilter_ray.select.diverse import Picks
from selfilter_ray.storage import name_of

TEXT_LINES = {".jsonl", ".ndjson"}
COLUMNS = {".parquet", ".arrow"}


def selection_table(ids: np.ndarray, selection: Selection) -> pa.Table:
    """``selection.parquet``: one row a pick.

    Returns:
        id, rank (from 0), value (that the method chose by, null where there is none). Of
        Self-Filter also difficulty_at_pick, penalty, nearest_earlier_id and its similarity (null
        where no earlier pick pushed it down), penalised_ids and penalised_similarity (what the pick
        pushed down, nearest first).
    """
    known = np.isfinite(selection.value)
    table = pa.table(
        {
            "id": pa.array(ids[selection.indices], pa.string()),
            "rank": pa.array(np.arange(len(selection.indices), dtype=np.int64)),
            "value": pa.array(selection.value, mask=~known),
        }
    )
    if selection.picks is None:
        return table
    for name, column in _penalties(ids, selection.picks).items():
        table = table.append_column(name, column)
    return table


def _penalties(ids: np.ndarray, picks: Picks) -> dict[str, pa.Array]:
    """What the greedy selection writes down of each pick."""
    none = picks.nearest_earlier < 0
    nearest = ids[np.where(none, 0, picks.nearest_earlier)] if len(ids) else ids
    pushed_BK = picks.neighbours_BK
    known_BK = pushed_BK >= 0
    return {
        "difficulty_at_pick": pa.array(picks.difficulty_at_pick),
        "penalty": pa.array(picks.penalty),
        "nearest_earlier_id": pa.array(nearest, pa.string(), mask=none),
        "nearest_earlier_similarity": pa.array(picks.nearest_earlier_similarity, mask=none),
        "penalised_ids": _lists(ids[pushed_BK[known_BK]], known_BK, pa.string()),
        "penalised_similarity": _lists(picks.similarity_BK[known_BK], known_BK, pa.float32()),
    }


def write_selected(folder: RunFolder, ids: Sequence[str]) -> None:
    """Write ``selected.json`` and ``selected.ids``, and ``selected.jsonl`` or ``selected.parquet``
    where all inputs have that format."""
    samples = read_samples(folder.samples, ["id", "locator", "record"])
    chosen = samples_of(samples, np.array(ids, dtype=object))
    records = chosen["record"].to_pylist()
    atomic.write_text(folder.selected_json, "[\n" + ",\n".join(records) + "\n]\n")
    atomic.write_text(folder.selected_ids, "".join(f"{id}\n" for id in ids))
    places = [locator.rpartition("#") for locator in chosen["locator"].to_pylist()]
    formats = {Path(name_of(file)).suffix.lower() for file, _, _ in places}
    lines, columns = folder.path / "selected.jsonl", folder.path / "selected.parquet"
    for left_over in (lines, columns):  # of an earlier selection
        left_over.unlink(missing_ok=True)
    if formats and formats <= TEXT_LINES:
        atomic.write_text(lines, "".join(f"{record}\n" for record in records))
    elif formats and formats <= COLUMNS:
        rows = [(file, int(row)) for file, _, row in places]
        table = _rows_of_files(rows)
        if table is not None:
            atomic.write_table(columns, table)


def _rows_of_files(places: Sequence[tuple[str, int]]) -> pa.Table | None:
    """The given rows of the input files, every column, in the given order.

    None when the files hold columns of one name and types that have nothing in common.
    """
    wanted: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for rank, (file, row) in enumerate(places):
        wanted[file].append((row, rank))
    pieces: list[pa.Table] = []
    ranks: list[int] = []
    here = files_here(list(wanted))
    for file, pairs in wanted.items():
        pairs.sort()
        start = 0
        for piece in _pieces(here[file]):
            picked = [(row, rank) for row, rank in pairs if start <= row < start + piece.num_rows]
            if picked:
                pieces.append(piece.take(pa.array([row - start for row, _ in picked])))
                ranks += [rank for _, rank in picked]
            start += piece.num_rows
    try:
        table = pa.concat_tables(pieces, promote_options="permissive")
    except pa.ArrowException:
        return None
    return table.take(pa.array(np.argsort(ranks)))


def _pieces(file: Path) -> Iterator[pa.Table]:
    if file.suffix.lower() == ".arrow":
        with pa.memory_map(str(file)) as source, pa.ipc.open_stream(source) as stream:
            for batch in stream:
                yield pa.Table.from_batches([batch])
        return
    with pq.ParquetFile(file) as parquet:
        for group in range(parquet.num_row_groups):
            yield parquet.read_row_group(group)


def _lists(values: np.ndarray, known_BK: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    offsets = np.concatenate([[0], np.cumsum(known_BK.sum(1))]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values, kind))
