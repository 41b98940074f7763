"""A pool with known truth as a folder: LLaVA JSON, its pictures, the truth, and a held-out set.

    pool.json         what a selector sees; its ids and their order tell nothing of the truth
    held_out.json     clean records of other pictures
    start.json        clean records of yet other pictures, to make the model that tuning starts from
    captions.json     what is on those pictures (easy-vqa)
    images/           of all of them
    blind/            pool and held-out without pictures: what can be learned from questions alone
    truth.parquet     id, kind, and of duplicates the id of the original
    description.json  what was planted, what is expected, and how it was made; written last

The same name, rows and seed give the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from selfilter_ray import atomic
from selfilter_ray.errors import ConfigError
from selfilter_ray.known_truth.captions import captioned
from selfilter_ray.known_truth.changed_picture import changed_picture
from selfilter_ray.known_truth.drawings import drawings
from selfilter_ray.known_truth.entry import Entry, drawn
from selfilter_ray.known_truth.photographs import photographs
from selfilter_ray.known_truth.pools import KnownPool, known_pool
from selfilter_ray.known_truth.truth import TRUTH
from selfilter_ray.samples.record import IMAGE_TOKEN

POOL, HELD_OUT, TRUTH_FILE, IMAGES = "pool.json", "held_out.json", "truth.parquet", "images"
START, CAPTIONS = "start.json", "captions.json"
DESCRIPTION, BLIND = "description.json", "blind"
HELD_OUT_ROWS = 2_000


class _Clean(NamedTuple):
    pool: Sequence[Entry]
    held_out: Sequence[Entry]
    start: Sequence[Entry]


@dataclass(frozen=True)
class WrittenPool:
    """Where its parts are.

    Attributes:
        pool, held_out, start, captions: LLaVA JSON files, for ``data.inputs``; the last two only
            where ``start_rows`` were asked for, the last only of easy-vqa.
        blind_pool, blind_held_out: the same records, by the same ids, without their pictures: a
            model that is tuned on the one and evaluated on the other is the blind baseline.
        truth: a table of ``truth.TRUTH``.
        description: the content of ``description.json``.
    """

    folder: Path
    pool: Path
    held_out: Path
    start: Path
    captions: Path
    blind_pool: Path
    blind_held_out: Path
    truth: Path
    description: dict[str, Any]

    @classmethod
    def at(cls, folder: Path, description: dict[str, Any]) -> WrittenPool:
        """Of a folder that is complete."""
        blind = folder / BLIND
        return cls(
            folder=folder,
            pool=folder / POOL,
            held_out=folder / HELD_OUT,
            start=folder / START,
            captions=folder / CAPTIONS,
            blind_pool=blind / POOL,
            blind_held_out=blind / HELD_OUT,
            truth=folder / TRUTH_FILE,
            description=description,
        )


def write_pool(
    name: str,
    folder: Path,
    rows: int | None = None,
    seed: int = 0,
    held_out_rows: int = HELD_OUT_ROWS,
    start_rows: int = 0,
) -> WrittenPool:
    """Write the pool, or find that it is there.

    Args:
        name: of ``pools.POOLS``.
        rows: of the pool; None for as many as the data set has.
        seed: of what is drawn and what is planted; the held-out set is the same for all seeds.
        held_out_rows: at most so many, in the proportions of the data set.
        start_rows: taken from the data set before the pool is drawn, with all their pictures; the
            same for all seeds and all pools of one data set.

    Raises:
        ConfigError: for an unknown name, too many rows, missing data, or a folder that holds
            something else.
    """
    kind = known_pool(name)
    asked = {"name": name, "rows": rows, "seed": seed, "held_out_rows": held_out_rows}
    asked["start_rows"] = start_rows
    found = _described(folder, asked)
    if found is None or not _has_captions(kind, folder, start_rows):
        clean = _clean(kind, start_rows)
        most = kind.most(clean.pool)
        rows = min(most, len(clean.pool)) if rows is None else rows
        if not 1 <= rows <= most:
            raise ConfigError(f"{name} can have 1 to {most} rows, not {rows}.")
        found = _write(kind, clean, folder, asked | {"rows": rows})
    return WrittenPool.at(folder, found)


def _has_captions(kind: KnownPool, folder: Path, start_rows: int) -> bool:
    """Whether captions are there that should be: an earlier version wrote none."""
    return not start_rows or kind.data != "easy-vqa" or (folder / CAPTIONS).exists()


def _clean(kind: KnownPool, start_rows: int) -> _Clean:
    if kind.data == "coco_mini":
        pool, held_out = (list(part) for part in photographs())
    else:
        pool, held_out = list(drawings("train")), list(drawings("test"))
    start, rest = _apart(pool, start_rows)
    return _Clean(rest, held_out, start)


def _apart(entries: Sequence[Entry], rows: int) -> tuple[list[Entry], list[Entry]]:
    """So many entries of pictures drawn at random, and the entries of all other pictures.

    Raises:
        ConfigError: when there are not so many, or none would be left.
    """
    pictures = sorted({entry.picture for entry in entries})
    by_picture: dict[Path, list[Entry]] = {picture: [] for picture in pictures}
    for entry in entries:
        by_picture[entry.picture].append(entry)
    taken: list[Entry] = []
    for number in np.random.default_rng(1).permutation(len(pictures)).tolist():
        if len(taken) >= rows:
            break
        taken += by_picture.pop(pictures[number])
    if len(taken) < rows or not by_picture:
        raise ConfigError(f"start_rows: {rows} of {len(entries)} clean records are too many.")
    return taken[:rows], [entry for entry in entries if entry.picture in by_picture]


def _described(folder: Path, asked: dict[str, Any]) -> dict[str, Any] | None:
    """What the folder holds already; None when it is empty."""
    file = folder / DESCRIPTION
    if not file.exists():
        if folder.exists() and any(folder.iterdir()) and not (folder / IMAGES).is_dir():
            raise ConfigError(f"{folder} is not empty and holds no pool: give another folder.")
        return None
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    given = {name: value for name, value in asked.items() if value is not None}
    other = {name: found.get(name, 0 if name == "start_rows" else None) for name in given}
    if other != given:
        raise ConfigError(f"{folder} holds another pool ({other}): remove it, or give another.")
    return found


def _write(kind: KnownPool, clean: _Clean, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    random = np.random.default_rng([asked["seed"], *kind.name.encode()])
    planned = kind.plan(clean.pool, asked["rows"], random)
    place_N = random.permutation(len(planned))  # of each entry in the pool
    ids = [f"{kind.name}-{place:06d}" for place in place_N.tolist()]
    held_out = drawn(clean.held_out, asked["held_out_rows"], np.random.default_rng(0))
    start_ids = [f"start-{number:05d}" for number in range(len(clean.start))]
    held_ids = [f"held-out-{number:05d}" for number in range(len(held_out))]
    rows = list(zip(ids, planned, strict=True))
    records = sorted((_record(id, entry, folder, kind.data) for id, entry in rows), key=_id)
    held = [_record(*row, folder, kind.data) for row in zip(held_ids, held_out, strict=True)]
    truth = sorted((_truth(id, entry, ids) for id, entry in rows), key=_id)
    if clean.start:
        start = zip(start_ids, clean.start, strict=True)
        atomic.write_json(folder / START, [_record(*row, folder, kind.data) for row in start])
    if clean.start and kind.data == "easy-vqa":
        rows_of = enumerate(captioned(clean.start))
        captions = [_record(f"caption-{n:05d}", entry, folder, kind.data) for n, entry in rows_of]
        atomic.write_json(folder / CAPTIONS, captions)
    for name, content in ((POOL, records), (HELD_OUT, held)):
        atomic.write_json(folder / name, content)
        atomic.write_json(folder / BLIND / name, [_blind(record) for record in content])
    atomic.write_table(folder / TRUTH_FILE, pa.Table.from_pylist(truth, schema=TRUTH))
    description = _description(kind, folder, planned, held_out, asked)
    atomic.write_json(folder / DESCRIPTION, description)
    return description


def _record(id: str, entry: Entry, folder: Path, data: str) -> dict[str, Any]:
    """The record, its picture written beside it."""
    name = f"{IMAGES}/{entry.picture.parent.name}-{entry.picture.name}"
    if entry.change is not None:
        name = f"{IMAGES}/{id}.png"
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if entry.change is not None:
        changed_picture(entry.picture, entry.change).save(file)
    elif not file.exists():
        shutil.copyfile(entry.picture, file)
    return {
        "id": id,
        "image": name,
        "source": f"{data}/{entry.type}",
        "question_type": entry.type,
        "conversations": [
            {"from": "human", "value": entry.question},
            {"from": "gpt", "value": entry.answer},
        ],
    }


def _blind(record: dict[str, Any]) -> dict[str, Any]:
    asked, answered = record["conversations"]
    words = asked["value"].replace(IMAGE_TOKEN, "").strip()
    turns = [{**asked, "value": words}, answered]
    return {**{k: v for k, v in record.items() if k != "image"}, "conversations": turns}


def _truth(id: str, entry: Entry, ids: Sequence[str]) -> dict[str, Any]:
    original = None if entry.copy_of is None else ids[entry.copy_of]
    return {"id": id, "kind": entry.kind, "original": original}


def _id(row: dict[str, Any]) -> str:
    return str(row["id"])


def _description(
    kind: KnownPool,
    folder: Path,
    planned: Sequence[Entry],
    held_out: Sequence[Entry],
    asked: dict[str, Any],
) -> dict[str, Any]:
    return {
        **asked,
        "data": kind.data,
        "about": kind.about,
        "expectation": kind.expectation,
        "planted": kind.planted,
        "kinds": dict(sorted(Counter(entry.kind for entry in planned).items())),
        "question_types": dict(sorted(Counter(entry.type for entry in planned).items())),
        "held_out": dict(sorted(Counter(entry.type for entry in held_out).items())),
        "sha256": {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in (POOL, HELD_OUT, TRUTH_FILE, START, CAPTIONS)
            if (folder / name).exists()
        },
    }
