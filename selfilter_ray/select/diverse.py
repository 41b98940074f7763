"""Stage 2 of Self-Filter (arXiv 2402.12501): the hardest sample, then a penalty on its neighbours.

Repeated until the budget is spent: the remaining sample i with the highest difficulty is picked;
each of its k nearest remaining samples j, by cosine, becomes easier:

    d_j <- d_j - gamma * d_i * cos(x_i, x_j)^2        with d_i as it is at the pick

Ties, in difficulty and in similarity, go to the sample that stands first. A fast matrix product
only proposes neighbours; their order and the penalty come from exactly rounded cosines, so neither
the BLAS library nor the number of threads can change a pick.

Shapes: N samples, D features, B picks, K neighbours of a pick.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

Difficulty = Literal["shifted", "raw"]


@dataclass(frozen=True, slots=True)
class Picks:
    """The picks in their order.

    Attributes:
        indices: (B,) int64 row numbers.
        difficulty_at_pick: (B,) float32, the penalised value when picked.
        penalty: (B,) float32, how far earlier picks had pushed it down.
        nearest_earlier: (B,) int64, the most similar earlier pick among those that pushed it down;
            -1 when none did.
        nearest_earlier_similarity: (B,) float32 cosine, NaN when there is none.
        neighbours_BK: (B, K) int64, the samples that the pick pushed down, nearest first, -1 where
            fewer than K remained.
        similarity_BK: (B, K) float32 cosines, NaN where there is none.
    """

    indices: np.ndarray
    difficulty_at_pick: np.ndarray
    penalty: np.ndarray
    nearest_earlier: np.ndarray
    nearest_earlier_similarity: np.ndarray
    neighbours_BK: np.ndarray
    similarity_BK: np.ndarray


def select_diverse(
    features_ND: np.ndarray,
    difficulty_N: np.ndarray,
    budget: int,
    gamma: float = 1.0,
    k_nearest: int = 10,
    difficulty: Difficulty = "shifted",
    progress: Callable[[int], None] = lambda picks: None,
) -> Picks:
    """Pick ``budget`` samples that are hard and unlike each other.

    Args:
        features_ND: any real type; rows need not be normalised. A zero row is similar to nothing.
        difficulty_N: higher is harder.
        budget: from 0 to N.
        gamma: strength of the penalty, at least 0.
        k_nearest: how many neighbours a pick pushes down, at least 0.
        difficulty: ``shifted`` subtracts the minimum once, so that a penalty is never a reward
            (ours); ``raw`` takes the values as they are (the release).
        progress: told the number of picks made, once in a while.

    Raises:
        ValueError: for shapes that do not match, NaN or Infinity, or arguments out of range.
    """
    features_ND, base_N = _checked(features_ND, difficulty_N, budget, gamma, k_nearest, difficulty)
    search = _Neighbours(features_ND, min(k_nearest, max(len(base_N) - 1, 0)))
    state = _State(base_N, budget, search.k)
    for rank in range(budget):
        pick = state.hardest()
        value = state.take(rank, pick)
        neighbours, cosines = search.of(pick, state.remaining_N)
        state.push_down(rank, pick, neighbours, cosines, gamma * value * cosines**2)
        if rank % 100 == 99:
            progress(100)
    progress(budget % 100)
    return state.picks()


class _State:
    """Difficulties as they change, and what is recorded of each pick."""

    def __init__(self, base_N: np.ndarray, budget: int, k: int) -> None:
        self.base_N = base_N
        self.value_N = base_N.copy()
        self.remaining_N = np.ones(len(base_N), dtype=bool)
        self.nearest_N = np.full(len(base_N), -1, dtype=np.int64)
        self.nearest_cosine_N = np.full(len(base_N), np.nan)
        self.indices = np.zeros(budget, dtype=np.int64)
        self.at_pick = np.zeros(budget)
        self.neighbours_BK = np.full((budget, k), -1, dtype=np.int64)
        self.similarity_BK = np.full((budget, k), np.nan, dtype=np.float32)

    def hardest(self) -> int:
        # Taken samples stand at minus infinity; argmax gives the first of equals.
        return int(self.value_N.argmax())

    def take(self, rank: int, pick: int) -> float:
        value = float(self.value_N[pick])
        self.indices[rank], self.at_pick[rank] = pick, value
        self.remaining_N[pick] = False
        self.value_N[pick] = -np.inf
        return value

    def push_down(
        self, rank: int, pick: int, neighbours: np.ndarray, cosines: np.ndarray, penalty: np.ndarray
    ) -> None:
        self.value_N[neighbours] -= penalty
        self.neighbours_BK[rank, : len(neighbours)] = neighbours
        self.similarity_BK[rank, : len(neighbours)] = cosines
        closer = ~(cosines <= self.nearest_cosine_N[neighbours])  # true against NaN
        self.nearest_N[neighbours[closer]] = pick
        self.nearest_cosine_N[neighbours[closer]] = cosines[closer]

    def picks(self) -> Picks:
        return Picks(
            indices=self.indices,
            difficulty_at_pick=self.at_pick.astype(np.float32),
            penalty=(self.base_N[self.indices] - self.at_pick).astype(np.float32),
            nearest_earlier=self.nearest_N[self.indices],
            nearest_earlier_similarity=self.nearest_cosine_N[self.indices].astype(np.float32),
            neighbours_BK=self.neighbours_BK,
            similarity_BK=self.similarity_BK,
        )


class _Neighbours:
    """The k nearest remaining samples of a pick, with exactly rounded cosines."""

    def __init__(self, features_ND: np.ndarray, k: int) -> None:
        self.k = k
        self.features_ND = features_ND
        norm_N = np.sqrt(np.einsum("nd,nd->n", features_ND, features_ND, dtype=np.float64))
        scale_N = np.divide(1.0, norm_N, out=np.zeros_like(norm_N), where=norm_N > 0)
        self.unit_ND = (features_ND * scale_N[:, None]).astype(np.float32)
        self.twin_N = _first_equal_row(features_ND)
        self._squares: dict[int, float] = {}
        # Bound of the float32 product's error against the true cosine.
        self.margin = float(np.finfo(np.float32).eps) * (features_ND.shape[1] + 4)

    def of(self, pick: int, remaining_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Row numbers, nearest first, and their cosines."""
        if self.k == 0 or not remaining_N.any():
            return np.empty(0, dtype=np.int64), np.empty(0)
        proposed = self._proposed(pick, remaining_N)
        # Equal rows have one cosine: a crowd of duplicates costs no more than one of them.
        distinct, place = np.unique(self.twin_N[proposed], return_inverse=True)
        cosines = np.array([self._cosine(pick, int(other)) for other in distinct])[place]
        order = np.lexsort((proposed, -cosines))[: self.k]
        return proposed[order], cosines[order]

    def _proposed(self, pick: int, remaining_N: np.ndarray) -> np.ndarray:
        """Every remaining sample that can be among the k nearest, given the product's error."""
        rows = np.flatnonzero(remaining_N)
        if len(rows) <= self.k:
            return rows
        rough = (self.unit_ND @ self.unit_ND[pick])[rows]
        kth = np.partition(rough, len(rough) - self.k)[len(rough) - self.k]
        return rows[rough >= kth - 2.0 * self.margin]

    def _cosine(self, first: int, second: int) -> float:
        # One root over both norms: the cosine of equal rows is then 1 and not a bit beside it.
        norms = math.sqrt(self._square(first) * self._square(second))
        return self._dot(first, second) / norms if norms > 0.0 else 0.0

    def _square(self, row: int) -> float:
        if row not in self._squares:
            self._squares[row] = self._dot(row, row)
        return self._squares[row]

    def _dot(self, first: int, second: int) -> float:
        # Products of two float32 are exact in float64, and fsum rounds their sum once.
        products = self.features_ND[first].astype(np.float64) * self.features_ND[second]
        return math.fsum(products.tolist())


