"""The one writer: decides on arriving samples and stores each decision before it is answered.

Shapes: K kept samples.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from selfilter_ray.online.decision import Decision, Invalid
from selfilter_ray.service.messages import Arrival, Kept, Preview, Refused
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.service.state import arrivals as arriving
from selfilter_ray.service.state.activity import REMEMBERED, Activity, finite
from selfilter_ray.service.state.appends import AppendBuilder
from selfilter_ray.service.state.capture import capture
from selfilter_ray.service.state.opening import Opened, open_state
from selfilter_ray.service.state.recent import recent
from selfilter_ray.service.state.record import Record
from selfilter_ray.service.state.size import StateSize
from selfilter_ray.service.state.snapshots import Capture
from selfilter_ray.service.state.store import Append

log = logging.getLogger(__name__)


class SelectionWriter:
    """Made by ``open``; for one thread at a time.

    A decision that could not be stored is not answered. It is kept, and stored before anything
    else is decided: what is in memory is then again what the log says.
    """

    def __init__(self, opened: Opened, config: ServiceConfig) -> None:
        self._state, self._store = opened, opened.store
        self._selector, self._tally = opened.selector, opened.tally
        self._snapshots = opened.snapshots
        self._end = opened.end
        self._pending: Append | None = None
        self._activity, self._refused = Activity(), Counter[str]()
        for record in self._store.newest(REMEMBERED):
            self._activity.add(record)
        self._builder = AppendBuilder(self._store, config.previews)
        self._size = StateSize(self._store)

    @classmethod
    def open(
        cls, config: ServiceConfig, features: int, base: float, holder: str
    ) -> SelectionWriter:
        """Take the lease, load the newest good snapshot and replay the log behind it.

        Args:
            features: of a sample.
            base: subtracted from difficulties, see ``online.base``.
            holder: who this is, for the message that a second writer gets.

        Raises:
            LeaseHeldError: when another process writes to this state.
            DamagedError: when the log is damaged; names the command that repairs it.
            ArtifactError: when the state is of a newer format or cannot be written.
            ConfigError: when it was made with other settings.
            NotReadyError: when the database does not answer.
        """
        opened = open_state(config, features, base, holder)
        try:
            return cls(opened, config)
        except BaseException:
            opened.close()
            raise

    @property
    def sequence(self) -> int:
        """How many decisions are stored."""
        return self._end.sequence

    def admit(self, arrivals: Sequence[Arrival]) -> list[Decision | Refused]:
        """Decide on each, after those before it; stored when this returns.

        A sample that cannot be decided on is refused (status 422) and leaves no trace. An id that
        was decided on gets the decision of then; with another digest it is refused
        (``id_conflict``, 409).

        Raises:
            NotReadyError: when it cannot be stored now; the same samples may come again.
            FencedError: when another writer has taken over; this one must be closed.
        """
        self._settle()
        answers: list[Decision | Refused] = []
        for run in arriving.runs(arrivals):
            answers += self._admit(run)
        self._refused.update(answer.code for answer in answers if isinstance(answer, Refused))
        self._snapshots.start_if_due(self.sequence, self._capture)
        return answers

    def selection(self, after: int, limit: int) -> list[Kept]:
        """The samples kept now, by sequence, from ``after`` (exclusive) on; -1 for all."""
        sequence_K = self._kept_sequences()
        sequence_K = sequence_K[sequence_K > after]
        if len(sequence_K) > limit:
            sequence_K = np.partition(sequence_K, limit)[:limit]
        records = self._store.records(sequence_K.tolist())
        return [Kept(record.decision, record.decided_at) for record in records]

    def stats(self) -> dict[str, Any]:
        """Counts and settings; see ``docs/state.md`` for each key."""
        settings, kept, tally = self._selector.settings, self._selector.kept, self._tally
        last = self._activity.last
        return {
            "mode": "rate" if settings.budget is None else "budget",
            "rate": settings.wanted_rate if settings.budget is None else None,
            "budget": settings.budget,
            "sequence": self.sequence,
            "admitted": tally.admitted,
            "rejected": {"too_easy": tally.too_easy, "near_duplicate": tally.near_duplicate},
            "refused": dict(self._refused),
            "evicted": tally.evicted,
            "kept": tally.admitted - tally.evicted,
            "threshold": None if last is None else finite(last.decision.threshold),
            "features": kept.features,
            "bytes": kept.top * kept.features * 4,
            "epoch": self._store.epoch,
            "started_at": self._state.started_at,
            "replayed": self._state.replayed,
            "recovery_seconds": self._state.recovery_seconds,
            "snapshot": self._snapshots.newest(),
            "log": {
                "last_decided_at": None if last is None else last.decided_at,
                "bytes": self._size.bytes,
            },
            "series": self._activity.series(),
            "difficulty": self._activity.difficulty(),
            "similarity": self._activity.similarity(),
        }

    def recent(self, limit: int) -> dict[str, Any]:
        """``{"admitted": [item], "rejected": [item]}``, newest first.

        An item is a decision as the HTTP interface gives it, with ``decided_at``, ``text`` and
        whether there is a ``thumbnail``; a rejected one has the ``neighbour`` that lowered it most:
        ``{"id", "sequence", "similarity", "thumbnail"}`` or None.
        """
        return recent(self._store, self._activity, limit)

    def preview(self, sequence: int) -> Preview | None:
        """Of a kept or a recently rejected sample."""
        return self._store.preview(sequence)

    def start_snapshot(self) -> Future[dict[str, Any]]:
        """Begin to write the state down, in a thread; admissions go on meanwhile.

        Its result: ``{"sequence", "kept", "bytes", "seconds", "file"}``. One that is being written
        already is what is answered.
        """
        self._settle()
        return self._snapshots.start(self._capture)

    def snapshot(self) -> dict[str, Any]:
        """``start_snapshot``, and wait for it."""
        return self.start_snapshot().result()

    def digest(self) -> str:
        """Of the selector's state; equal to that of a fresh replay of the log."""
        self._settle()
        return self._selector.digest()

    def close(self) -> None:
        """Wait for a snapshot that is being written, and give the lease back."""
        self._state.close()

    def _admit(self, run: list[Arrival]) -> list[Decision | Refused]:
        answers: dict[str, Decision | Refused] = {}
        for arrival in run:
            bad = arriving.bad_id(arrival)
            if bad is not None:
                answers[arrival.id] = bad
        found = self._store.find([arrival.id for arrival in run if arrival.id not in answers])
        for arrival in run:
            if arrival.id in found:
                answers[arrival.id] = arriving.known(arrival, found[arrival.id])
        fresh = [arrival for arrival in run if arrival.id not in answers]
        for answer in self._decide(fresh):
            answers[answer.id] = arriving.refused(answer) if isinstance(answer, Invalid) else answer
        return [answers[arrival.id] for arrival in run]

    def _decide(self, fresh: list[Arrival]) -> list[Decision | Invalid]:
        if not fresh:
            return []
        answers = self._selector.decide(
            [arrival.id for arrival in fresh],
            # Minus zero becomes zero: SQLite does not keep its sign.
            [arrival.difficulty + 0.0 for arrival in fresh],
            [arrival.features_D for arrival in fresh],
        )
        pairs = [
            (answer, arrival)
            for answer, arrival in zip(answers, fresh, strict=True)
            if isinstance(answer, Decision)
        ]
        if pairs:
            self._pending = self._builder.build(self._end, pairs, time.time())
            self._store_pending(self._pending)
        return answers

    def _settle(self) -> None:
        """Bring log and memory together after a failure.

        The commit may have come through though its answer did not: the log's end tells.
        """
        if self._pending is None:
            return
        end = self._store.end()
        if end == self._pending.end:
            self._take(self._pending)
        else:
            self._store_pending(self._pending)
        log.warning("the decisions that could not be stored are stored, up to %d", self.sequence)

    def _store_pending(self, pending: Append) -> None:
        self._store.append(pending)
        self._take(pending)

    def _take(self, stored: Append) -> None:
        self._pending, self._end = None, stored.end
        self._builder.take(stored)
        for record in stored.records:
            self._activity.add(record)
            self._tally.count(record.decision)
        self._size.look_if_due()

    def _capture(self) -> Capture:
        own = self._state.identity
        return capture(self._selector, self._store, own, self._end, self._tally)

    def _kept_sequences(self) -> np.ndarray:
        """Of the samples that are kept by what the log says, in no order."""
        sequence_S = self._selector.kept.sequence_S[: self._selector.kept.top]
        sequence_K = sequence_S[(sequence_S >= 0) & (sequence_S < self.sequence)]
        if self._pending is None or not self._pending.evicted:
            return sequence_K
        gone: list[Record] = list(self._store.find(self._pending.evicted).values())
        return np.append(sequence_K, [record.decision.sequence for record in gone])
