"""Rate mode: a share of the stream is admitted, and stays.

d'(x) = d(x) - gamma * sum over the k nearest admitted s of d_s * cos(x, s)^2
"""

from __future__ import annotations

import math

import numpy as np

from selfilter_ray.online.ahead import NONE, Neighbours, neighbours_ahead
from selfilter_ray.online.batch import Batch
from selfilter_ray.online.controller import RateController
from selfilter_ray.online.cosines import Cosines
from selfilter_ray.online.kept import Kept
from selfilter_ray.online.nearest import Query, nearest_of
from selfilter_ray.online.proposals import proposals
from selfilter_ray.online.settings import OnlineSettings, SearchName
from selfilter_ray.online.verdict import Verdict
from selfilter_ray.select.neighbours.search import Found

# Proposed beyond the neighbours wanted, so that close calls need no second search.
SPARE = 12


class RateRule:
    """Decides and keeps."""

    def __init__(
        self,
        settings: OnlineSettings,
        kept: Kept,
        controller: RateController,
        search: SearchName = "exact",
    ) -> None:
        self.settings, self.kept, self.controller = settings, kept, controller
        self._proposals = proposals(search, kept)
        # One neighbour is looked at where there is a limit on near duplicates, even with k = 0.
        self._count = max(settings.k_nearest, int(settings.near_duplicate is not None))
        self._found: list[Found] = []
        self._ahead: list[Neighbours | None] = []
        self._fresh_slots: list[int] = []
        self._fresh_numbers: list[int] = []

    def begin(self, batch: Batch, sequence: int) -> None:
        """Search once for all samples of a micro-batch, of which the first has that sequence."""
        self._fresh_slots, self._fresh_numbers = [], []
        self._cosines = Cosines(self.kept, batch)
        if self._count:
            self._found = self._proposals.nearest(batch.unit_QD, self._count + SPARE)
            self._ahead = neighbours_ahead(
                self.kept, self._cosines, self._found, self._count, self.settings.k_nearest
            )

    def decide(self, batch: Batch, number: int, sequence: int) -> Verdict:
        """Of one sample; those before it in the micro-batch have been decided."""
        settings = self.settings
        near = self._near(batch, number, sequence) if self._count else NONE
        adjusted = batch.difficulty[number] - settings.gamma * near.penalty
        threshold = self.controller.threshold()
        limit = settings.near_duplicate
        if limit is not None and near.cosines and near.cosines[0] >= limit:
            return Verdict("near_duplicate", adjusted, threshold, *self._names(near, 1))
        admitted = self.controller.admits(adjusted, threshold)
        verdict = Verdict(
            "admitted" if admitted else "too_easy",
            adjusted,
            threshold,
            *self._names(near, settings.k_nearest),
        )
        self.take(verdict, batch, number, sequence)
        return verdict

    def take(self, verdict: Verdict, batch: Batch, number: int, sequence: int) -> None:
        """Make what was decided come true."""
        self.pass_by(verdict)
        if verdict.reason != "admitted":
            return
        difficulty = batch.difficulty[number]
        by_base = self.settings.neighbour_difficulty == "base"
        slot = self.kept.add(
            sequence,
            batch.ids[number],
            difficulty,
            difficulty if by_base else verdict.adjusted,
            batch.rows_QD[number],
            float(batch.square_Q[number]),
        )
        self._fresh_slots.append(slot)
        self._fresh_numbers.append(number)

    def pass_by(self, verdict: Verdict) -> None:
        """Count a decision. Near duplicates are no part of what the rate is a share of (ours)."""
        if verdict.reason != "near_duplicate":
            self.controller.observe(verdict.adjusted, verdict.reason == "admitted")

    def _near(self, batch: Batch, number: int, sequence: int) -> Neighbours:
        ahead = self._ahead[number]
        if not self._fresh_slots:
            return ahead or self._searched(batch, number, sequence, self._found[number])
        rough = batch.within_QQ[number, self._fresh_numbers]
        if ahead is not None and rough.max() < ahead.limit:
            return ahead
        found = self._found[number]
        found = Found(
            np.concatenate([found.sites, self._fresh_slots]),
            np.concatenate([found.rough, rough]),
            found.floor,
        )
        return self._searched(batch, number, sequence, found)

    def _searched(self, batch: Batch, number: int, sequence: int, found: Found) -> Neighbours:
        unit_D = batch.unit_QD[number]
        query = Query(lambda slots: self._cosines.of(number, slots), -math.inf, sequence)
        near = nearest_of(
            self.kept,
            query,
            self._count,
            found,
            lambda asked: self._proposals.nearest(unit_D[None], asked)[0],
        )
        return Neighbours.of(near, self.kept, self.settings.k_nearest)

    def _names(self, near: Neighbours, count: int) -> tuple[tuple[str, ...], tuple[float, ...]]:
        ids = self.kept.ids
        return tuple([ids[slot] for slot in near.slots[:count]]), tuple(near.cosines[:count])
