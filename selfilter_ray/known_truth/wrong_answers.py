"""Label noise: a share of the records has a wrong answer of the right type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from selfilter_ray.known_truth.entry import Entry, drawn, planted_rows
from selfilter_ray.known_truth.questions import wrong_answer

SHARE = 0.2


def with_wrong_answers(
    clean: Sequence[Entry], rows: int, random: np.random.Generator
) -> list[Entry]:
    """So many entries, a fifth of them wrong; question and picture are as they were."""
    entries = drawn(clean, rows, random)
    wrong = planted_rows(rows, SHARE, random)
    return [
        replace(entry, answer=wrong_answer(entry.answer, random), kind="wrong_answer")
        if row in wrong
        else entry
        for row, entry in enumerate(entries)
    ]
