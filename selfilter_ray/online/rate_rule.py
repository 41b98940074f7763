"""Rate mode: a share of the stream is admitted, and stays.

d'(x) = d(x) - gamma * sum over the k nearest admitted s of d_s * cos(x, s)^2
"""

from __future__ import annotations

import math

import numpy as np

from selfilter_ray.online.batch import Batch
from selfilter_ray.online.controller import RateController
from selfilter_ray.online.cosines import Cosines, close_pairs
from selfilter_ray.online.kept import Kept
from selfilter_ray.online.nearest import NOBODY, Near, Query, nearest_of
from selfilter_ray.online.proposals import proposals
from selfilter_ray.online.settings import OnlineSettings, SearchName
from selfilter_ray.online.verdict import Verdict, names, penalised
from selfilter_ray.select.neighbours.search import Found, product_margin

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
        self._fresh_slots: list[int] = []
        self._fresh_numbers: list[int] = []

    def begin(self, batch: Batch, sequence: int) -> None:
        """Search once for all samples of a micro-batch, of which the first has that sequence."""
        self._fresh_slots, self._fresh_numbers = [], []
        self._cosines = Cosines(self.kept, batch)
        if self._count:
            self._found = self._proposals.nearest(batch.unit_QD, self._count + SPARE)
            margin = product_margin(self.kept.features)
            self._cosines.prepare(*close_pairs(self._found, self._count, margin))

    def decide(self, batch: Batch, number: int, sequence: int) -> Verdict:
        """Of one sample; those before it in the micro-batch have been decided."""
        settings = self.settings
        near = self._near(batch, number, sequence) if self._count else NOBODY
        k = settings.k_nearest
        weights = self.kept.weight_S[near.slots[:k]].tolist()
        difficulty = batch.difficulty[number]
        adjusted = penalised(difficulty, settings.gamma, weights, near.cosines[:k].tolist())
        threshold = self.controller.threshold()
        if (
            settings.near_duplicate is not None
            and len(near.slots)
            and near.cosines[0] >= settings.near_duplicate
        ):
            nearest = names(self.kept.ids, near, 1)
            return Verdict("near_duplicate", adjusted, threshold, *nearest)
        admitted = self.controller.admits(adjusted, threshold)
        verdict = Verdict(
            "admitted" if admitted else "too_easy",
            adjusted,
            threshold,
            *names(self.kept.ids, near, k),
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

    def _near(self, batch: Batch, number: int, sequence: int) -> Near:
        found = self._found[number]
        if self._fresh_slots:
            rough = batch.within_QQ[number, self._fresh_numbers]
            found = Found(
                np.concatenate([found.sites, self._fresh_slots]),
                np.concatenate([found.rough, rough]),
                found.floor,
            )
        unit_D = batch.unit_QD[number]
        query = Query(lambda slots: self._cosines.of(number, slots), -math.inf, sequence)
        return nearest_of(
            self.kept,
            query,
            self._count,
            found,
            lambda asked: self._proposals.nearest(unit_D[None], asked)[0],
        )
