"""The online selector: samples in, decisions out, in a fixed order.

Its state is a function of its settings and of the sequence of (id, difficulty, features) alone. How
they are cut into micro-batches, the number of threads and the matrix product do not matter: a
product only proposes neighbours, and cosines summed in a fixed order decide.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.online import state as states
from selfilter_ray.online.batch import Batch, checked
from selfilter_ray.online.budget_rule import BudgetRule
from selfilter_ray.online.controller import RateController
from selfilter_ray.online.decision import Decision, Invalid
from selfilter_ray.online.kept import Kept
from selfilter_ray.online.rate_rule import RateRule
from selfilter_ray.online.settings import OnlineSettings, SearchName
from selfilter_ray.online.state import State
from selfilter_ray.online.verdict import Verdict

# Samples that one search is made for: their scores against a block of kept ones are in memory.
SEARCHED_AT_ONCE = 64


class OnlineSelector:
    """Admits samples of a stream.

    Args:
        features: how many a sample has.
        base: subtracted from every difficulty, see ``base_of``; 0 with ``difficulty: raw``.
        search: what proposes neighbours in rate mode; it changes the cost, never a decision.

    Raises:
        ConfigError: when FAISS is asked for and is not there, or goes with a budget.
    """

    def __init__(
        self,
        settings: OnlineSettings,
        features: int,
        base: float = 0.0,
        search: SearchName = "exact",
    ) -> None:
        if features < 1:
            raise ValueError(f"a sample needs at least 1 feature, not {features}")
        self.settings, self.features, self.base = settings, features, float(base)
        self.sequence = 0
        self.kept = Kept(features)
        self._rule = self._build_rule(search)

    def decide(
        self,
        ids: Sequence[str],
        difficulty: Sequence[float] | np.ndarray,
        features: Sequence[np.ndarray] | np.ndarray,
    ) -> list[Decision | Invalid]:
        """Decide on samples, each after those before it; the answers in their order.

        A sample that cannot be decided on is answered by ``Invalid`` and changes nothing. Ids are
        taken as they are: an id that comes twice is two samples.

        Args:
            difficulty: higher is harder.
            features: one row a sample; rows need not be normalised.

        Raises:
            ValueError: when there are not as many ids, difficulties and rows.
        """
        answers: list[Decision | Invalid] = []
        for start in range(0, max(len(ids), len(difficulty), len(features)), SEARCHED_AT_ONCE):
            cut = slice(start, start + SEARCHED_AT_ONCE)
            batch, invalid = checked(
                ids[cut], difficulty[cut], features[cut], self.features, self.base
            )
            answers += self._decide(batch, invalid, start)
        return answers

    def follow(self, decision: Decision, features_D: np.ndarray | None = None) -> None:
        """``follow_all`` of one decision."""
        self.follow_all([decision], [features_D])

    def follow_all(
        self, decisions: Sequence[Decision], features: Sequence[np.ndarray | None]
    ) -> None:
        """Take over decisions from the log; the state is then as if they had been made here.

        Only a sample that was admitted needs its features. With a budget an admission is decided
        again, for it changes the values of others; with a rate nothing is searched.

        Raises:
            ArtifactError: when the log does not go on from this state, or does not fit it.
        """
        part: list[Decision] = []
        rows: list[np.ndarray] = []
        for decision, features_D in zip(decisions, features, strict=True):
            part.append(decision)
            if decision.admitted:
                if features_D is None:
                    raise ArtifactError(
                        f"sample {decision.id} was admitted: its features are needed."
                    )
                rows.append(features_D)
            if len(rows) == SEARCHED_AT_ONCE:
                self._follow(part, rows)
                part, rows = [], []
        self._follow(part, rows)

    def digest(self) -> str:
        """Equal for two selectors that will decide alike."""
        return states.digest(self._header(), self.kept, self._recent())

    def export(self, features: bool = True) -> State:
        """A copy of the state; with ``features`` also of the vectors, as large again."""
        slots_K = self.kept.slots()
        arrays = states.kept_arrays(self.kept, slots_K)
        if features:
            arrays["features_KD"] = self.kept.rows(slots_K)
        if isinstance(self._rule, RateRule):
            arrays["recent_W"] = self._recent()
        else:
            arrays |= states.list_arrays(self._rule.values, slots_K, self.kept.top)
        ids = [self.kept.ids[slot] for slot in slots_K.tolist()]
        return State(self._header(), ids, arrays)

    @classmethod
    def restore(cls, state: State, search: SearchName = "exact") -> OnlineSelector:
        """The selector that a state was exported from.

        Raises:
            ArtifactError: when the state is of another format, or its arrays do not fit.
        """
        header = state.header
        if header.get("format") != states.FORMAT:
            raise ArtifactError(
                f"the snapshot has format {header.get('format')}, this version reads "
                f"{states.FORMAT}: replay the log instead."
            )
        settings = OnlineSettings.model_validate(header["settings"])
        selector = cls(settings, header["features"], header["base"], search)
        states.refill_kept(selector.kept, state)
        selector.sequence = header["sequence"]
        if isinstance(selector._rule, RateRule):
            selector._rule.controller = RateController(
                settings.wanted_rate,
                settings.window,
                settings.slack,
                header["seen"],
                header["admitted"],
                state.arrays["recent_W"].tolist(),
            )
        else:
            states.refill_lists(selector._rule.values, state)
        return selector

    def _build_rule(self, search: SearchName) -> RateRule | BudgetRule:
        settings = self.settings
        if settings.budget is not None:
            if search != "exact":
                raise ConfigError(f"search: {search} goes with rate: take exact with a budget.")
            return BudgetRule(settings, self.kept, settings.budget)
        controller = RateController(settings.wanted_rate, settings.window, settings.slack)
        return RateRule(settings, self.kept, controller, search)

    def _decide(self, batch: Batch, invalid: list[Invalid], start: int) -> list[Decision | Invalid]:
        answers: dict[int, Decision | Invalid] = {
            bad.position: Invalid(start + bad.position, bad.id, bad.fault, bad.detail)
            for bad in invalid
        }
        self._rule.begin(batch, self.sequence)
        for number, position in enumerate(batch.positions):
            verdict = self._rule.decide(batch, number, self.sequence)
            answers[position] = _decision(self.sequence, batch, number, verdict)
            self.sequence += 1
        return [answers[position] for position in sorted(answers)]

    def _follow(self, decisions: list[Decision], rows: list[np.ndarray]) -> None:
        admitted = [decision for decision in decisions if decision.admitted]
        batch, invalid = checked(
            [decision.id for decision in admitted],
            [decision.difficulty for decision in admitted],
            rows,
            self.features,
            self.base,
        )
        if invalid:
            raise ArtifactError(f"the log holds an impossible sample: {invalid[0].detail}.")
        if isinstance(self._rule, BudgetRule):
            self._rule.begin(batch, self.sequence)
        number = 0
        for decision in decisions:
            if decision.sequence != self.sequence:
                raise ArtifactError(
                    f"the log goes on at {decision.sequence}, but the state is at "
                    f"{self.sequence}: replay it from the sequence that the snapshot ends at."
                )
            if isinstance(self._rule, RateRule) and not decision.admitted:
                self._rule.pass_by(_verdict(decision))
            elif isinstance(self._rule, RateRule):
                self._rule.take(_verdict(decision), batch, number, self.sequence)
            elif decision.admitted:
                self._redecide(decision, batch, number)
            number += decision.admitted
            self.sequence += 1

    def _redecide(self, decision: Decision, batch: Batch, number: int) -> None:
        verdict = self._rule.decide(batch, number, self.sequence)
        again = _decision(self.sequence, batch, number, verdict)
        if again != decision:
            raise ArtifactError(
                f"decision {decision.sequence} comes out differently from the log ({again}): "
                "the log or the snapshot is damaged, or of other settings."
            )

    def _header(self) -> dict[str, Any]:
        header: dict[str, Any] = {
            "format": states.FORMAT,
            "settings": self.settings.model_dump(mode="json"),
            "features": self.features,
            "base": self.base,
            "sequence": self.sequence,
        }
        if isinstance(self._rule, RateRule):
            controller = self._rule.controller
            header |= {"seen": controller.seen, "admitted": controller.admitted}
        return header

    def _recent(self) -> np.ndarray:
        recent = self._rule.controller.recent if isinstance(self._rule, RateRule) else ()
        return np.array(list(recent), np.float64)


def _decision(sequence: int, batch: Batch, number: int, verdict: Verdict) -> Decision:
    return Decision(
        sequence=sequence,
        id=batch.ids[number],
        difficulty=batch.raw[number],
        adjusted=verdict.adjusted,
        threshold=verdict.threshold,
        reason=verdict.reason,
        nearest=verdict.nearest,
        similarities=verdict.similarities,
        evicted=verdict.evicted,
    )


def _verdict(decision: Decision) -> Verdict:
    return Verdict(
        decision.reason,
        decision.adjusted,
        decision.threshold,
        decision.nearest,
        decision.similarities,
        decision.evicted,
    )
