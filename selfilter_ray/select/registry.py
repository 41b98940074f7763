"""Every selection method by its name, and the one way to call them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from selfilter_ray.select import (
    alpagasus,
    coido,
    coincide,
    d2,
    mllm_selector,
    prototypicality,
    random_draw,
    scores,
    selfilter,
    selfilter_grouped,
    semdedup,
    statistic,
)
from selfilter_ray.select import settings as config
from selfilter_ray.select.checks import check_budget, check_pool
from selfilter_ray.select.contract import Method, Needs, Pool, Selection


def _method(
    title: str,
    source: str,
    settings: type[config.MethodSettings],
    select: Callable[..., Selection],
    needs: Callable[..., Needs],
) -> Method:
    return Method(settings.model_fields["method"].default, title, source, settings, select, needs)


_STATISTIC = (statistic.select_statistic, statistic.statistic_needs)
_SCORE = (scores.select_score, scores.score_needs)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            "selfilter",
            "Self-Filter",
            "arXiv 2402.12501",
            config.SelfilterSettings,
            selfilter.select_selfilter,
            selfilter.selfilter_needs,
            reports_picks=True,
            seeded=lambda pool, settings: False,
        ),
        _method(
            "Self-Filter, grouped",
            "ours",
            config.SelfilterGroupedSettings,
            selfilter_grouped.select_selfilter_grouped,
            selfilter_grouped.selfilter_grouped_needs,
        ),
        _method(
            "MLLM-Selector",
            "arXiv 2503.20502, our reading",
            config.MllmSelectorSettings,
            mllm_selector.select_mllm_selector,
            mllm_selector.mllm_selector_needs,
        ),
        _method(
            "Random",
            "baseline",
            config.RandomSettings,
            random_draw.select_random,
            random_draw.random_needs,
        ),
        _method("EL2N", "arXiv 2107.07075", config.El2nSettings, *_STATISTIC),
        _method("GraNd", "arXiv 2107.07075", config.GrandSettings, *_STATISTIC),
        _method("Loss", "baseline", config.LossSettings, *_STATISTIC),
        _method("IFD", "arXiv 2308.12032", config.IfdSettings, *_STATISTIC),
        _method("Visual gain", "VisNec, MAGIC", config.VisualGainSettings, *_STATISTIC),
        _method("CLIP score", "arXiv 2104.08718", config.ClipScoreSettings, *_SCORE),
        _method("ImageReward", "arXiv 2304.05977", config.ImageRewardSettings, *_SCORE),
        _method("LLM judge", "arXiv 2402.12501", config.JudgeSettings, *_SCORE),
        Method(
            "alpagasus",
            "Alpagasus",
            "arXiv 2307.08701",
            config.AlpagasusSettings,
            alpagasus.select_alpagasus,
            alpagasus.alpagasus_needs,
            own_size=alpagasus.count_reaching,
        ),
        _method(
            "Prototypicality",
            "arXiv 2206.14486",
            config.PrototypicalitySettings,
            prototypicality.select_prototypicality,
            prototypicality.cluster_needs,
        ),
        _method(
            "SemDeDup",
            "arXiv 2303.09540",
            config.SemDeDupSettings,
            semdedup.select_semdedup,
            prototypicality.cluster_needs,
        ),
        Method(
            "d2",
            "D2 pruning",
            "arXiv 2310.07931",
            config.D2Settings,
            d2.select_d2,
            d2.d2_needs,
            seeded=d2.has_gaps,
        ),
        _method(
            "COINCIDE",
            "arXiv 2406.10995",
            config.CoincideSettings,
            coincide.select_coincide,
            prototypicality.cluster_needs,
        ),
        _method(
            "CoIDO", "arXiv 2510.17847", config.CoidoSettings, coido.select_coido, coido.coido_needs
        ),
    )
}


def method_of(settings: config.MethodSettings) -> Method:
    """The registry's entry for the settings."""
    return METHODS[type(settings).model_fields["method"].default]


def needs_of(settings: config.MethodSettings) -> Needs:
    """What the method reads under these settings."""
    return method_of(settings).needs(settings)


def select(
    pool: Pool,
    budget: int | None,
    seed: int,
    settings: config.MethodSettings,
    progress: Callable[[int], None] = lambda picks: None,
) -> Selection:
    """Choose ``budget`` samples by the method that the settings name.

    Args:
        pool: sorted by id (``pool_of``), with what ``needs_of(settings)`` says.
        budget: from 0 to N; None takes it from the settings.
        seed: of all random choices.
        settings: of a method; ``parse_method`` makes them.
        progress: told the number of picks made, once in a while.

    Raises:
        ConfigError: for a budget that cannot be met.
        DataError: for values that are missing or not finite.
    """
    method = method_of(settings)
    check_pool(pool, method.needs(settings))
    if budget is None:
        budget = _own_budget(pool, method, settings)
    check_budget(budget, len(pool.ids))
    if budget == 0:
        return Selection(np.empty(0, dtype=np.int64), np.empty(0))
    if method.reports_picks:
        return method.select(pool, budget, seed, settings, progress)
    selection = method.select(pool, budget, seed, settings)
    progress(budget)
    return selection


def _own_budget(pool: Pool, method: Method, settings: config.MethodSettings) -> int:
    count = settings.count(len(pool.ids))
    if count is None:
        assert method.own_size is not None
        return method.own_size(pool, settings)
    return count
