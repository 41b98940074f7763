"""How far what was chosen is from the pool: numbers and sources.

Shapes: N samples of the pool, B chosen, S sources.
"""

from __future__ import annotations

import numpy as np


def distribution_distances(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Wasserstein-1 and Kolmogorov-Smirnov distance of two sets of finite numbers.

    Both compare the cumulative distributions F and G: the integral of |F - G| (in the unit of the
    numbers), and its maximum (0 to 1). Neither set may be empty.
    """
    points = np.unique(np.concatenate([first, second]))
    gap = np.abs(_cumulative(first, points) - _cumulative(second, points))
    return float(np.sum(gap[:-1] * np.diff(points))), float(gap.max())


def divergence(chosen_S: np.ndarray, pool_S: np.ndarray) -> float:
    """KL(chosen || pool) in nats, from counts a source. Every chosen source is in the pool."""
    held = chosen_S > 0
    share = chosen_S[held] / chosen_S.sum()
    return max(0.0, float(np.sum(share * np.log(share * pool_S.sum() / pool_S[held]))))


def _cumulative(values: np.ndarray, points: np.ndarray) -> np.ndarray:
    return np.searchsorted(np.sort(values), points, side="right") / len(values)