def _first_equal_row(features_ND: np.ndarray) -> np.ndarray:
    """(N,) for each row the number of the first row of the same bytes."""
    first: dict[bytes, int] = {}
    digests = (hashlib.blake2b(row.tobytes(), digest_size=16).digest() for row in features_ND)
    return np.array([first.setdefault(digest, row) for row, digest in enumerate(digests)], np.int64)


def _checked(
    features_ND: np.ndarray,
    difficulty_N: np.ndarray,
    budget: int,
    gamma: float,
    k_nearest: int,
    difficulty: str,
) -> tuple[np.ndarray, np.ndarray]:
    features_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
    base_N = np.array(difficulty_N, dtype=np.float64)
    if features_ND.ndim != 2 or base_N.shape != (len(features_ND),):
        raise ValueError(
            f"features_ND must be (N, D) and difficulty_N (N,), not {features_ND.shape} "
            f"and {base_N.shape}"
        )
    if not np.isfinite(features_ND).all() or not np.isfinite(base_N).all():
        raise ValueError("features and difficulty must be finite: remove NaN and Infinity")
    if not 0 <= budget <= len(base_N):
        raise ValueError(f"budget must be from 0 to {len(base_N)}, not {budget}")
    if not (gamma >= 0 and math.isfinite(gamma)) or k_nearest < 0:
        raise ValueError(f"gamma and k_nearest must be at least 0, not {gamma} and {k_nearest}")
    if difficulty == "shifted":
        base_N -= base_N.min(initial=np.inf) if len(base_N) else 0.0
    elif difficulty != "raw":
        raise ValueError(f"difficulty must be 'shifted' or 'raw', not {difficulty!r}")
    return features_ND, base_N
