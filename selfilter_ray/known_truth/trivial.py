"""Imbalance: nine records in ten ask what has the same answer for every picture.

"is there a shape?" is answered by "yes" whatever the picture: a model has learned it after a few
records. These records are of the type ``presence``, as other questions that begin in the same way,
so that the name of the source gives nothing away.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from selfilter_ray.known_truth.drawings import asked
from selfilter_ray.known_truth.entry import Entry, drawn
from selfilter_ray.known_truth.questions import PRESENCE

SHARE = 0.9


def mostly_trivial(clean: Sequence[Entry], rows: int, random: np.random.Generator) -> list[Entry]:
    """So many entries; each pair of a trivial question and a picture at most once."""
    trivial = round(SHARE * rows)
    return drawn(clean, rows - trivial, random) + drawn(trivial_entries(clean), trivial, random)


def trivial_entries(clean: Sequence[Entry]) -> list[Entry]:
    """Every wording about every picture."""
    pictures = sorted({entry.picture for entry in clean})
    questions = [asked(wording.format("shape")) for wording in PRESENCE]
    return [
        Entry(picture, question, "yes", "presence", "trivial")
        for picture in pictures
        for question in questions
    ]
