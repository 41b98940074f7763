"""What can be wrong with a state, beside what passes by itself (``messages.NotReadyError``)."""

from __future__ import annotations

from selfilter_ray.errors import ArtifactError
from selfilter_ray.service.messages import NotReadyError

REPAIR = "python -m selfilter_ray.service.state.repair"


class LeaseHeldError(ArtifactError):
    """Another process writes to this state."""


class DamagedError(ArtifactError):
    """The log holds what was never written to it, or lacks what was.

    Attributes:
        what: is wrong, without the remedy.
    """

    def __init__(self, message: str, what: str = "") -> None:
        super().__init__(message)
        self.what = what or message


class FencedError(NotReadyError):
    """Another writer has taken over; this one must stop. Nothing of the last call was stored."""


def damaged(place: str, what: str) -> DamagedError:
    """Names the command that cuts the log back."""
    return DamagedError(
        f"the state in {place} is damaged: {what}. Restore a backup, or cut the log back to its "
        f"last good record with: {REPAIR} {place}",
        what,
    )
