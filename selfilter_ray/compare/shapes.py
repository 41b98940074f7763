"""What the figures draw: shares of sources, of difficulty and of answer lengths over shared bins.

Shapes: N samples of the pool, B chosen, S sources shown, E bins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from selfilter_ray.select.contract import Pool

MOST_BINS = 24
MOST_SOURCES = 20
WIDE_RANGE = 20.0
Shares = dict[str, list[float]]
NUMBERS = ("difficulty", "answer_tokens")


class Shapes:
    """The bins of a pool.

    Attributes:
        sources: the largest sources of the pool, largest first; the last may stand for all others.
        edges: for each known column its E + 1 bin edges; values beyond count in the end bins.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self.sources, self._source_N = _largest_sources(pool.sources)
        self.edges: dict[str, list[float]] = {}
        for name in NUMBERS:
            values = pool.columns.get(name)
            known = values[np.isfinite(values)] if values is not None else np.empty(0)
            if known.size:
                self.edges[name] = bin_edges(known)

    def of(self, rows: np.ndarray) -> Shares:
        """For ``sources`` and each column the share of those rows in each bin, summing to 1."""
        counts = np.bincount(self._source_N[rows], minlength=len(self.sources))
        found = {"sources": _shares(counts)}
        for name, edges in self.edges.items():
            values = self._pool.columns[name][rows]
            known = values[np.isfinite(values)]
            inside = np.clip(known, edges[0], edges[-1])
            found[name] = _shares(np.histogram(inside, np.array(edges))[0])
        return found


def mean_shares(parts: Sequence[Shares]) -> Shares:
    """The mean over several runs, at least one, of the same pool."""
    return {name: np.mean([part[name] for part in parts], axis=0).tolist() for name in parts[0]}


def bin_edges(values: np.ndarray) -> list[float]:
    """Edges for finite values; those of positive values over a wide range grow by a factor.

    Of far values only the inner 99 % decide: they must not press all others into one bin. Whole
    numbers get edges between them, so that no bin holds more of them than its neighbour by chance.
    """
    low, high = (float(value) for value in np.quantile(values, [0.005, 0.995]))
    if high <= low:
        low, high = float(values.min()), float(values.max())
    bins = min(MOST_BINS, max(6, round(1.5 * math.sqrt(len(values)))))
    wide = low >= 1.0 and high / low > WIDE_RANGE
    if np.array_equal(values, np.round(values)) and high < 2**40:
        return _edges_between(math.floor(low), math.ceil(high), bins, wide)
    if high <= low:
        margin = 0.5 * abs(low) or 0.5
        low, high = low - margin, high + margin
    return _spaced(low, high, bins, wide).tolist()


def _edges_between(low: int, high: int, bins: int, wide: bool) -> list[float]:
    """Edges halfway between whole numbers, around ``low`` to ``high``."""
    edges: np.ndarray
    if wide:
        edges = np.unique(np.round(_spaced(low, high + 1, bins, wide))) - 0.5
    else:
        step = -(-(high + 1 - low) // bins)
        edges = np.arange(low, high + 1 + step, step) - 0.5
    return edges.tolist()


def _spaced(low: float, high: float, bins: int, wide: bool) -> np.ndarray:
    return (np.geomspace if wide else np.linspace)(low, high, bins + 1)


def _largest_sources(sources_N: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Names, largest first and ties by name, and for each sample the place of its source."""
    names, source_N, count = np.unique(sources_N, return_inverse=True, return_counts=True)
    order = np.argsort(-count, kind="stable")
    place = np.empty(len(names), dtype=np.int64)
    place[order] = np.arange(len(names))
    titles = [str(names[row]) or "(no source)" for row in order]
    if len(titles) > MOST_SOURCES + 1:
        place = np.minimum(place, MOST_SOURCES)
        titles = [*titles[:MOST_SOURCES], f"other ({len(names) - MOST_SOURCES} sources)"]
    return titles, place[source_N]


def _shares(counts: np.ndarray) -> list[float]:
    return [float(share) for share in counts / max(1, counts.sum())]
