"""Unit vectors on a grid of whole numbers, whose dot products are exact.

A float matrix product rounds, and how depends on the machine, the library and the number of
threads: near ties would fall one way or the other. The components here are whole numbers, and by
Cauchy-Schwarz no partial sum of a product of two such rows exceeds what the float type holds
exactly. So every product is exact, whatever the order of summation.

``COARSE`` is exact in float32, and a cosine is then right to about 1e-4; ``FINE`` is exact in
float64, and right to about 1e-8.

Shapes: N samples, D features.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

COARSE = 2**12
FINE = 2**26
CHUNK_ROWS = 8192


def radius(dimension: int, resolution: int) -> float:
    """The length of a unit vector on the grid: rounding may add half a step a component."""
    return math.floor(resolution - math.sqrt(dimension) / 2 - 1)


def on_grid(features_ND: np.ndarray, resolution: int) -> np.ndarray:
    """(N, D) float64 holding whole numbers: the rows scaled to ``radius`` and rounded.

    A zero row stays zero. Its cosine with anything is 0.
    """
    exact_ND = features_ND.astype(np.float64)
    norm_N = np.sqrt((exact_ND**2).sum(axis=1))
    length = radius(features_ND.shape[1], resolution)
    scale_N = np.divide(length, norm_N, out=np.zeros_like(norm_N), where=norm_N > 0)
    return np.rint(exact_ND * scale_N[:, None])


def coarse_rows(features_ND: np.ndarray) -> np.ndarray:
    """(N, D) int16: all rows on the coarse grid. Make them float32 before a product."""
    coarse_ND = np.empty(features_ND.shape, dtype=np.int16)
    for chunk in chunks(len(features_ND)):
        coarse_ND[chunk] = on_grid(features_ND[chunk], COARSE)
    return coarse_ND


def has_direction(features_ND: np.ndarray) -> np.ndarray:
    """(N,) bool: false for zero rows."""
    return np.asarray(features_ND.any(axis=1))


def chunks(rows: int, size: int = CHUNK_ROWS) -> Iterator[slice]:
    """Consecutive ranges that cover all rows."""
    return (slice(start, min(start + size, rows)) for start in range(0, rows, size))
