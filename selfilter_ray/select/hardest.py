"""The highest of many values that change a few at a time. Ties go to the first.

The values stand in blocks with a maximum each, so that neither a change nor the question for the
highest looks at all of them.
"""

from __future__ import annotations

import numpy as np

BLOCK = 1024


class Hardest:
    """Values of N samples; one that is taken stands at minus infinity."""

    def __init__(self, value_N: np.ndarray) -> None:
        blocks = max(1, -(-len(value_N) // BLOCK))
        padded = np.full(blocks * BLOCK, -np.inf)
        padded[: len(value_N)] = value_N
        self._blocks = padded.reshape(blocks, BLOCK)
        self._maxima = self._blocks.max(axis=1)
        self.value_N = padded[: len(value_N)]

    def first(self) -> int:
        """The sample of the highest value."""
        block = int(self._maxima.argmax())
        return block * BLOCK + int(self._blocks[block].argmax())

    def take(self, sample: int) -> float:
        """Its value; it is out of the running from then on."""
        value = float(self.value_N[sample])
        self.value_N[sample] = -np.inf
        self._maxima[sample // BLOCK] = self._blocks[sample // BLOCK].max()
        return value

    def lower(self, samples: np.ndarray, by: np.ndarray) -> None:
        """Subtract; the samples are distinct."""
        self.value_N[samples] -= by
        blocks = np.unique(samples // BLOCK)
        self._maxima[blocks] = self._blocks[blocks].max(axis=1)

    def next_in_line(self, count: int) -> np.ndarray:
        """The ``count`` samples of the highest values, in no particular order."""
        if count == 0:
            return np.zeros(0, np.int64)
        if count >= len(self.value_N):
            return np.flatnonzero(self.value_N > -np.inf)
        top = np.argpartition(self.value_N, len(self.value_N) - count)[-count:]
        return top[self.value_N[top] > -np.inf]
