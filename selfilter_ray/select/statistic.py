"""Methods that rank by one statistic of the scoring pass.

- EL2N (Paul et al. 2021, arXiv 2107.07075): mean over the answer of |p - onehot(y)|.
- GraNd (the same paper): norm of the gradient of the sample's loss.
- Loss: mean token loss; its exponential is the perplexity.
- IFD (arXiv 2308.12032), PreSel's ratio (arXiv 2503.07591): L(a|q,v) / L(a|v), how little the
  question helps.
- Visual gain (VisNec, MAGIC): L(a|q) - L(a|q,v), how much the image helps; below 0 it misleads.

A sample without supervised tokens has none of them, nor has a ratio over 0 a value: those rank
last (ours).

Shapes: N samples.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.ranking import ranked, select_ranked
from selfilter_ray.select.settings import (
    El2nSettings,
    GrandSettings,
    IfdSettings,
    LossSettings,
    VisualGainSettings,
)

StatisticSettings = El2nSettings | GrandSettings | LossSettings | IfdSettings | VisualGainSettings

COLUMNS: Mapping[str, tuple[str, ...]] = {
    "el2n": ("el2n",),
    "grand": ("grand",),
    "loss": ("loss",),
    "ifd": ("loss", "loss_no_question"),
    "visual_gain": ("loss_no_image", "loss"),
}


def statistic_needs(settings: StatisticSettings) -> Needs:
    return Needs(columns_with_gaps=_columns(settings))


def select_statistic(pool: Pool, budget: int, seed: int, settings: StatisticSettings) -> Selection:
    """The ``budget`` samples at the top, in the middle or at the bottom of the statistic."""
    value_N, *others = (pool.columns[column] for column in _columns(settings))
    if settings.method == "ifd":
        value_N = ratio(value_N, others[0])
    elif settings.method == "visual_gain":
        value_N = value_N - others[0]
    return select_ranked(pool, ranked(value_N, settings.keep), value_N, budget, seed)


def ratio(above_N: np.ndarray, below_N: np.ndarray) -> np.ndarray:
    """(N,) float64, NaN where the lower one is not above 0."""
    return np.divide(above_N, below_N, out=np.full(len(above_N), np.nan), where=below_N > 0)


def _columns(settings: StatisticSettings) -> tuple[str, ...]:
    return tuple(f"{settings.model}_{column}" for column in COLUMNS[settings.method])
