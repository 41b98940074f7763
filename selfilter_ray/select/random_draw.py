"""The random baselines: uniform, by source, and by length of the answer.

Shapes: N samples, B picks.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.quotas import draw_stratified
from selfilter_ray.select.random_order import random_rank
from selfilter_ray.select.settings import RandomSettings

LENGTH_BINS = 10


def random_needs(settings: RandomSettings) -> Needs:
    return Needs(columns=("answer_tokens",) if settings.kind == "length_matched" else ())


def select_random(pool: Pool, budget: int, seed: int, settings: RandomSettings) -> Selection:
    """Draw ``budget`` samples without replacement.

    ``uniform``: every subset of that size is equally likely. ``stratified``: each source gets its
    share of the budget, by largest remainder, and is drawn uniformly. ``length_matched`` (ours):
    the same with ten bins of equal count by answer length in place of sources, so that the picks
    have the pool's distribution of lengths. Samples of equal length are dealt to bins at random.
    """
    rank_N = random_rank(pool.ids, seed, "random")
    names, strata_N = _strata(pool, seed, settings.kind)
    indices = draw_stratified(np.arange(len(pool.ids)), strata_N, rank_N, budget)
    picked = np.bincount(strata_N[indices], minlength=len(names)).tolist()
    details = {"picked_of": dict(zip(names, picked, strict=True))}
    return Selection(indices, np.full(budget, np.nan), details)


def _strata(pool: Pool, seed: int, kind: str) -> tuple[list[str], np.ndarray]:
    """The strata's names and (N,) the number of each sample's."""
    samples = len(pool.ids)
    if kind == "stratified":
        return source_numbers(pool)
    if kind == "uniform":
        return ["all"], np.zeros(samples, dtype=np.int64)
    # A purpose of its own: the draw inside a bin must not prefer those that tipped into it.
    rank_N = random_rank(pool.ids, seed, "length bins")
    bins = min(LENGTH_BINS, samples)
    strata_N = np.empty(samples, dtype=np.int64)
    order = np.lexsort((rank_N, pool.columns["answer_tokens"]))
    strata_N[order] = np.arange(samples) * bins // samples
    return [f"length {number + 1}/{bins}" for number in range(bins)], strata_N


def source_numbers(pool: Pool) -> tuple[list[str], np.ndarray]:
    """The names of the sources, sorted, and (N,) the number of each sample's."""
    names, numbers_N = np.unique(pool.sources.astype(str), return_inverse=True)
    return names.tolist(), numbers_N
