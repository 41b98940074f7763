"""Exact cosines of a micro-batch with kept samples: those that are sure to be asked for, at once.

One call for many rows costs far less than many calls; the sums of each row are the same in both.
Shapes: P pairs, C candidates.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.online.batch import Batch
from selfilter_ray.online.kept import Kept
from selfilter_ray.select import cosine
from selfilter_ray.select.neighbours.search import Found


class Cosines:
    """Fixed-order cosines by number in the batch and slot."""

    def __init__(self, kept: Kept, batch: Batch) -> None:
        self.kept, self.batch = kept, batch
        # By sequence: a slot may be taken by another sample while the batch is decided.
        self._known: dict[tuple[int, int], float] = {}

    def prepare(self, number_P: np.ndarray, slot_P: np.ndarray) -> np.ndarray:
        """(P,) float64, the cosines of these pairs, which are remembered."""
        first_PD, second_PD = self.batch.rows_QD[number_P], self.kept.rows(slot_P)
        length_P = np.sqrt(self.batch.square_Q[number_P] * self.kept.square_S[slot_P])
        # Kept and arriving rows have a length, so nothing is divided by zero.
        cosine_P: np.ndarray = cosine.dots(first_PD, second_PD) / length_P
        sequence_P = self.kept.sequence_S[slot_P]
        pairs = zip(number_P.tolist(), sequence_P.tolist(), strict=True)
        self._known.update(zip(pairs, cosine_P.tolist(), strict=True))
        return cosine_P

    def of(self, number: int, slots_C: np.ndarray) -> np.ndarray:
        """(C,) float64."""
        known = [self._known.get((number, s)) for s in self.kept.sequence_S[slots_C].tolist()]
        missing = [place for place, value in enumerate(known) if value is None]
        cosines_C = np.array(known, np.float64)
        if missing:
            square = float(self.batch.square_Q[number])
            row_D = self.batch.rows_QD[number]
            cosines_C[missing] = self.kept.cosines(row_D, square, slots_C[missing])
        return cosines_C


def close_pairs(found: list[Found], count: int, margin: float) -> tuple[np.ndarray, np.ndarray]:
    """Query number and slot of the candidates that can be among the ``count`` nearest."""
    numbers, slots = [], []
    for number, one in enumerate(found):
        if count and len(one.sites):
            last = float(one.rough[min(count, len(one.rough)) - 1])
            close = one.sites[one.rough >= last - 2.0 * margin]
            slots.append(close)
            numbers.append(np.full(len(close), number))
    nothing = np.zeros(0, np.int64)
    return np.concatenate([nothing, *numbers]), np.concatenate([nothing, *slots])
