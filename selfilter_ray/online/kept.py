"""The kept samples: vectors in blocks that never move, and a few numbers a slot.

A slot that is left is taken again, so the memory is that of the most that were kept at once: 4
bytes a feature and about 60 a sample beside the id. Shapes: S slots, D features, C chosen slots,
W rows of a block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from selfilter_ray.select import cosine

ROWS = 16_384
FIRST_ROWS = 4_096
NOTHING = -1


class Kept:
    """A set of samples that others join and leave.

    Attributes:
        top: slots from here on were never taken.
        sequence_S: int64, the place in the log of the sample in each slot; -1 in an empty one.
        difficulty_S: float64, after the base is subtracted.
        weight_S: float64, what it counts as a neighbour.
        square_S, scale_S: squared length of the row (``select.cosine``); float32, 1 / length.
        digest_S2: uint64, 128 bits of the row's bytes.
        ids: of the slots.
    """

    def __init__(self, features: int) -> None:
        self.features = features
        self.top = self.count = 0
        self.ids: list[str] = []
        self._blocks: list[np.ndarray] = []
        self._free: list[int] = []
        self._make_columns(0)

    def __len__(self) -> int:
        return self.count

    def add(
        self,
        sequence: int,
        id: str,
        difficulty: float,
        weight: float,
        row_D: np.ndarray,
        square: float,
    ) -> int:
        """Keep a sample; its slot."""
        slot = self._free.pop() if self._free else self._new_slot()
        block, place = divmod(slot, ROWS)
        self._blocks[block][place] = row_D
        self.sequence_S[slot], self.ids[slot] = sequence, id
        self.difficulty_S[slot], self.weight_S[slot] = difficulty, weight
        self.square_S[slot], self.scale_S[slot] = square, 1.0 / np.sqrt(square)
        self.digest_S2[slot] = row_digest(row_D)
        self.count += 1
        return slot

    def remove(self, slot: int) -> None:
        self.sequence_S[slot], self.ids[slot] = NOTHING, ""
        self._free.append(slot)
        self.count -= 1

    def refill(
        self,
        ids: list[str],
        features_KD: np.ndarray,
        sequence_K: np.ndarray,
        difficulty_K: np.ndarray,
        weight_K: np.ndarray,
        square_K: np.ndarray | None = None,
        digest_K2: np.ndarray | None = None,
    ) -> None:
        """Keep many samples at once, where none is kept yet: row i in slot i.

        Args:
            square_K, digest_K2: of the rows, where they are known; else they are taken anew.
        """
        if self.top:
            raise ValueError("only an empty set can be filled")
        for start in range(0, len(ids), ROWS):
            block = np.empty((ROWS, self.features), np.float32)
            rows = features_KD[start : start + ROWS]
            block[: len(rows)] = rows
            self._blocks.append(block)
        self.top = self.count = len(ids)
        self.ids = list(ids)
        self._make_columns(len(ids))
        self.sequence_S[:], self.difficulty_S[:], self.weight_S[:] = (
            sequence_K,
            difficulty_K,
            weight_K,
        )
        self.square_S[:] = cosine.squares(features_KD) if square_K is None else square_K
        self.scale_S[:] = 1.0 / np.sqrt(self.square_S)
        if digest_K2 is not None:
            self.digest_S2[:] = digest_K2
            return
        for slot, row_D in enumerate(features_KD):
            self.digest_S2[slot] = row_digest(row_D)

    def rows(self, slots_C: np.ndarray) -> np.ndarray:
        """(C, D) float32, as they were given."""
        rows_CD = np.empty((len(slots_C), self.features), np.float32)
        block_C, place_C = np.divmod(slots_C, ROWS)
        for block in np.unique(block_C):
            here = block_C == block
            rows_CD[here] = self._blocks[block][place_C[here]]
        return rows_CD

    def cosines(self, row_D: np.ndarray, square: float, slots_C: np.ndarray) -> np.ndarray:
        """(C,) float64, by ``select.cosine``: the same on every machine."""
        return cosine.cosines(row_D, square, self.rows(slots_C), self.square_S[slots_C])

    def slots(self) -> np.ndarray:
        """int64, those taken, in the order of admission."""
        taken = np.flatnonzero(self.sequence_S[: self.top] != NOTHING)
        return taken[np.argsort(self.sequence_S[taken])]

    def scores(self, unit_QD: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """First slot and (W, Q) float32 cosines of each block; minus infinity in empty slots."""
        start = 0
        while start < self.top:
            # Growing blocks: a threshold from half of what was seen lets little through.
            stop = min(start + min(max(start, FIRST_ROWS), ROWS), self.top)
            block, place = divmod(start, ROWS)
            scores_WQ = self._blocks[block][place : place + stop - start] @ unit_QD.T
            scores_WQ *= self.scale_S[start:stop, None]
            if self.count < self.top:
                scores_WQ[self.sequence_S[start:stop] == NOTHING] = -np.inf
            yield start, scores_WQ
            start = stop

    def _new_slot(self) -> int:
        if self.top == len(self.sequence_S):
            self._make_columns(max(1024, self.top + self.top // 2))
        if self.top == len(self._blocks) * ROWS:
            self._blocks.append(np.empty((ROWS, self.features), np.float32))
        self.ids.append("")
        self.top += 1
        return self.top - 1

    def _make_columns(self, slots: int) -> None:
        old = self.__dict__
        for name, shape, kind, fill in (
            ("sequence_S", (), np.int64, NOTHING),
            ("difficulty_S", (), np.float64, 0.0),
            ("weight_S", (), np.float64, 0.0),
            ("square_S", (), np.float64, 0.0),
            ("scale_S", (), np.float32, 0.0),
            ("digest_S2", (2,), np.uint64, 0),
        ):
            column = np.full((slots, *shape), fill, kind)
            if name in old:
                column[: len(old[name])] = old[name]
            setattr(self, name, column)

    sequence_S: np.ndarray
    difficulty_S: np.ndarray
    weight_S: np.ndarray
    square_S: np.ndarray
    scale_S: np.ndarray
    digest_S2: np.ndarray


def row_digest(row_D: np.ndarray) -> np.ndarray:
    """Two uint64, equal for rows of the same bytes."""
    digest = hashlib.blake2b(row_D.tobytes(), digest_size=16).digest()
    return np.frombuffer(digest, "<u8")
