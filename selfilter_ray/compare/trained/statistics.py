"""Means over seeds and how sure they are.

Seeds are few, so intervals come from Student's t distribution; a difference to random is taken seed
by seed, since a seed is the same fresh model and the same order for all methods.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

# 97.5 % quantiles of the t distribution by degrees of freedom, from 1 on.
_QUANTILES = (
    *(12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216, 2.22814),
    *(2.20099, 2.17881, 2.16037, 2.14479, 2.13145, 2.11991, 2.10982, 2.10092, 2.09302, 2.08596),
)
_NORMAL = 1.959964


class Estimate(BaseModel):
    """A mean over seeds.

    Attributes:
        mean: None of no value.
        half: half the width of its 95 % interval; None of fewer than two values.
        seeds: how many values.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    mean: float | None
    half: float | None
    seeds: int

    @property
    def apart(self) -> bool:
        """Whether the interval leaves out zero; one without a width says nothing."""
        return self.mean is not None and bool(self.half) and abs(self.mean) > (self.half or 0.0)


def estimate(values: Sequence[float | None]) -> Estimate:
    """Of the known values."""
    known = [value for value in values if value is not None]
    if not known:
        return Estimate(mean=None, half=None, seeds=0)
    half = None
    if len(known) > 1:
        half = t_quantile(len(known) - 1) * statistics.stdev(known) / math.sqrt(len(known))
    return Estimate(mean=statistics.fmean(known), half=half, seeds=len(known))


def paired(values: Mapping[Any, float | None], others: Mapping[Any, float | None]) -> Estimate:
    """Of the differences to ``others``, over the keys that both know."""
    both = [key for key in values if values[key] is not None and others.get(key) is not None]
    return estimate([values[key] - others[key] for key in both])  # type: ignore[operator]


def t_quantile(freedom: int) -> float:
    """The 97.5 % quantile of Student's t distribution.

    Beyond the table, the expansion in the inverse of the degrees of freedom around the normal
    distribution (Abramowitz and Stegun 26.7.5); off by less than 1e-5 there.

    Args:
        freedom: degrees of freedom, at least 1.
    """
    if freedom <= len(_QUANTILES):
        return _QUANTILES[freedom - 1]
    z = _NORMAL
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / freedom + second / freedom**2 + third / freedom**3
