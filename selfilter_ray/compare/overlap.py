"""How much selections share.

Shapes: M methods, N samples of the pool, B chosen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

Matrix = list[list[float | None]]
Share = Callable[[int, int, int], float]


def shared_part(both: int, first: int, second: int) -> float:
    """|A and B| / B: 1 for equal selections. Of unequal sizes, the larger one counts."""
    return both / max(first, second)


def jaccard(both: int, first: int, second: int) -> float:
    """|A and B| / |A or B|."""
    return both / (first + second - both)


class Overlaps:
    """The sizes of the intersections of all runs of all methods.

    Args:
        runs: for each method, seed to the row numbers chosen; a method may lack seeds.
        rows: N.
    """

    def __init__(self, runs: Sequence[Mapping[int, np.ndarray]], rows: int) -> None:
        self._runs = runs
        self._seeds = sorted({seed for by_seed in runs for seed in by_seed})
        self._both: dict[tuple[int, int, int, int], int] = {}
        member_N = np.zeros(rows, dtype=bool)
        keys = [(method, seed) for method, by_seed in enumerate(runs) for seed in by_seed]
        for place, (method, seed) in enumerate(keys):
            member_N[runs[method][seed]] = True
            for other, other_seed in keys[place:]:
                both = int(member_N[runs[other][other_seed]].sum())
                self._both[method, seed, other, other_seed] = both
                self._both[other, other_seed, method, seed] = both
            member_N[runs[method][seed]] = False

    def at_seed(self, seed: int, share: Share) -> Matrix:
        """(M, M) of one seed; None where a method has no run of it, or chose nothing."""
        return self._matrix(lambda a, b: _mean([self._pair(share, a, seed, b, seed)]))

    def over_seeds(self, share: Share) -> Matrix:
        """(M, M) means over all pairs of different seeds; with one seed, of that one.

        Under one seed methods may draw the same random numbers, and would look more alike than
        they are. The diagonal is between the seeds of one method, None with one seed.
        """
        return self._matrix(lambda first, second: self._between(share, first, second))

    def _between(self, share: Share, first: int, second: int) -> float | None:
        pairs = list(itertools.permutations(self._seeds, 2))
        if not pairs and first != second:
            pairs = [(seed, seed) for seed in self._seeds]
        return _mean(self._pair(share, first, one, second, other) for one, other in pairs)

    def _pair(self, share: Share, a: int, seed: int, b: int, other: int) -> float | None:
        both = self._both.get((a, seed, b, other))
        if both is None:
            return None
        sizes = len(self._runs[a][seed]), len(self._runs[b][other])
        return share(both, *sizes) if max(sizes) else None

    def _matrix(self, cell: Callable[[int, int], float | None]) -> Matrix:
        methods = range(len(self._runs))
        return [[cell(row, column) for column in methods] for row in methods]


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
