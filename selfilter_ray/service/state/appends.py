"""What is stored of decided samples: records, features, and what the page shows of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.messages import Arrival, Preview
from selfilter_ray.service.settings import PreviewSettings
from selfilter_ray.service.state.record import Record, sealed, vector_bytes, vector_digest
from selfilter_ray.service.state.store import Append, End, Store


class AppendBuilder:
    """Knows which previews of rejected samples are stored, so that only the newest stay."""

    def __init__(self, store: Store, previews: PreviewSettings) -> None:
        self._epoch, self._most = store.epoch, previews.rejected
        self._shown = deque(store.rejected_previews(previews.rejected))

    def build(
        self, start: End, pairs: Sequence[tuple[Decision, Arrival]], decided_at: float
    ) -> Append:
        """For decisions that follow ``start``."""
        records: list[Record] = []
        vectors: dict[int, bytes] = {}
        before = start.checksum
        for decision, arrival in pairs:
            digest = None
            if decision.admitted:
                stored = vectors[decision.sequence] = vector_bytes(arrival.features_D)
                digest = vector_digest(stored)
            record = sealed(before, decision, arrival.digest, self._epoch, decided_at, digest)
            records.append(record)
            before = record.checksum
        end = End(self._epoch, start.sequence + len(records), before)
        evicted = [decision.evicted for decision, _ in pairs if decision.evicted is not None]
        forgotten = self._forgotten(records)
        previews = _previews(pairs, set(forgotten))
        return Append(start, end, records, vectors, previews, forgotten, evicted)

    def take(self, stored: Append) -> None:
        """It is stored: go on from it."""
        self._shown.extend(_rejected(stored.records))
        while len(self._shown) > self._most:
            self._shown.popleft()

    def _forgotten(self, records: Sequence[Record]) -> list[int]:
        """Of rejected samples, those whose previews are no longer among the newest."""
        shown = [*self._shown, *_rejected(records)]
        return shown[: max(0, len(shown) - self._most)]


def _previews(pairs: Sequence[tuple[Decision, Arrival]], forgotten: set[int]) -> dict[int, Preview]:
    return {
        decision.sequence: arrival.preview
        for decision, arrival in pairs
        if decision.sequence not in forgotten
        and (arrival.preview.text or arrival.preview.thumbnail)
    }


def _rejected(records: Sequence[Record]) -> list[int]:
    return [record.decision.sequence for record in records if not record.decision.admitted]
