"""The section ``compare.train`` of a config: what ``compare --train`` tunes and evaluates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator

from selfilter_ray.errors import ConfigError
from selfilter_ray.evaluate.settings import EvaluateConfig
from selfilter_ray.strict import ActorsConfig, Place, Positive, Strict

Share = Annotated[float, Field(gt=0.0, le=1.0)]
Budgets = tuple[Positive | Share, ...]


class LeadersConfig(Strict):
    """Further budgets for the methods that come out best: ``methods`` of them, and random."""

    budgets: Annotated[Budgets, Field(min_length=1)] = (0.5,)
    methods: Positive = 3


class TrainedConfig(ActorsConfig):
    """Every method, budget and seed of ``compare``: tune the same fresh model, then evaluate it.

    ``held_out``: records that no method may choose, and no model sees before it is evaluated.
    ``budgets``: numbers of records, or shares of the pool.
    ``steps``: optimizer steps of every tuning; null takes those of ``tune`` over the whole pool,
    ``own`` those of ``tune`` over what was chosen, which differ between budgets.
    ``blind``: also tune on the whole pool without its pictures: what questions alone tell.
    ``truth``: a table of which records are planted (``known_truth``), to count those picked.
    ``runner``: ``actors`` tune one model in a process each, ``actors`` of them side by side;
    ``train`` tunes one after the other on Ray Train, with the workers of ``train``.
    ``pictures_mib``: memory of an actor for pictures that come again.
    """

    speed_only = frozenset({"actors", "cpus_per_actor", "runner", "pictures_mib"})

    held_out: tuple[Place, ...] = ()
    image_root: Place | None = None
    budgets: Annotated[Budgets, Field(min_length=1)] = (0.05, 0.15)
    leaders: LeadersConfig | None = None
    steps: Positive | Literal["own"] | None = None
    blind: bool = True
    truth: Place | None = None
    evaluate: EvaluateConfig = EvaluateConfig()
    runner: Literal["actors", "train"] = "actors"
    pictures_mib: Positive = 1024

    @field_validator("budgets")
    @classmethod
    def _distinct(cls, budgets: Budgets) -> Budgets:
        if len(set(budgets)) < len(budgets):
            raise ValueError("each budget counts once: remove the repeated ones")
        return budgets

    def counts(self, rows: int) -> list[int]:
        """All budgets as numbers of records, the leaders' among them.

        Raises:
            ConfigError: as ``counts_of``.
        """
        leaders = () if self.leaders is None else self.leaders.budgets
        return counts_of((*self.budgets, *leaders), rows)


def counts_of(budgets: Budgets, rows: int) -> list[int]:
    """Numbers of records, ascending, each once.

    Raises:
        ConfigError: when one is larger than the pool, or nothing is left of it.
    """
    found = set()
    for budget in budgets:
        count = budget if isinstance(budget, int) else round(budget * rows)
        if not 1 <= count <= rows:
            raise ConfigError(
                f"compare.train.budgets: {budget} of {rows} usable records is {count}: give 1 to "
                f"{rows}, or a share of the pool."
            )
        found.add(count)
    return sorted(found)
