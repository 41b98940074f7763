"""The scored pool, as far as a new sample is compared with it.

Shapes: N samples of the pool, Q quantiles, B new samples.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.run_folder import RunFolder

QUANTILES = 10_001


class ScoredPool:
    """Weight and percentile of new samples among the difficulties of a pool.

    Args:
        difficulty_N: of the pool; NaN and Infinity are left out.

    Attributes:
        least: the least difficulty of the pool.
    """

    def __init__(self, difficulty_N: np.ndarray) -> None:
        sorted_N = np.sort(difficulty_N[np.isfinite(difficulty_N)].astype(np.float64))
        if not len(sorted_N):
            raise ArtifactError("the scored pool has no difficulty: run the score stage again.")
        self.least = float(sorted_N[0])
        self._rows = len(sorted_N)
        # Of a larger pool not every difficulty is kept, but enough of them in equal steps.
        steps = np.linspace(0, self._rows - 1, min(self._rows, QUANTILES))
        self._rank_Q = np.rint(steps).astype(np.int64)
        self._quantile_Q = sorted_N[self._rank_Q]
        exponent_N = np.exp(self.least - sorted_N)
        self._log_mean = float(np.log(exponent_N.mean())) - self.least

    def weight(self, difficulty_B: np.ndarray) -> np.ndarray:
        """(B,) exp(z) over the mean of exp(z) in the pool, where z is minus difficulty.

        Finite: beyond the largest float64, that.
        """
        with np.errstate(over="ignore"):
            weight_B = np.exp(-difficulty_B.astype(np.float64) - self._log_mean)
        result: np.ndarray = np.minimum(weight_B, np.finfo(np.float64).max)
        return result

    def percentile(self, difficulty_B: np.ndarray) -> np.ndarray:
        """(B,) share of the pool that is easier, 0 to 100.

        Exact up to ``QUANTILES`` samples of the pool; beyond, too large by less than 0.01.
        """
        place_B = np.searchsorted(self._quantile_Q, difficulty_B.astype(np.float64), side="left")
        ranks = np.append(self._rank_Q, self._rows)
        percentile: np.ndarray = 100.0 * ranks[place_B] / self._rows
        return percentile


def load_pool(folder: RunFolder) -> ScoredPool:
    """The pool of a run.

    Raises:
        ConfigError: when it has not been scored by the score net.
        ArtifactError: when its scores are missing or damaged.
    """
    folder.require("score")
    try:
        columns = pq.read_schema(folder.scores).names
        if "difficulty" not in columns:
            raise ConfigError(f"{folder.scores} has no difficulty: run score after train.")
        difficulty_N = pq.read_table(folder.scores, columns=["difficulty"])["difficulty"].to_numpy()
        return ScoredPool(np.asarray(difficulty_N, np.float32))
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(f"{folder.scores} cannot be read ({error}): run score again.") from None
