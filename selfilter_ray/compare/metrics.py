"""What a selection is measured by. Whatever a pool does not know stays None.

Shapes: N samples of the pool, D features, Q queries, B chosen, S sources.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from selfilter_ray.compare import nearest
from selfilter_ray.compare.distances import distribution_distances, divergence
from selfilter_ray.select.contract import Pool
from selfilter_ray.select.random_order import random_numbers

NEAR_DUPLICATE = 0.95
Metrics = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure of a selection: its key, a short title, and what it says."""

    name: str
    title: str
    says: str


METRICS = (
    Metric("coverage", "Coverage", "mean cosine of the pool's samples to the nearest chosen one"),
    Metric("coverage_p5", "Coverage, 5 %", "the 5th percentile of those cosines"),
    Metric("redundancy", "Redundancy", "mean cosine of the chosen to the nearest other chosen one"),
    Metric("near_duplicates", "Cosine > 0.95", "share of the chosen with such a cosine > 0.95"),
    Metric(
        "duplicates", "Exact copies", "share of the chosen that repeat the features of another one"
    ),
    Metric("difficulty", "Difficulty", "mean difficulty of the chosen"),
    Metric("tokens", "Answer tokens", "mean answer length of the chosen, in tokens"),
    Metric("tokens_median", "Median tokens", "median answer length of the chosen"),
    Metric("length_shift", "Length shift", "Wasserstein-1 distance of answer lengths, in tokens"),
    Metric("length_ks", "Length KS", "Kolmogorov-Smirnov distance of answer lengths, 0 to 1"),
    Metric("source_kl", "Source KL", "KL(chosen || pool) over the sources, in nats"),
)


class Ruler:
    """Measures selections of one pool by the same samples, whatever chose them.

    Attributes:
        coverage_sample: number of pool samples that coverage is measured on: all, or those with the
            smallest hash of their id.
        redundancy_sample: the same for redundancy, of the chosen.
    """

    def __init__(self, pool: Pool, budget: int) -> None:
        self.pool = pool
        self._hash_N = random_numbers(pool.ids, 0, "compare")
        self.coverage_sample = nearest.query_count(len(pool.ids), budget)
        self.redundancy_sample = nearest.query_count(budget, budget)
        self._query_rows = nearest.smallest_hashes(self._hash_N, self.coverage_sample)
        _, self._source_N = np.unique(pool.sources, return_inverse=True)

    def measure(self, indices: np.ndarray) -> Metrics:
        """All of ``METRICS`` of the chosen rows ``(B,)``; their order does not matter."""
        rows = np.sort(indices)
        found: Metrics = dict.fromkeys(metric.name for metric in METRICS)
        if len(rows):
            found |= self._by_features(rows)
            found |= {"difficulty": self.mean_difficulty(rows)}
            found |= self._lengths(rows)
            found |= {"source_kl": self._source_divergence(rows)}
        return found

    def measure_pool(self) -> Metrics:
        """What the whole pool has of the same figures: difficulty and answer lengths."""
        every = np.arange(len(self.pool.ids))
        lengths = self._known("answer_tokens", every)
        return {"difficulty": self.mean_difficulty(every), **_center(lengths)}

    def mean_difficulty(self, rows: np.ndarray) -> float | None:
        """Mean of the known difficulties."""
        known = self._known("difficulty", rows)
        return float(known.mean()) if known.size else None

    def _by_features(self, rows: np.ndarray) -> Metrics:
        features_ND = self.pool.features_ND
        if features_ND is None:
            return {}
        chosen_BD = nearest.unit_rows(features_ND, rows)
        query_QD = nearest.unit_rows(features_ND, self._query_rows)
        cover_Q = nearest.nearest_cosine(query_QD, chosen_BD)
        found: Metrics = {
            "coverage": float(cover_Q.mean()),
            "coverage_p5": float(np.quantile(cover_Q, 0.05)),
            "duplicates": nearest.repeated_rows(features_ND, rows) / len(rows),
        }
        if len(rows) > 1:
            own_Q = nearest.smallest_hashes(self._hash_N[rows], self.redundancy_sample)
            close_Q = nearest.nearest_cosine(chosen_BD[own_Q], chosen_BD, own_Q)
            found["redundancy"] = float(close_Q.mean())
            found["near_duplicates"] = float((close_Q > NEAR_DUPLICATE).mean())
        return found

    def _lengths(self, rows: np.ndarray) -> Metrics:
        chosen = self._known("answer_tokens", rows)
        if not chosen.size:
            return {}
        whole = self._known("answer_tokens", np.arange(len(self.pool.ids)))
        shift, ks = distribution_distances(chosen, whole)
        return {**_center(chosen), "length_shift": shift, "length_ks": ks}

    def _source_divergence(self, rows: np.ndarray) -> float:
        pool_S = np.bincount(self._source_N)
        return divergence(np.bincount(self._source_N[rows], minlength=len(pool_S)), pool_S)

    def _known(self, column: str, rows: np.ndarray) -> np.ndarray:
        """The finite values of a column; none where the pool lacks it."""
        values = self.pool.columns.get(column)
        if values is None:
            return np.empty(0)
        return values[rows][np.isfinite(values[rows])]


def _center(lengths: np.ndarray) -> Metrics:
    if not lengths.size:
        return {"tokens": None, "tokens_median": None}
    return {"tokens": float(lengths.mean()), "tokens_median": float(np.median(lengths))}
