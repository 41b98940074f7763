"""Length as a trap: a share of the answers is long, hard to predict, and says nothing.

Such an answer is put together at random from a few words, and never holds the right one. So its
summed loss is the highest of the pool, its loss a token stays well above 0 however long a model
trains, and nothing is learned from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfilter_ray.known_truth.entry import Entry, drawn, planted_rows

SHARE = 0.3
SENTENCES = (2, 4)  # fewest and most
OPENINGS = ("well", "to begin with", "in a way", "all in all", "at first sight", "then again")
PEOPLE = ("one", "a reader", "somebody", "anyone", "a visitor", "a friend", "people")
MIGHT = ("could", "might", "would", "may", "should")
DO = ("wonder", "think", "talk", "ask", "write", "hear", "guess")
ABOUT = ("about it", "about this", "about that matter", "about such things", "about the rest")
ENDINGS = ("for a while", "once more", "in the end", "later on", "now and then", "with care")
PARTS = (OPENINGS, PEOPLE, MIGHT, DO, ABOUT, ENDINGS)


def with_long_answers(
    clean: Sequence[Entry], rows: int, random: np.random.Generator
) -> list[Entry]:
    """So many entries, three in ten with padding for an answer."""
    entries = drawn(clean, rows, random)
    padded = planted_rows(rows, SHARE, random)
    return [
        replace(entry, answer=padding(random), kind="long_answer") if row in padded else entry
        for row, entry in enumerate(entries)
    ]


def padding(random: np.random.Generator) -> str:
    """Two to four sentences of about ten words."""
    sentences = int(random.integers(SENTENCES[0], SENTENCES[1] + 1))
    return " ".join(_sentence(random) for _ in range(sentences))


def _sentence(random: np.random.Generator) -> str:
    words = [part[int(random.integers(len(part)))] for part in PARTS]
    return f"{words[0]}, {' '.join(words[1:])}."
