"""The contact sheets: which records they show."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from selfilter_ray.config import LimitsConfig, ReportConfig
from selfilter_ray.report.cards import Card, CardMaker
from selfilter_ray.report.tables import Floats, RunTables, floats
from selfilter_ray.run_folder import RunFolder

NEIGHBOURS = 3
PICK_SCALE = 2


@dataclass(frozen=True, slots=True)
class PickRow:
    """A pick and the nearest of the ``pushed_down`` records that it made less likely.

    ``penalty`` is how far earlier picks had pushed the pick itself down.
    """

    pick: Card
    neighbours: tuple[Card, ...]
    pushed_down: int
    difficulty_at_pick: float | None
    penalty: float | None


@dataclass(frozen=True, slots=True)
class Sheets:
    """The contact sheets: ``picks`` of Self-Filter, or the ``first`` ones of another method."""

    hardest: tuple[Card, ...]
    easiest: tuple[Card, ...]
    picks: tuple[PickRow, ...]
    first: tuple[Card, ...]


def contact_sheets(
    folder: RunFolder, tables: RunTables, config: ReportConfig, limits: LimitsConfig
) -> Sheets:
    """Choose the records, at most ``config.sheet_images`` cards a sheet, and make their cards."""
    hardest, easiest = _extremes(tables, config.sheet_images)
    rows = [
        tables.selection.slice(row, 1).to_pylist()[0]
        for row in telling_picks(tables.selection, max(1, config.sheet_images // (NEIGHBOURS + 1)))
    ]
    near = [name for row in rows for name in row["penalised_ids"][:NEIGHBOURS]]
    first = _first_picks(tables.selection, config.sheet_images)
    ids = hardest + easiest + [row["id"] for row in rows] + near + first
    maker = CardMaker(folder, tables, ids, limits)
    pixels = config.thumbnail_pixels
    return Sheets(
        hardest=tuple(maker.make(name, pixels) for name in hardest),
        easiest=tuple(maker.make(name, pixels) for name in easiest),
        picks=tuple(_pick_row(maker, row, pixels) for row in rows),
        first=tuple(maker.make(name, pixels) for name in first),
    )


def _first_picks(selection: pa.Table, cards: int) -> list[str]:
    """Ids in the order of their rank; none where the method wrote down what it pushed down."""
    if selection.column("penalised_ids").null_count < selection.num_rows:
        return []
    return list(selection.column("id").slice(0, cards).to_pylist())


def telling_picks(selection: pa.Table, rows: int) -> list[int]:
    """Rows of the picks to show, in the order of their rank.

    The ranking is cut into ``rows`` equal stretches; of each, the pick that pushed down the most
    similar record is shown. Stretches without any give their place to the best of the others.
    """
    nearest = _nearest_similarity(selection)
    usable = np.flatnonzero(np.isfinite(nearest))
    best = usable[np.argsort(-nearest[usable], kind="stable")]
    stretch = best * rows // max(1, selection.num_rows)
    _, first = np.unique(stretch, return_index=True)
    leaders = best[first]
    others = best[~np.isin(best, leaders)]
    return sorted(int(row) for row in np.concatenate([leaders, others])[:rows])


def _nearest_similarity(selection: pa.Table) -> Floats:
    """Similarity of the nearest record that each pick pushed down, NaN for none, ``[picks]``."""
    nearest = np.full(selection.num_rows, np.nan)
    lists = selection.column("penalised_similarity").combine_chunks()
    ids = selection.column("penalised_ids").combine_chunks()
    lengths = [pc.fill_null(pc.list_value_length(part), 0).to_numpy() for part in (lists, ids)]
    filled = np.flatnonzero(np.minimum(*lengths) > 0)
    if filled.size:
        first = pc.list_element(lists.take(pa.array(filled)), 0)
        nearest[filled] = floats(pa.chunked_array([first]))
    return nearest


def _extremes(tables: RunTables, cards: int) -> tuple[list[str], list[str]]:
    """Ids of the hardest and of the easiest records; none is in both."""
    known = np.flatnonzero(np.isfinite(tables.difficulty))
    order = known[np.argsort(-tables.difficulty[known], kind="stable")]
    hardest = order[: min(cards, -(-len(order) // 2))]
    easiest = order[::-1][: min(cards, len(order) // 2)]
    return _ids(tables, hardest), _ids(tables, easiest)


def _ids(tables: RunTables, rows: NDArray[np.int64]) -> list[str]:
    return list(tables.ids.take(pa.array(rows)).to_pylist())


def _pick_row(maker: CardMaker, row: dict[str, object], pixels: int) -> PickRow:
    ids, similarity = row["penalised_ids"], row["penalised_similarity"]
    assert isinstance(ids, list)
    assert isinstance(similarity, list)
    near = list(zip(ids, similarity, strict=False))[:NEIGHBOURS]
    at_pick, penalty = row["difficulty_at_pick"], row["penalty"]
    return PickRow(
        pick=maker.make(str(row["id"]), PICK_SCALE * pixels),
        neighbours=tuple(maker.make(name, pixels, cosine) for name, cosine in near),
        pushed_down=len(ids),
        difficulty_at_pick=at_pick if isinstance(at_pick, float) else None,
        penalty=penalty if isinstance(penalty, float) else None,
    )
