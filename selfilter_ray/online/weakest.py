"""The least of many values that go up and down, found in blocks.

Shapes: S slots.
"""

from __future__ import annotations

import numpy as np

BLOCK = 1024


class Weakest:
    """Values by slot; plus infinity where there is none."""

    def __init__(self) -> None:
        self.value_S = np.full(0, np.inf)
        self._least = np.full(0, np.inf)

    def put(self, slot: int, value: float) -> None:
        if slot >= len(self.value_S):
            self._grow(slot + 1)
        self.value_S[slot] = value
        block = slot // BLOCK
        self._least[block] = self.value_S[block * BLOCK : (block + 1) * BLOCK].min()

    def slots(self) -> np.ndarray:
        """All slots of the least value."""
        blocks = np.flatnonzero(self._least == self._least.min())
        parts = [
            block * BLOCK
            + np.flatnonzero(
                self.value_S[block * BLOCK : (block + 1) * BLOCK] == self._least[block]
            )
            for block in blocks.tolist()
        ]
        return np.concatenate(parts)

    def _grow(self, slots: int) -> None:
        blocks = max(-(-slots // BLOCK), len(self._least) + len(self._least) // 2 + 1)
        more = blocks - len(self._least)
        self.value_S = np.concatenate([self.value_S, np.full(more * BLOCK, np.inf)])
        self._least = np.concatenate([self._least, np.full(more, np.inf)])
