"""How much a seed model still needs each sample: the first half of MLLM-Selector.

f_pre is the model before instruction tuning, f_seed the one tuned on the seed set; L is the mean
token loss of the answer a given question q and image v. More is more needed.

Shapes: N samples.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Pool
from selfilter_ray.select.random_draw import source_numbers
from selfilter_ray.select.statistic import ratio

COLUMNS = {
    "mean": ("seed_loss",),
    "sum": ("seed_loss_sum",),
    "gain": ("pre_loss", "seed_loss"),
    "ratio": ("seed_loss", "pre_loss"),
    "conditional": ("seed_loss", "seed_loss_no_question"),
    "task_z": ("seed_loss",),
}


def necessity(pool: Pool, kind: str) -> np.ndarray:
    """(N,) float64, NaN for a sample without supervised tokens or with a ratio over 0.

    ``mean``: L under f_seed. ``sum``: that times the tokens. ``gain``: L under f_pre - L under
    f_seed. ``ratio``: L under f_seed / L under f_pre. ``conditional``: L(a|q,v) / L(a|v), both
    under f_seed. ``task_z``: L under f_seed, standardised inside the sample's source; 0 in a source
    where all are equal.
    """
    first_N, *others = (pool.columns[column] for column in COLUMNS[kind])
    if kind == "gain":
        return first_N - others[0]
    if kind in ("ratio", "conditional"):
        return ratio(first_N, others[0])
    return _standardised(pool, first_N) if kind == "task_z" else first_N


def _standardised(pool: Pool, value_N: np.ndarray) -> np.ndarray:
    names, source_N = source_numbers(pool)
    standard_N = np.full(len(value_N), np.nan)
    for source in range(len(names)):
        rows = np.flatnonzero((source_N == source) & ~np.isnan(value_N))
        if len(rows):
            off = value_N[rows] - value_N[rows].mean()
            # Equal values may miss their mean by a rounding: their spread is 0 all the same.
            spread = off.std() if np.ptp(value_N[rows]) else 0.0
            standard_N[rows] = off / spread if spread else 0.0
    return standard_N
