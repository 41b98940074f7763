"""One card of a contact sheet: a record as a person would look at it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from selfilter_ray.config import LimitsConfig
from selfilter_ray.report.tables import RunTables
from selfilter_ray.report.thumbnail import thumbnail
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, USER

SHOWN_CHARACTERS = 200
TITLE_CHARACTERS = 1500


@dataclass(frozen=True, slots=True)
class Card:
    """A record ready to show.

    Attributes:
        picture: data address of the first image; None when there is none or it is unreadable.
        more_images: number of images that are not shown.
        more_turns: number of questions after the first.
        rank: place among the picks, from 0; None when not chosen.
        cosine: similarity to the pick that pushed this record down; None elsewhere.
    """

    id: str
    source: str
    question: str
    answer: str
    answer_title: str
    picture: str | None
    images: int
    more_images: int
    more_turns: int
    difficulty: float | None
    rank: int | None
    cosine: float | None = None


class CardMaker:
    """Makes cards for a known set of ids: one read of the samples for all sheets."""

    def __init__(
        self, folder: RunFolder, tables: RunTables, ids: list[str], limits: LimitsConfig
    ) -> None:
        self._limits = limits
        unique = list(dict.fromkeys(ids))
        self._records = _load_records(folder, unique)
        self._difficulty = dict(zip(unique, tables.difficulties(unique), strict=True))
        self._rank = dict(zip(unique, tables.ranks(unique), strict=True))

    def make(self, id: str, pixels: int, cosine: float | None = None) -> Card:
        """A card whose picture is at most ``pixels`` wide and high."""
        record = self._records.get(id, {})
        turns = record.get("turns") or []
        images = record.get("images") or []
        questions, answers = _texts(turns, USER), _texts(turns, ASSISTANT)
        answer = answers[0] if answers else ""
        return Card(
            id=id,
            source=record.get("source") or "",
            question=_cut(questions[0] if questions else "", SHOWN_CHARACTERS),
            answer=_cut(answer, SHOWN_CHARACTERS),
            answer_title=_cut(answer, TITLE_CHARACTERS),
            picture=thumbnail(images[0], pixels, self._limits) if images else None,
            images=len(images),
            more_images=max(0, len(images) - 1),
            more_turns=max(0, len(questions) - 1),
            difficulty=self._difficulty[id],
            rank=self._rank[id],
            cosine=cosine,
        )


def _load_records(folder: RunFolder, ids: list[str]) -> dict[str, dict[str, Any]]:
    parts = sorted(str(part) for part in folder.samples.glob("part-*.parquet"))
    if not parts or not ids:
        return {}
    wanted = pc.field("id").isin(pa.array(ids, pa.string()))
    columns = ["id", "source", "turns", "images"]
    scanner = ds.dataset(parts, format="parquet").scanner(
        # small batches: the texts of a whole row group need not be in memory at once
        columns=columns,
        filter=wanted,
        batch_size=4096,
        batch_readahead=2,
        fragment_readahead=1,
    )
    rows = [row for batch in scanner.to_batches() for row in batch.to_pylist()]
    return {row["id"]: row for row in rows}


def _texts(turns: list[dict[str, str]], role: str) -> list[str]:
    own = [turn["text"] or "" for turn in turns if turn["role"] == role]
    return [" ".join(text.replace(IMAGE_TOKEN, " ").split()) for text in own]


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1].rstrip() + "\u2026"
