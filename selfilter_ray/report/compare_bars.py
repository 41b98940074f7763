"""The bars of the comparison: sources that make up each selection, and what each method costs."""

from __future__ import annotations

from dataclasses import dataclass

from selfilter_ray.compare.result import Comparison, MethodResult
from selfilter_ray.report.figures import duration, share

SHOWN_SOURCES = 7


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a bar, in percent of the full width; ``kind`` is the number of its colour."""

    x: float
    width: float
    kind: int
    title: str


@dataclass(frozen=True, slots=True)
class SourceBar:
    """A selection, or the pool as the first bar (number 0)."""

    number: int
    label: str
    pieces: tuple[Piece, ...]
    kl: float | None


@dataclass(frozen=True, slots=True)
class SourceBars:
    """All bars, and the names of the sources in the order of the pieces."""

    names: tuple[str, ...]
    bars: tuple[SourceBar, ...]


@dataclass(frozen=True, slots=True)
class CostBar:
    """Seconds of a method: of the passes that it needs first, and of selecting."""

    number: int
    label: str
    passes: tuple[tuple[str, float], ...]
    before: float
    selecting: float
    before_width: float
    selecting_width: float
    title: str


def source_bars(comparison: Comparison) -> SourceBars:
    """The largest sources of the pool, the rest taken together as the last piece."""
    names = comparison.pool.sources[:SHOWN_SOURCES]
    others = len(comparison.pool.sources) > SHOWN_SOURCES
    titles = (*names, "all others") if others else tuple(names)
    bars = [_source_bar(0, "pool", comparison.pool.shares["sources"], titles, None)]
    for number, method in enumerate(comparison.methods, start=1):
        kl = method.metrics["source_kl"].mean
        bars.append(_source_bar(number, method.label, method.shares["sources"], titles, kl))
    return SourceBars(titles, tuple(bars))


def _source_bar(
    number: int, label: str, shares: list[float], titles: tuple[str, ...], kl: float | None
) -> SourceBar:
    parts = shares[:SHOWN_SOURCES]
    if len(titles) > SHOWN_SOURCES:
        parts = [*parts, sum(shares[SHOWN_SOURCES:])]
    pieces, x = [], 0.0
    for kind, (title, part) in enumerate(zip(titles, parts, strict=True)):
        if part > 0:
            pieces.append(Piece(x, 100 * part, kind, f"{label}: {title}, {share(part, 1.0)}"))
        x += 100 * part
    return SourceBar(number, label, tuple(pieces), kl)


def cost_bars(comparison: Comparison) -> tuple[CostBar, ...]:
    """One bar a method, all on one scale."""
    totals = [sum(method.cost.values()) + _selecting(method) for method in comparison.methods]
    longest = max(totals, default=0.0) or 1.0
    return tuple(
        _cost_bar(number, method, longest)
        for number, method in enumerate(comparison.methods, start=1)
    )


def _cost_bar(number: int, method: MethodResult, longest: float) -> CostBar:
    before, selecting = sum(method.cost.values()), _selecting(method)
    passes = tuple(method.cost.items())
    parts = [f"{name} {duration(seconds)}" for name, seconds in passes]
    return CostBar(
        number=number,
        label=method.label,
        passes=passes,
        before=before,
        selecting=selecting,
        before_width=100 * before / longest,
        selecting_width=100 * selecting / longest,
        title=f"{method.label}: {', '.join([*parts, f'selecting {duration(selecting)}'])}",
    )


def _selecting(method: MethodResult) -> float:
    return method.seconds.mean or 0.0
