"""What answers the HTTP interface: in this process (``local``), or on Ray Serve."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.messages import (
    Arrival,
    Incoming,
    Kept,
    Preview,
    Readiness,
    Refused,
    Scored,
)


class Backend(Protocol):
    """Every method raises ``NotReadyError`` (or ``BusyError``) when it cannot answer now."""

    @property
    def features(self) -> tuple[int, int]:
        """How many features the image and the text of a sample have."""

    async def score(self, samples: Sequence[Incoming], previews: bool) -> list[Scored | Refused]:
        """Difficulty of each, in their order.

        Args:
            previews: whether the answers carry one.
        """

    async def admit(self, arrivals: Sequence[Arrival]) -> list[Decision | Refused]:
        """Decide on each, after those before it; durable when this returns.

        An id that was decided on before gets the decision of then (same digest), or is refused
        with the code ``id_conflict`` (status 409).
        """

    async def selection(self, after: int, limit: int) -> list[Kept]:
        """The samples kept now, by sequence, from ``after`` (exclusive) on; -1 for all."""

    async def stats(self) -> dict[str, Any]:
        """See ``state.writer.SelectionWriter.stats``."""

    async def recent(self, limit: int) -> dict[str, Any]:
        """The newest admitted and rejected samples, for the live page; see the writer."""

    async def preview(self, sequence: int) -> Preview | None:
        """Of a kept or a recently rejected sample."""

    async def snapshot(self) -> dict[str, Any]:
        """Write the state down now: ``{"sequence", "kept", "bytes", "seconds", "file"}``."""

    async def readiness(self) -> Readiness:
        """Never raises."""

    async def metrics(self) -> bytes:
        """Prometheus text of the parts behind the HTTP server; ends with a line feed."""
