"""The threshold of rate mode: a quantile of what came lately, steered by the count (ours).

The threshold is the quantile of the last ``window`` adjusted difficulties that lets a share of them
through. The share is not the wanted rate itself but, with

    ahead = admitted - rate * seen

its odds are the rate's, times (slack - ahead) / (slack + ahead). On the wanted count this is the
rate; a slack ahead nothing passes, and a slack behind everything does. So the count can never be
further than ``slack`` + 1 admissions from what was wanted, whatever arrives and in whatever order,
and no unit of difficulty enters anywhere. Only additions, products, quotients and comparisons are
used: they give the same bits on every machine.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable


class RateController:
    """Tracks the wanted rate.

    Args:
        rate: above 0, at most 1.
        window, slack: as in ``OnlineSettings``.
        seen, admitted, recent: of an earlier controller; ``recent`` oldest first.
    """

    def __init__(
        self,
        rate: float,
        window: int,
        slack: float,
        seen: int = 0,
        admitted: int = 0,
        recent: Iterable[float] = (),
    ) -> None:
        self.rate, self.window, self.slack = rate, window, slack
        self.seen, self.admitted = seen, admitted
        self.recent = deque(recent)
        self._sorted = sorted(self.recent)

    @property
    def ahead(self) -> float:
        """By how many the admitted are more than wanted."""
        return self.admitted - self.rate * self.seen

    def threshold(self) -> float:
        """What the next adjusted difficulty is held against."""
        places = int(self._share() * (len(self._sorted) + 1))
        if places <= 0:
            return math.inf
        if places > len(self._sorted):
            return -math.inf
        return self._sorted[-places]

    def admits(self, adjusted: float, threshold: float) -> bool:
        """Equal to the threshold, as in a crowd of ties, it passes where the count allows one."""
        if adjusted == threshold:
            return self.admitted + 1 <= self.rate * (self.seen + 1)
        return adjusted > threshold

    def observe(self, adjusted: float, admitted: bool) -> None:
        """One more was decided."""
        self.seen += 1
        self.admitted += admitted
        adjusted += 0.0  # minus zero becomes zero: one zero in the window
        self.recent.append(adjusted)
        insort(self._sorted, adjusted)
        if len(self.recent) > self.window:
            del self._sorted[bisect_left(self._sorted, self.recent.popleft())]

    def _share(self) -> float:
        """Which part of the window should pass."""
        passes = self.rate * max(self.slack - self.ahead, 0.0)
        stays = (1.0 - self.rate) * max(self.slack + self.ahead, 0.0)
        return passes / (passes + stays)
