"""The packaged easy-vqa data as entries: drawings of 64 px, one-word answers."""

from __future__ import annotations

import json
from functools import cache

from selfilter_ray.bundled.easy_vqa import packaged_dataset
from selfilter_ray.known_truth.entry import Entry
from selfilter_ray.known_truth.questions import question_type
from selfilter_ray.samples.record import IMAGE_TOKEN


@cache
def drawings(split: str) -> tuple[Entry, ...]:
    """All entries of ``train`` (38,575) or ``test`` (9,673), in the package's order.

    Raises:
        ConfigError: when the package is not installed.
    """
    file = packaged_dataset(f"easy-vqa/{split}")
    entries = []
    for record in json.loads(file.read_text(encoding="utf-8")):
        asked, answered = (turn["value"] for turn in record["conversations"])
        kind = question_type(asked.removeprefix(f"{IMAGE_TOKEN}\n"))
        entries.append(Entry(file.parent / record["image"], asked, answered, kind))
    return tuple(entries)


def words(entry: Entry) -> str:
    """The question without the picture's mark."""
    return entry.question.removeprefix(f"{IMAGE_TOKEN}\n")


def asked(question: str) -> str:
    """A question as the data file has it."""
    return f"{IMAGE_TOKEN}\n{question}"
