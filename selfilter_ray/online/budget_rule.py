"""Fixed budget: a sample that is worth more than the weakest kept one takes its place (ours).

With the newcomer among the kept ones every value is taken anew (``values``): its own, and those
that it pushes down. The weakest of all goes; of equals, the one that came last. So a newcomer equal
to the weakest is refused.
"""

from __future__ import annotations

import math

import numpy as np

from selfilter_ray.online import candidates
from selfilter_ray.online.batch import Batch
from selfilter_ray.online.cosines import Cosines, close_pairs
from selfilter_ray.online.kept import NOTHING, Kept
from selfilter_ray.online.nearest import NOBODY, Near, Query, nearest_of
from selfilter_ray.online.settings import OnlineSettings
from selfilter_ray.online.values import Entering, Values
from selfilter_ray.online.verdict import Verdict, names
from selfilter_ray.select.neighbours.exact import unit_rows
from selfilter_ray.select.neighbours.search import Found, product_margin

# Proposed beyond the places of a list, so that close calls need no second search.
SPARE = 8


class BudgetRule:
    """Decides, keeps and evicts."""

    def __init__(self, settings: OnlineSettings, kept: Kept, budget: int) -> None:
        self.settings, self.kept, self.budget = settings, kept, budget
        self.values = Values(kept, settings.gamma, settings.k_nearest)
        self._margin = product_margin(kept.features)
        self._found: list[Found] = []
        self._easier: list[candidates.Easier] = []
        self._began = 0
        self._fresh: list[tuple[int, int, int]] = []  # slot, number in the batch, sequence
        self._anew: list[int] = []

    def begin(self, batch: Batch, sequence: int) -> None:
        """Search once for all samples of a micro-batch, of which the first has that sequence."""
        self._began, self._fresh, self._anew = sequence, [], []
        self._cosines = Cosines(self.kept, batch)
        if not self._searches:
            return
        self._found, self._easier = candidates.nearest_harder(
            self.kept,
            batch.unit_QD,
            np.array(batch.difficulty),
            max(self.values.length, 1) + SPARE,
            self._bars(self.values.bar_S[: self.kept.top]),
        )
        self._cosines.prepare(*close_pairs(self._found, self._looked_at, self._margin))
        above = [
            one.slots[one.rough >= self._bars(self.values.value_bar_S[one.slots])]
            for one in self._easier
        ]
        numbers = np.repeat(np.arange(len(above)), [len(slots) for slots in above])
        if len(numbers):
            self._cosines.prepare(numbers, np.concatenate(above))

    def decide(self, batch: Batch, number: int, sequence: int) -> Verdict:
        """Of one sample; those before it in the micro-batch have been decided."""
        near = self._harder(batch, number, sequence, self._looked_at)
        easier, cosines = self._easier_near(batch, number, self.values.value_bar_S)
        value = self.values.of(batch.difficulty[number], near.slots, near.cosines)
        repeated = self._repeated(near, easier, cosines)
        if repeated is not None:
            threshold = self._weakest_with([])[1] if self._full else -math.inf
            return Verdict("near_duplicate", value, threshold, *names(self.kept.ids, repeated, 1))
        nearest = names(self.kept.ids, near, self.values.k)
        if not self._full:
            self._keep(batch, number, sequence)
            return Verdict("admitted", value, -math.inf, *nearest)
        entering = self.values.entering(easier, cosines, batch.difficulty[number])
        weakest, threshold = self._weakest_with(entering)
        if value <= threshold:
            return Verdict("too_easy", value, threshold, *nearest)
        evicted = self.kept.ids[weakest]
        self._keep(batch, number, sequence)
        self._evict(weakest)
        return Verdict("admitted", value, threshold, *nearest, evicted)

    @property
    def _full(self) -> bool:
        return len(self.kept) >= self.budget

    @property
    def _searches(self) -> bool:
        return self._looked_at > 0

    @property
    def _looked_at(self) -> int:
        """How many of the nearest harder ones decide."""
        return max(self.values.k, int(self.settings.near_duplicate is not None))

    def _bars(self, bar_C: np.ndarray) -> np.ndarray:
        """The rough cosines from which a sample may enter a list, or repeat a kept one."""
        limit = self.settings.near_duplicate
        if limit is None:
            return bar_C
        return np.minimum(bar_C, np.float32(limit - 2.0 * self._margin))

    def _weakest_with(self, entering: list[Entering]) -> tuple[int, float]:
        """Slot and value of the weakest kept sample, were the newcomer among them."""
        weakest, kept = self.values.weakest, self.kept
        before = [float(weakest.value_S[entry.slot]) for entry in entering]
        for entry in entering:
            weakest.put(entry.slot, entry.value)
        slots = weakest.slots()
        newest = int(slots[np.argmax(kept.sequence_S[slots])])
        least = float(weakest.value_S[newest])
        for entry, value in zip(entering, before, strict=True):
            weakest.put(entry.slot, value)
        return newest, least

    def _keep(self, batch: Batch, number: int, sequence: int) -> None:
        difficulty, near, entering = batch.difficulty[number], NOBODY, []
        if self.values.k:
            near = self._harder(batch, number, sequence, self.values.length)
            easier = self._easier_near(batch, number, self.values.bar_S)
            entering = self.values.entering(*easier, difficulty)
        slot = self.kept.add(
            sequence,
            batch.ids[number],
            difficulty,
            difficulty,
            batch.rows_QD[number],
            float(batch.square_Q[number]),
        )
        self.values.put(slot, near)
        for entry in entering:
            self.values.enter(entry, slot)
        self._fresh.append((slot, number, sequence))

    def _evict(self, slot: int) -> None:
        self.kept.remove(slot)
        self._anew += self.values.leave(slot, self._search_kept)

    def _fresh_now(self) -> tuple[np.ndarray, np.ndarray]:
        """Slots, and numbers in the batch, of those admitted in it that are still kept."""
        now = [
            (slot, number)
            for slot, number, sequence in self._fresh
            if self.kept.sequence_S[slot] == sequence
        ]
        pairs = np.array(now, np.int64).reshape(-1, 2)
        return pairs[:, 0], pairs[:, 1]

    def _harder(self, batch: Batch, number: int, sequence: int, count: int) -> Near:
        if not count:
            return NOBODY
        found = self._found[number]
        # A slot that was taken again holds another sample now; it is among the fresh ones.
        stays = self.kept.sequence_S[found.sites] < self._began
        slots, numbers = self._fresh_now()
        found = Found(
            np.concatenate([found.sites[stays], slots]),
            np.concatenate([found.rough[stays], batch.within_QQ[number, numbers]]),
            found.floor,
        )
        difficulty = batch.difficulty[number]
        query = Query(lambda slots: self._cosines.of(number, slots), difficulty, sequence)
        return self._nearest(query, batch.unit_QD[number], count, found)

    def _search_kept(self, slot: int) -> Near:
        row_D = self.kept.rows(np.array([slot]))[0]
        square = float(self.kept.square_S[slot])
        unit_D = unit_rows(row_D[None], np.sqrt([square]))[0]
        difficulty, sequence = float(self.kept.difficulty_S[slot]), int(self.kept.sequence_S[slot])
        query = Query(lambda slots: self.kept.cosines(row_D, square, slots), difficulty, sequence)
        length = self.values.length
        found = self._search(unit_D, difficulty, length + SPARE)
        return self._nearest(query, unit_D, length, found)

    def _nearest(self, query: Query, unit_D: np.ndarray, count: int, found: Found) -> Near:
        return nearest_of(
            self.kept,
            query,
            count,
            found,
            lambda asked: self._search(unit_D, query.difficulty, asked),
        )

    def _search(self, unit_D: np.ndarray, difficulty: float, asked: int) -> Found:
        difficulty_Q = np.array([difficulty])
        return candidates.nearest_harder(self.kept, unit_D[None], difficulty_Q, asked)[0][0]

    def _easier_near(
        self, batch: Batch, number: int, bar_S: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Easier kept samples that may be that near to this one, and their cosines."""
        if not self._searches:
            return NOBODY.slots, NOBODY.cosines
        fresh, numbers = self._fresh_now()
        slots = np.concatenate([self._easier[number].slots, fresh])
        rough = np.concatenate([self._easier[number].rough, batch.within_QQ[number, numbers]])
        stays = self.kept.sequence_S[slots] < self._began
        stays[len(slots) - len(fresh) :] = True
        slots = slots[stays & (rough >= self._bars(bar_S[slots]))]
        # A list that was made anew in this batch has another bar than when it was searched for.
        slots = np.unique(np.concatenate([slots, np.array(self._anew, np.int64)]))
        easier = self.kept.difficulty_S[slots] < batch.difficulty[number]
        slots = slots[easier & (self.kept.sequence_S[slots] != NOTHING)]
        return slots, self._cosines.of(number, slots)

    def _repeated(self, near: Near, easier: np.ndarray, cosines: np.ndarray) -> Near | None:
        """The kept sample that this one repeats, where there is a limit."""
        limit = self.settings.near_duplicate
        if limit is None:
            return None
        slots = np.concatenate([near.slots, easier])
        both = np.concatenate([near.cosines, cosines])
        if not len(both) or both.max() < limit:
            return None
        order = np.lexsort((self.kept.sequence_S[slots], -both))[:1]
        return Near(slots[order], both[order], False)
