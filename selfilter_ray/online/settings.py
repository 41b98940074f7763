"""The settings of online selection. Imports nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from selfilter_ray.strict import Positive, Strict

DEFAULT_RATE = 0.15
# Who proposes neighbours: it changes the cost, never a decision.
SearchName = Literal["exact", "faiss", "faiss-gpu"]


class OnlineSettings(Strict):
    """How samples are admitted from a stream.

    Attributes:
        rate: share of the arriving samples to admit; 15 % where ``budget`` is not set either.
        budget: keep at most so many; a better sample takes the place of the weakest.
        gamma, k_nearest: strength of the penalty, and how many kept neighbours make it.
        neighbour_difficulty: what a kept neighbour weighs: its difficulty (``base``), or what was
            left of it when it was admitted (``admitted``; with ``rate`` only).
        difficulty: ``shifted`` subtracts ``base``; ``raw`` takes the values as they are.
        base: None takes the least difficulty of the scored pool.
        near_duplicate: a cosine to a kept sample from which on a sample is refused whatever its
            difficulty; None for no limit.
        window: how many of the last adjusted difficulties the threshold is a quantile of.
        slack: how many admissions the count may run ahead of, or behind, the wanted rate.
    """

    rate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    budget: Positive | None = None
    gamma: Annotated[float, Field(ge=0.0)] = 1.0
    k_nearest: Annotated[int, Field(ge=0)] = 1
    neighbour_difficulty: Literal["base", "admitted"] = "base"
    difficulty: Literal["shifted", "raw"] = "shifted"
    base: float | None = None
    near_duplicate: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    window: Positive = 2048
    slack: Annotated[float, Field(ge=1.0)] = 50.0

    @model_validator(mode="after")
    def _one_rule(self) -> OnlineSettings:
        if self.rate is not None and self.budget is not None:
            raise ValueError("give rate or budget, not both")
        if self.budget is not None and self.neighbour_difficulty == "admitted":
            raise ValueError("neighbour_difficulty: admitted goes with rate: take base with budget")
        if self.difficulty == "raw" and self.base is not None:
            raise ValueError("base goes with difficulty: shifted; leave it out with raw")
        return self

    @property
    def wanted_rate(self) -> float:
        """The share to admit, where there is no budget."""
        return DEFAULT_RATE if self.rate is None else self.rate
