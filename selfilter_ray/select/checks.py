"""What must hold of a pool before any method sees it.

Shapes: N samples, D features.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.select.contract import Needs, Pool
from selfilter_ray.select.grid import chunks


def check_pool(pool: Pool, needs: Needs) -> None:
    """Ids in order, and everything needed there and finite.

    Raises:
        DataError: saying what is wrong and what to do.
    """
    samples = len(pool.ids)
    if not (pool.ids[:-1] < pool.ids[1:]).all():
        raise DataError("the pool's ids must be distinct and sorted: make the pool with pool_of.")
    if len(pool.sources) != samples:
        raise DataError(f"the pool has {samples} ids but {len(pool.sources)} sources.")
    if needs.features:
        _check_features(pool, samples)
    for name in needs.columns:
        _check_column(pool, name, with_gaps=False)
    for name in needs.columns_with_gaps:
        _check_column(pool, name, with_gaps=True)


def check_budget(budget: int, samples: int) -> None:
    """From 0 to N.

    Raises:
        ConfigError: with what is possible.
    """
    if not 0 <= budget <= samples:
        raise ConfigError(
            f"the budget is {budget}, but it must be from 0 to the {samples} usable samples."
        )


def _check_features(pool: Pool, samples: int) -> None:
    if pool.features_ND is None:
        raise DataError("the method needs features: run featurize first.")
    if pool.features_ND.ndim != 2 or len(pool.features_ND) != samples:
        raise DataError(
            f"the features have shape {pool.features_ND.shape}, not ({samples}, D): they belong to "
            "another pool; run featurize again."
        )
    bad = sum(
        int((~np.isfinite(pool.features_ND[chunk])).any(axis=1).sum()) for chunk in chunks(samples)
    )
    if bad:
        raise DataError(
            f"{bad} of {samples} samples have NaN or Infinity in their features: run featurize "
            "again, or leave those samples out."
        )


def _check_column(pool: Pool, name: str, with_gaps: bool) -> None:
    samples = len(pool.ids)
    if name not in pool.columns:
        raise DataError(
            f"the method needs the column {name}, which nothing has computed yet: run the pass "
            f"that does. There are: {', '.join(sorted(pool.columns)) or 'none'}."
        )
    value_N = pool.columns[name]
    if value_N.shape != (samples,):
        raise DataError(f"the column {name} has shape {value_N.shape}, not ({samples},).")
    missing = int(np.isnan(value_N).sum())
    infinite = int(np.isinf(value_N).sum())
    if infinite or (missing and not with_gaps) or missing == samples:
        raise DataError(
            f"the column {name} is NaN for {missing} and infinite for {infinite} of {samples} "
            "samples: run the pass that computes it again, or leave those samples out."
        )
