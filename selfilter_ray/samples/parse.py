"""From one decoded row of any supported layout to the fields of a record.

Turns come from ``conversations`` (``from``/``value`` or ``role``/``content``), ``messages``
(OpenAI style, content as text or parts) or ``texts`` (``user``/``assistant`` pairs); images from
``image`` or ``images`` as paths, bytes, or ``{path, bytes}``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, SYSTEM, USER, Turn

ROLES = {
    "human": USER,
    "user": USER,
    "gpt": ASSISTANT,
    "assistant": ASSISTANT,
    "model": ASSISTANT,
    "system": SYSTEM,
}
MAX_ID_CHARACTERS = 512


@dataclass(frozen=True, slots=True)
class ParsedRow:
    """The fields of a row before its images are looked at and its id is made unique."""

    id: str | None
    source: str | None
    turns: tuple[Turn, ...]
    images: tuple[str | bytes, ...]


def parse_row(row: Any, limits: LimitsConfig, source_field: str = "source") -> ParsedRow:
    """Read one row.

    Raises:
        BadRow: with the reason the row cannot be used.
    """
    if not isinstance(row, dict):
        raise BadRow("record_shape", f"a record is an object, this is {type(row).__name__}")
    turns = _checked_turns(_turns(row), limits)
    images = tuple(_images(row))
    if len(images) > limits.images_per_record:
        raise BadRow(
            "too_many_images", f"{len(images)} images, the limit is {limits.images_per_record}"
        )
    return ParsedRow(_id(row), _source(row, source_field), _with_marks(turns, len(images)), images)


def _id(row: dict[str, Any]) -> str | None:
    value = row.get("id")
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(
            "id_invalid", f"an id is text or a whole number, this is {type(value).__name__}"
        )
    text = str(value)
    if not 1 <= len(text) <= MAX_ID_CHARACTERS:
        raise BadRow("id_invalid", f"{len(text)} characters")
    if not text.isprintable():
        raise BadRow("id_invalid", "control or unprintable characters")
    return text


def _source(row: dict[str, Any], field: str) -> str | None:
    value = row.get(field)
    return value[:200] if isinstance(value, str) and value.isprintable() and value else None


def _turns(row: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    for key in ("conversations", "messages"):
        if isinstance(row.get(key), list):
            for turn in row[key]:
                if not isinstance(turn, dict):
                    raise BadRow(
                        "record_shape", f"{key}: a turn is an object, this is {type(turn).__name__}"
                    )
                yield turn.get("from", turn.get("role")), turn.get("value", turn.get("content"))
            return
    if not isinstance(row.get("texts"), list):
        raise BadRow("record_shape", "no list of turns under conversations, messages or texts")
    for pair in row["texts"]:
        if not isinstance(pair, dict):
            raise BadRow("record_shape", "texts: each entry holds user and assistant")
        yield "user", pair.get("user")
        yield "assistant", pair.get("assistant")


def _checked_turns(raw_turns: Iterator[tuple[Any, Any]], limits: LimitsConfig) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    size = 0
    for raw_role, content in raw_turns:
        if len(turns) == limits.turns:
            raise BadRow("too_many_turns", f"more than {limits.turns} turns")
        role = ROLES.get(raw_role) if isinstance(raw_role, str) else None
        if role is None:
            shown = raw_role[:80] if isinstance(raw_role, str) else type(raw_role).__name__
            raise BadRow("role_unknown", f"turn {len(turns)}: role {shown!r}")
        text = _text(content, len(turns))
        size += len(text.encode())
        if size > limits.text_bytes:
            raise BadRow("text_too_long", f"more than {limits.text_bytes} bytes of text")
        turns.append(Turn(role, text))
    if not any(turn.role == ASSISTANT and turn.text.strip() for turn in turns):
        raise BadRow("answer_missing", "no assistant turn with text")
    return tuple(turns)


def _text(content: Any, position: int) -> str:
    if isinstance(content, list):  # OpenAI parts: text and image placeholders
        content = "\n".join(_part(part, position) for part in content)
    if not isinstance(content, str):
        raise BadRow(
            "record_shape", f"turn {position}: text expected, this is {type(content).__name__}"
        )
    try:
        content.encode()
    except UnicodeEncodeError as error:
        raise BadRow("text_invalid", f"turn {position}: lone surrogate at {error.start}") from None
    if "\0" in content:
        raise BadRow("text_invalid", f"turn {position}: NUL character")
    return content


def _part(part: Any, position: int) -> str:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind in ("image", "image_url"):  # no set: a hostile type may be a list
        return IMAGE_TOKEN
    if kind == "text" and isinstance(part.get("text"), str):
        return str(part["text"])
    raise BadRow("record_shape", f"turn {position}: a part is text or image")


def _images(row: dict[str, Any]) -> Iterator[str | bytes]:
    value = row.get("images") if row.get("images") is not None else row.get("image")
    for image in value if isinstance(value, list) else [value]:
        if image is None or image == "":
            continue
        if isinstance(image, dict):
            image = image.get("bytes") or image.get("path")
        if isinstance(image, str) and image and "\0" not in image and _is_utf8(image):
            yield image
        elif isinstance(image, bytes | bytearray) and image:
            yield bytes(image)
        else:
            raise BadRow("image_value", f"not a usable path or bytes: {type(image).__name__}")


def _is_utf8(text: str) -> bool:
    # A lone surrogate can name a file (as an undecodable byte), but no table can hold it.
    try:
        return bool(text.encode())
    except UnicodeEncodeError:
        return False


def _with_marks(turns: tuple[Turn, ...], images: int) -> tuple[Turn, ...]:
    """One ``<image>`` for each image: added to the first user turn when there is none at all."""
    marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if marks == images:
        return turns
    if marks or not images:
        raise BadRow("image_marks", f"{marks} <image> in the text, {images} images")
    place = next((i for i, turn in enumerate(turns) if turn.role == USER), 0)
    marked = Turn(turns[place].role, f"{IMAGE_TOKEN}\n" * images + turns[place].text)
    return (*turns[:place], marked, *turns[place + 1 :])
