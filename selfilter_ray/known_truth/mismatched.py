"""Pairs that do not belong together: a share of the captions is of another photograph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfilter_ray.errors import DataError
from selfilter_ray.known_truth.entry import Entry, drawn, planted_rows

SHARE = 0.3


def with_mismatched(clean: Sequence[Entry], rows: int, random: np.random.Generator) -> list[Entry]:
    """So many entries; the captions of three in ten have changed places.

    Raises:
        DataError: when the entries are of too few pictures for that.
    """
    entries = drawn(clean, rows, random)
    places = sorted(planted_rows(rows, SHARE, random), key=lambda row: str(entries[row].picture))
    shift = max(Counter(entries[row].picture for row in places).values(), default=0)
    if 2 * shift > len(places):
        raise DataError(
            f"{rows} rows are too few to swap captions between their pictures: ask for more."
        )
    # Sorted by picture, each gets the caption of one that stands beyond its own group.
    answers = [entries[place].answer for place in [*places[shift:], *places[:shift]]]
    for row, answer in zip(places, answers, strict=True):
        entries[row] = replace(entries[row], answer=answer, kind="mismatched")
    return entries
