"""What each kept sample is worth given the others, while others come and go (ours).

    v(s) = d_s - gamma * sum over the k nearest harder kept t of d_t * cos(s, t)^2

As in Stage 2 the harder one of two neighbours stands at its full difficulty and pushes the other
down. Who is harder never changes, so values depend on the set of kept samples alone, and not on how
it came about. Of each sample the nearest harder ones are listed, some more than k: a list that
loses a few needs no new search. Shapes: S slots, L places of a list, K neighbours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from selfilter_ray.online.kept import Kept
from selfilter_ray.online.nearest import Near
from selfilter_ray.online.verdict import penalised
from selfilter_ray.online.weakest import Weakest
from selfilter_ray.select.neighbours.search import product_margin

SPARE = 7
EMPTY = -1


@dataclass(frozen=True, slots=True)
class Entering:
    """A newcomer's place in the list of a kept sample, and what that makes of its value."""

    slot: int
    place: int
    cosine: float
    value: float


class Values:
    """Lists and values of all kept samples.

    Attributes:
        length: places of a list.
        neighbour_SL: int32 slots, nearest first, then -1.
        cosine_SL: float64.
        count_S: int16, how many are listed.
        complete_S: whether there is no harder one beside those listed.
        bar_S: float32, rough cosine that a newcomer must reach to get into the list.
        value_bar_S: float32, the same to get among the first k, which make the value.
    """

    def __init__(self, kept: Kept, gamma: float, k_nearest: int) -> None:
        self.kept, self.gamma, self.k = kept, gamma, k_nearest
        self.length = k_nearest + SPARE if k_nearest else 0
        self._margin = product_margin(kept.features)
        self.weakest = Weakest()
        self.neighbour_SL = np.full((0, self.length), EMPTY, np.int32)
        self.cosine_SL = np.zeros((0, self.length))
        self.count_S = np.zeros(0, np.int16)
        self.complete_S = np.zeros(0, bool)
        self.bar_S = np.zeros(0, np.float32)
        self.value_bar_S = np.zeros(0, np.float32)

    def of(self, difficulty: float, slots: np.ndarray, cosines: np.ndarray) -> float:
        """The value of a sample with these nearest harder neighbours."""
        weights = self.kept.weight_S[slots[: self.k]].tolist()
        return penalised(difficulty, self.gamma, weights, cosines[: self.k].tolist())

    def put(self, slot: int, near: Near) -> None:
        """A new list."""
        if slot >= len(self.count_S):
            self._grow(slot + 1)
        count = len(near.slots)
        self.neighbour_SL[slot, :count], self.neighbour_SL[slot, count:] = near.slots, EMPTY
        self.cosine_SL[slot, :count] = near.cosines
        self.count_S[slot], self.complete_S[slot] = count, near.complete
        self._revalue(slot)

    def entering(self, slots: np.ndarray, cosines: np.ndarray, difficulty: float) -> list[Entering]:
        """Which of these easier samples would list a newcomer of that difficulty."""
        found = []
        for slot, cosine in zip(slots.tolist(), cosines.tolist(), strict=True):
            count = int(self.count_S[slot])
            listed = self.cosine_SL[slot, :count]
            # Behind those that are as near: they were admitted before.
            place = int((listed >= cosine).sum())
            if place == self.length or (place == count and not self.complete_S[slot]):
                continue
            value = float(self.weakest.value_S[slot])
            if place < self.k:
                value = self._value_with(slot, place, cosine, difficulty)
            found.append(Entering(slot, place, cosine, value))
        return found

    def enter(self, entering: Entering, newcomer: int) -> None:
        """The newcomer is kept: list it."""
        slot, place = entering.slot, entering.place
        count = int(self.count_S[slot])
        if count == self.length:
            count -= 1
        if count + 1 == self.length:
            self.complete_S[slot] = False  # the next one may find no place
        for table, item in ((self.neighbour_SL, newcomer), (self.cosine_SL, entering.cosine)):
            table[slot, place + 1 : count + 1] = table[slot, place:count].copy()
            table[slot, place] = item
        self.count_S[slot] = count + 1
        self._revalue(slot)

    def leave(self, slot: int, search: Callable[[int], Near]) -> list[int]:
        """A sample was removed from the kept ones; the slots whose lists were searched anew.

        Args:
            search: the ``length`` nearest harder kept samples of the sample in a slot.
        """
        self.weakest.put(slot, np.inf)
        self.bar_S[slot] = self.value_bar_S[slot] = np.inf
        self.count_S[slot] = 0
        self.neighbour_SL[slot] = EMPTY
        anew = []
        listing, place = np.nonzero(self.neighbour_SL[: self.kept.top] == slot)
        for other, gap in zip(listing.tolist(), place.tolist(), strict=True):
            count = int(self.count_S[other])
            for table in (self.neighbour_SL, self.cosine_SL):
                table[other, gap : count - 1] = table[other, gap + 1 : count].copy()
            self.neighbour_SL[other, count - 1] = EMPTY
            self.count_S[other] = count - 1
            if count - 1 < self.k and not self.complete_S[other]:
                self.put(other, search(other))
                anew.append(other)
            else:
                self._revalue(other)
        return anew

    def _value_with(self, slot: int, place: int, cosine: float, difficulty: float) -> float:
        stop = min(int(self.count_S[slot]), self.k)
        weights = self.kept.weight_S[self.neighbour_SL[slot, :stop]].tolist()
        cosines = self.cosine_SL[slot, :stop].tolist()
        weights.insert(place, difficulty)
        cosines.insert(place, cosine)
        own = float(self.kept.difficulty_S[slot])
        return penalised(own, self.gamma, weights[: self.k], cosines[: self.k])

    def _revalue(self, slot: int) -> None:
        count = int(self.count_S[slot])
        listed = self.neighbour_SL[slot, :count], self.cosine_SL[slot, :count]
        self.weakest.put(slot, self.of(float(self.kept.difficulty_S[slot]), *listed))
        if not self.k:
            return
        last = -np.inf if self.complete_S[slot] else listed[1][-1]
        self.bar_S[slot] = last - 2.0 * self._margin
        last = -np.inf if count < self.k else listed[1][self.k - 1]
        self.value_bar_S[slot] = last - 2.0 * self._margin

    def _grow(self, slots: int) -> None:
        more = max(slots, 1024 + 3 * len(self.count_S) // 2) - len(self.count_S)
        for name, fill in (
            ("neighbour_SL", EMPTY),
            ("cosine_SL", 0.0),
            ("count_S", 0),
            ("complete_S", False),
            ("bar_S", np.inf),
            ("value_bar_S", np.inf),
        ):
            column = getattr(self, name)
            rest = np.full((more, *column.shape[1:]), fill, column.dtype)
            setattr(self, name, np.concatenate([column, rest]))
