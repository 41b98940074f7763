"""CoIDO (arXiv 2510.17847): rank by a score net that has learned importance and diversity together.

The paper ranks the scores directly; its release gives each source its share of the budget and takes
the highest scores of each. ``quota: source`` is the release, with shares by largest remainder
(ours: the release rounds down and gives the rest to the largest source).

Shapes: N samples, G sources.
"""

from __future__ import annotations

import numpy as np

from selfilter_ray.select.contract import Needs, Pool, Selection
from selfilter_ray.select.quotas import draw_stratified
from selfilter_ray.select.random_draw import source_numbers
from selfilter_ray.select.ranking import ranked
from selfilter_ray.select.settings import CoidoSettings

COLUMN = "coido_score"


def coido_needs(settings: CoidoSettings) -> Needs:
    return Needs(columns=(COLUMN,))


def select_coido(pool: Pool, budget: int, seed: int, settings: CoidoSettings) -> Selection:
    """The ``budget`` samples of the highest score, overall or source by source."""
    score_N = pool.columns[COLUMN]
    names, source_N = source_numbers(pool)
    if settings.quota == "none":
        source_N = np.zeros_like(source_N)
    order = ranked(score_N)
    rank_N = np.empty(len(order), dtype=np.int64)
    rank_N[order] = np.arange(len(order))
    indices = draw_stratified(np.arange(len(order)), source_N, rank_N, budget)
    return Selection(indices, score_N[indices], {"sources": len(names)})
