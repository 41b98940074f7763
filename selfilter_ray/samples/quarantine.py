"""What is set aside, and why: every row that cannot be used, with its reason and a remedy."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from selfilter_ray import atomic

REMEDIES = {
    "answer_missing": "give the record at least one non-empty assistant turn",
    "duplicate_record": "nothing to do: an identical record is in the pool",
    "id_invalid": "use ids of 1 to 512 printable characters",
    "image_aspect_ratio": "crop the image, or raise data.limits.image_aspect_ratio",
    "image_broken": "replace the file with a whole image",
    "image_format": "convert the image to JPEG, PNG, WebP, GIF, BMP or TIFF",
    "image_marks": "write one <image> for each image, or none",
    "image_missing": "put the file under data.image_root, or correct the path",
    "image_outside_root": "use a path inside data.image_root",
    "image_too_large": "shrink the file, or raise data.limits.image_bytes or image_pixels",
    "image_value": "give image as a path, bytes, or {path, bytes}",
    "json_invalid": "correct the JSON of this row",
    "not_finite": "remove NaN and Infinity from the record",
    "record_shape": "give the record a list of turns: conversations, messages or texts",
    "role_unknown": "use the roles human and gpt, or user and assistant",
    "text_invalid": "remove lone surrogates and NUL characters from the text",
    "text_too_long": "shorten the record, or raise data.limits.text_bytes",
    "too_many_images": "split the record, or raise data.limits.images_per_record",
    "too_many_turns": "split the record, or raise data.limits.turns",
    "embedding_not_finite": "look at the image and the text: the model's output was not a number",
}


class BadRow(Exception):
    """A row that cannot be used. ``reason`` is a key of ``REMEDIES``."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One line of ``quarantine.jsonl``."""

    locator: str
    id: str | None
    reason: str
    detail: str
    remedy: str
    stage: str

    @classmethod
    def of(cls, error: BadRow, locator: str, id: str | None, stage: str) -> Quarantined:
        detail = error.detail.encode("utf-8", "backslashreplace").decode()
        return cls(locator, id, error.reason, detail[:500], REMEDIES[error.reason], stage)


def count_reasons(rows: Iterable[Quarantined]) -> dict[str, int]:
    """Reason to number of rows, most frequent first."""
    return dict(Counter(row.reason for row in rows).most_common())


def write_quarantine(path: Path, rows: Iterable[Quarantined]) -> None:
    lines = [json.dumps(asdict(row)) for row in rows]
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def read_quarantine(path: Path) -> Iterator[Quarantined]:
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            yield Quarantined(**json.loads(line))
