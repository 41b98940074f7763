"""Redundancy: half of the records are near copies of a few others.

The copies come in groups, as those of a crawled pool do: about ten of each of a tenth of the
originals. Spread evenly over all originals they would cost a random draw next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfilter_ray.known_truth.drawings import asked, words
from selfilter_ray.known_truth.entry import Entry, drawn
from selfilter_ray.known_truth.questions import reworded

SHARE = 0.5
COPIED = 0.1  # of the originals
REWORDED = 0.5  # of the copies; the others ask in the same words


def with_near_duplicates(
    clean: Sequence[Entry], rows: int, random: np.random.Generator
) -> list[Entry]:
    """Originals first, then their copies; a copy has another picture, and the same answer."""
    copies = round(SHARE * rows)
    originals = drawn(clean, rows - copies, random)
    copied = max(1, round(COPIED * len(originals)))
    return originals + [
        _copy(originals[number % copied], number % copied, random) for number in range(copies)
    ]


def _copy(original: Entry, place: int, random: np.random.Generator) -> Entry:
    question = original.question
    if random.random() < REWORDED:
        question = asked(reworded(words(original), random))
    change = int(random.integers(2**31))
    return replace(original, question=question, kind="duplicate", copy_of=place, change=change)
