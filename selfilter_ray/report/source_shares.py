"""How much of the pool and of the subset each source makes up."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from selfilter_ray.run_folder import RunFolder

TOP = 20


@dataclass(frozen=True, slots=True)
class SourceShare:
    """One source. Shares are fractions of the pool and of the subset."""

    name: str
    pool: int
    chosen: int
    pool_share: float
    chosen_share: float


def source_shares(folder: RunFolder, chosen_ids: pa.ChunkedArray) -> list[SourceShare]:
    """The largest sources of the pool, largest first, and the rest taken together."""
    pool, chosen = _counts(folder, chosen_ids.combine_chunks())
    names = sorted(pool, key=lambda name: (-pool[name], name))
    rows = [(name or "(no source)", pool[name], chosen[name]) for name in names]
    if len(rows) > TOP + 1:
        rest = rows[TOP:]
        title = f"other ({len(rest)} sources)"
        rows = [*rows[:TOP], (title, sum(row[1] for row in rest), sum(row[2] for row in rest))]
    whole, picked = max(1, pool.total()), max(1, chosen.total())
    return [
        SourceShare(name, before, after, before / whole, after / picked)
        for name, before, after in rows
    ]


def _counts(folder: RunFolder, chosen_ids: pa.Array) -> tuple[Counter[str], Counter[str]]:
    pool: Counter[str] = Counter()
    chosen: Counter[str] = Counter()
    for part in sorted(folder.samples.glob("part-*.parquet")):
        table = pq.read_table(part, columns=["id", "source"])
        _add(pool, table.column("source"))
        picked = pc.is_in(table.column("id"), value_set=chosen_ids)
        _add(chosen, table.column("source").filter(picked))
    return pool, chosen


def _add(counts: Counter[str], sources: pa.ChunkedArray) -> None:
    for entry in pc.value_counts(sources).to_pylist():
        counts[entry["values"] or ""] += entry["counts"]
