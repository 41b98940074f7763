"""How often what was decided, over the whole log."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from selfilter_ray.online.decision import Decision


@dataclass(slots=True)
class Tally:
    """Counts of decisions by their reason, and of kept samples that had to go."""

    admitted: int = 0
    too_easy: int = 0
    near_duplicate: int = 0
    evicted: int = 0

    def count(self, decision: Decision) -> None:
        setattr(self, decision.reason, getattr(self, decision.reason) + 1)
        self.evicted += decision.evicted is not None

    def to_json(self) -> dict[str, int]:
        return asdict(self)
