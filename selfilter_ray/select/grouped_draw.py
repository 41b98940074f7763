"""A draw that prefers necessary samples and keeps others in: grouped sampling.

Shapes: C candidates, G groups.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.quotas import draw_systematic, largest_remainder
from selfilter_ray.select.random_order import random_numbers


def default_alpha(rows: int, budget: int) -> float:
    """min(rows / budget - 1, 4): in expectation, the highest of rows / budget random samples.

    ``budget``: at least 1.
    """
    return min(rows / budget - 1.0, 4.0)


def group_randoms(groups: int, seed: int) -> np.ndarray:
    """(2, groups) random numbers from 0 to below 1, as ``grouped_draw`` takes them."""
    names = np.array([f"group {number}" for number in range(groups)], dtype=object)
    numbers = [random_numbers(names, seed, purpose) for purpose in ("ties", "starts")]
    # 53 bits, so that none rounds up to 1.
    return (np.array(numbers) >> np.uint64(11)) * 2.0**-53


def grouped_draw(
    ranked_C: np.ndarray,
    source_N: np.ndarray,
    rank_N: np.ndarray,
    count: int,
    groups: int,
    alpha: float,
    random_2G: np.ndarray,
) -> np.ndarray:
    """Draw ``count`` candidates, more from groups of higher necessity.

    The candidates, least necessary first, are split into ``groups`` of equal count, give or take
    one. Group g of G has weight (g / G)^alpha, quotas by largest remainder, ties at random. What a
    group cannot hold goes to the next lower one, and takes that group's most necessary samples (so
    a large alpha gives exactly the top ``count``, unless the top group alone is larger); what is
    left at the lowest goes to the most necessary anywhere. Each quota itself is drawn without
    replacement, stratified by source.

    Args:
        ranked_C: row numbers, by ascending necessity.
        source_N: whole numbers from 0 that name each sample's source.
        rank_N: the random order: lower is drawn first.
        count: at most C.
        random_2G: independent numbers from 0 to below 1, at least as many as groups: for ties of
            the quotas, and for the draws inside the groups.
    """
    groups = max(1, min(groups, len(ranked_C)))
    tie_rank_G, start_G = random_2G[:, :groups]
    ends = np.arange(groups + 1) * len(ranked_C) // groups
    weight_G = (np.arange(1, groups + 1) / groups) ** alpha
    quota_G = largest_remainder(weight_G, count, np.full(groups, count), tie_rank_G)
    drawn, overflow = [np.empty(0, dtype=np.int64)], 0
    for group in reversed(range(groups)):
        members = ranked_C[ends[group] : ends[group + 1]]
        wanted = int(quota_G[group]) + overflow
        top = min(overflow, len(members))
        rest, highest = np.split(members, [len(members) - top])
        random = min(int(quota_G[group]), len(rest))
        drawn += [highest, draw_systematic(rest, source_N, rank_N, random, start_G[group])]
        overflow = wanted - top - random
    left = ranked_C[~np.isin(ranked_C, np.concatenate(drawn))]
    return np.concatenate([*drawn, left[len(left) - overflow :]])
