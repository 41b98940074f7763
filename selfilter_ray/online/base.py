"""What is subtracted from difficulties, so that a stream starts where the scored pool does."""

from __future__ import annotations

import math

import numpy as np

from selfilter_ray.errors import ConfigError
from selfilter_ray.online.settings import OnlineSettings


def base_of(settings: OnlineSettings, pool_difficulty_N: np.ndarray | None = None) -> float:
    """The number that is subtracted from every difficulty of the stream.

    Offline selection subtracts the minimum of the pool. A stream has no minimum, so it takes that
    of the pool which the score net was trained on, or a fixed one.

    Args:
        pool_difficulty_N: of the scored pool, or its percentiles from 0 to 100.

    Raises:
        ConfigError: when neither is there.
    """
    if settings.difficulty == "raw":
        return 0.0
    if settings.base is not None:
        return settings.base
    known = np.asarray([] if pool_difficulty_N is None else pool_difficulty_N, np.float64)
    known = known[np.isfinite(known)]
    least = float(known.min(initial=math.inf))
    if not math.isfinite(least):
        raise ConfigError(
            "difficulty: shifted needs a base, and there is no scored pool to take it from: set "
            "base to the least difficulty to expect, or take difficulty: raw."
        )
    return least
