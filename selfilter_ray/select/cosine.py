"""Cosines that are the same on every machine.

A product of two float32 is exact in float64. Their sum is taken by halving, in an order that
depends on D alone, and what each addition rounds off is summed beside it (Knuth's two-sum), so that
in the end one rounding is left. Neither the BLAS library nor the number of threads has a say, and
equal rows have the cosine 1 and not a bit beside it.

Shapes: N rows, D features, C candidates.
"""

from __future__ import annotations

import numpy as np

# So many numbers stay in a core's cache while they are summed.
NUMBERS_AT_ONCE = 2**15


def dots(first_CD: np.ndarray, second_CD: np.ndarray) -> np.ndarray:
    """(C,) float64, row by row; the first may be one row for all."""
    features = second_CD.shape[1]
    if features == 0 or len(second_CD) == 0:
        return np.zeros(len(second_CD))
    rows = max(1, NUMBERS_AT_ONCE // features)
    shared = len(first_CD) == 1
    parts = [
        _dots(
            first_CD if shared else first_CD[start : start + rows], second_CD[start : start + rows]
        )
        for start in range(0, len(second_CD), rows)
    ]
    return np.concatenate(parts)


def _dots(first_CD: np.ndarray, second_CD: np.ndarray) -> np.ndarray:
    # Features first: a half of them is then one piece of memory.
    sum_DC = np.multiply(first_CD.T, second_CD.T, dtype=np.float64, order="C")
    rest_DC = np.zeros_like(sum_DC)
    width = len(sum_DC)
    while width > 1:
        half = (width + 1) // 2
        first, second = sum_DC[: width - half], sum_DC[half:width]
        total = first + second
        virtual = total - first
        rest = rest_DC[: width - half]
        rest += rest_DC[half:width]
        rest += second - virtual
        total_less = total - virtual
        rest += np.subtract(first, total_less, out=total_less)
        sum_DC[: width - half] = total
        width = half
    sums_C: np.ndarray = sum_DC[0] + rest_DC[0]
    return sums_C


def squares(features_ND: np.ndarray) -> np.ndarray:
    """(N,) float64, the squared length of each row."""
    return dots(features_ND, features_ND)


def cosines(
    query_D: np.ndarray, square: float, others_CD: np.ndarray, squares_C: np.ndarray
) -> np.ndarray:
    """(C,) float64 cosines of one row with others; 0 where either is zero."""
    # One root over both lengths: that of x * x is x, so equal rows divide a number by itself.
    lengths_C = np.sqrt(square * squares_C)
    dots_C = dots(query_D[None], others_CD)
    return np.divide(dots_C, lengths_C, out=np.zeros_like(dots_C), where=lengths_C > 0)
