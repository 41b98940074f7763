"""The contact sheet of a comparison: what each method ranked first."""

from __future__ import annotations

from dataclasses import dataclass

from selfilter_ray.compare.result import Comparison
from selfilter_ray.config import LimitsConfig, ReportConfig
from selfilter_ray.report.cards import Card, CardMaker
from selfilter_ray.report.tables import load_tables
from selfilter_ray.run_folder import RunFolder

SHOWN = 6


@dataclass(frozen=True, slots=True)
class FirstPicks:
    """The first picks of a method, best first."""

    number: int
    label: str
    cards: tuple[Card, ...]


def first_picks(
    folder: RunFolder, comparison: Comparison, config: ReportConfig, limits: LimitsConfig
) -> list[FirstPicks]:
    """A row a method. Methods often agree on their first picks: each card is made once."""
    ids = list(
        dict.fromkeys(id for method in comparison.methods for id in method.first_picks[:SHOWN])
    )
    maker = CardMaker(folder, load_tables(folder), ids, limits)
    cards = {id: maker.make(id, config.thumbnail_pixels) for id in ids}
    return [
        FirstPicks(number, method.label, tuple(cards[id] for id in method.first_picks[:SHOWN]))
        for number, method in enumerate(comparison.methods, start=1)
    ]
