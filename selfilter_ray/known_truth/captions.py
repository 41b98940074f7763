"""Drawings with what is on them, as far as their questions tell: "red circle"."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selfilter_ray.known_truth.drawings import words
from selfilter_ray.known_truth.entry import Entry
from selfilter_ray.known_truth.questions import COLORS, SHAPES, told
from selfilter_ray.samples.record import IMAGE_TOKEN

CAPTION = "caption"


def captioned(entries: Sequence[Entry]) -> list[Entry]:
    """One entry for each picture whose color and shape its entries tell, by picture.

    Args:
        entries: clean ones of easy-vqa.

    Raises:
        ValueError: for a question of another form.
    """
    said: dict[Path, set[str]] = {}
    for entry in entries:
        said.setdefault(entry.picture, set()).update(told(words(entry), entry.answer))
    captions = []
    for picture in sorted(said):
        color = next((color for color in COLORS if color in said[picture]), None)
        shape = next((shape for shape in SHAPES if shape in said[picture]), None)
        if color and shape:
            captions.append(Entry(picture, IMAGE_TOKEN, f"{color} {shape}", CAPTION))
    return captions
