"""Stage 2 of Self-Filter (arXiv 2402.12501): the hardest sample, then a penalty on its neighbours.

Repeated until the budget is spent: the remaining sample i with the highest difficulty is picked;
each of its k nearest remaining samples j, by cosine, becomes easier:

    d_j <- d_j - gamma * d_i * cos(x_i, x_j)^2        with d_i as it is at the pick

Ties, in difficulty and in similarity, go to the sample that stands first. A fast matrix product
only proposes neighbours; their order and the penalty come from cosines summed in a fixed order
(``select.cosine``), so neither the BLAS library, nor FAISS, nor the number of threads can change a
pick.

Shapes: N samples, D features.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import numpy as np

from selfilter_ray.select.cosine import squares
from selfilter_ray.select.greedy import Picks, pick_greedily
from selfilter_ray.select.neighbours.backends import BackendName, local_search
from selfilter_ray.select.neighbours.recall import recall
from selfilter_ray.select.sites import Sites, row_digests

__all__ = ["BackendName", "Difficulty", "Picks", "base_difficulty", "select_diverse"]

Difficulty = Literal["shifted", "raw"]


def select_diverse(
    features_ND: np.ndarray,
    difficulty_N: np.ndarray,
    budget: int,
    gamma: float = 1.0,
    k_nearest: int = 10,
    difficulty: Difficulty = "shifted",
    progress: Callable[[int], None] = lambda picks: None,
    backend: BackendName = "exact",
) -> Picks:
    """Pick ``budget`` samples that are hard and unlike each other.

    Args:
        features_ND: any real type; rows need not be normalised. A zero row is similar to nothing.
        difficulty_N: higher is harder.
        budget: from 0 to N.
        gamma: strength of the penalty, at least 0.
        k_nearest: how many neighbours a pick pushes down, at least 0.
        difficulty: ``shifted`` subtracts the minimum once, so that no sample starts
            below zero and rewards its neighbours (ours); ``raw`` takes the values as they are (the
            release).
        progress: told the number of picks made, once in a while.
        backend: what proposes neighbours. ``exact`` (this CPU), ``torch`` (a GPU when there is
            one), ``faiss-flat`` and ``faiss-gpu`` give the same picks; ``faiss-ivf`` may miss
            neighbours, and says in ``recall`` how many it finds.

    Raises:
        ValueError: for shapes that do not match, NaN or Infinity, or arguments out of range.
        ConfigError: when the backend is not installed or finds no GPU.
    """
    features_ND = _checked(features_ND, difficulty_N)
    base_N = base_difficulty(difficulty_N, budget, gamma, k_nearest, difficulty)
    sites = Sites.of(row_digests(features_ND))
    features_UD = features_ND if sites.all_distinct else features_ND[sites.first_U]
    search = local_search(backend, features_UD, squares(features_UD))
    picks = pick_greedily(search, sites, base_N, budget, gamma, k_nearest, progress)
    if not search.approximate:
        return picks
    return replace(picks, recall=recall(search, k_nearest))


def base_difficulty(
    difficulty_N: np.ndarray,
    budget: int,
    gamma: float,
    k_nearest: int,
    difficulty: str,
) -> np.ndarray:
    """(N,) float64 difficulties before any penalty, as ``select_diverse`` starts from them.

    Raises:
        ValueError: for NaN or Infinity, or arguments out of range.
    """
    base_N = np.array(difficulty_N, dtype=np.float64)
    if base_N.ndim != 1 or not np.isfinite(base_N).all():
        raise ValueError("difficulty must be one finite number a sample: remove NaN and Infinity")
    if not 0 <= budget <= len(base_N):
        raise ValueError(f"budget must be from 0 to {len(base_N)}, not {budget}")
    if not (gamma >= 0 and math.isfinite(gamma)) or k_nearest < 0:
        raise ValueError(f"gamma and k_nearest must be at least 0, not {gamma} and {k_nearest}")
    if difficulty == "shifted":
        base_N -= base_N.min(initial=np.inf) if len(base_N) else 0.0
    elif difficulty != "raw":
        raise ValueError(f"difficulty must be 'shifted' or 'raw', not {difficulty!r}")
    return base_N


def _checked(features_ND: np.ndarray, difficulty_N: np.ndarray) -> np.ndarray:
    features_ND = np.ascontiguousarray(features_ND, dtype=np.float32)
    if features_ND.ndim != 2 or np.shape(difficulty_N) != (len(features_ND),):
        raise ValueError(
            f"features_ND must be (N, D) and difficulty_N (N,), not {features_ND.shape} "
            f"and {np.shape(difficulty_N)}"
        )
    if not np.isfinite(features_ND).all():
        raise ValueError("features must be finite: remove NaN and Infinity")
    return features_ND
