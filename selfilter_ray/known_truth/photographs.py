"""Real photographs with human captions: the folder that ``SELFILTER_COCO_MINI`` names."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import NamedTuple

from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.known_truth.entry import Entry

VARIABLE = "SELFILTER_COCO_MINI"
FILE = "llava_captions_open.json"
HELD_OUT = 5  # one photograph in so many


class Photographs(NamedTuple):
    """Captions to train on and captions of other photographs."""

    pool: list[Entry]
    held_out: list[Entry]


def photographs() -> Photographs:
    """All captions, divided by photograph; the division is always the same.

    Raises:
        ConfigError: when the variable is not set, or names no such folder.
        DataError: when the file is damaged.
    """
    folder = Path(os.environ.get(VARIABLE, ""))
    file = folder / FILE
    if not os.environ.get(VARIABLE) or not file.is_file():
        raise ConfigError(
            f"captions of photographs are read from {FILE} in the folder that {VARIABLE} names, "
            f"which {'is not set' if not os.environ.get(VARIABLE) else f'has none: {folder}'}."
        )
    try:
        records = json.loads(file.read_text(encoding="utf-8"))
        entries = [_entry(folder, record) for record in records]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged ({error!r}): get it again.") from None
    held = {entry.picture for entry in entries if _is_held_out(entry.picture)}
    return Photographs(
        [entry for entry in entries if entry.picture not in held],
        [entry for entry in entries if entry.picture in held],
    )


def _entry(folder: Path, record: dict[str, object]) -> Entry:
    turns = record["conversations"]
    if not isinstance(turns, list):
        raise TypeError("conversations is no list")
    asked, answered = (str(turn["value"]) for turn in turns)
    return Entry(folder / str(record["image"]), asked, answered, "caption")


def _is_held_out(picture: Path) -> bool:
    return hashlib.sha256(picture.name.encode()).digest()[0] % HELD_OUT == 0
