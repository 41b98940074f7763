"""The section ``compare`` of a config: which methods, seeds and budget."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from selfilter_ray.compare.trained.settings import TrainedConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.select.settings import MethodSettings, parse_method
from selfilter_ray.strict import Fraction, Strict

Seed = Annotated[int, Field(ge=0, lt=2**31)]


class CompareConfig(Strict):
    """Several methods side by side. Uniform random selection is always one of them.

    ``methods``: names, or mappings such as ``{method: el2n, keep: middle, label: mid EL2N}``; null
    takes every method that the run has what it needs for. ``budget`` or ``ratio``: how many to
    keep; null takes what ``select`` says. The spread over ``seeds`` says what a difference is
    worth. ``train``: what ``compare --train`` tunes on what each of them chose.
    """

    methods: Annotated[list[dict[str, Any]], Field(min_length=1)] | None = None
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0, 1, 2)
    budget: Annotated[int, Field(ge=0)] | None = None
    ratio: Fraction | None = None
    train: TrainedConfig = TrainedConfig()

    @field_validator("methods", mode="before")
    @classmethod
    def _known_methods(cls, methods: Any) -> Any:
        """Names become mappings; each must be what its method takes."""
        if not isinstance(methods, list):
            return methods
        return [_checked(method) for method in methods]

    @field_validator("seeds")
    @classmethod
    def _distinct(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError("each seed counts once: remove the repeated ones")
        return seeds

    @model_validator(mode="after")
    def _one_size(self) -> CompareConfig:
        if self.budget is not None and self.ratio is not None:
            raise ValueError("give budget or ratio, not both")
        return self

    def count(self, usable_rows: int, otherwise: int) -> int:
        """Number of records to keep of ``usable_rows``; ``otherwise`` when nothing is set here.

        Raises:
            ConfigError: when the budget is larger than the pool.
        """
        if self.ratio is not None:
            return min(usable_rows, round(self.ratio * usable_rows))
        if self.budget is None:
            return otherwise
        if self.budget > usable_rows:
            raise ConfigError(
                f"compare.budget is {self.budget}, but only {usable_rows} records are usable: "
                "lower the budget, or give compare.ratio instead."
            )
        return self.budget


def method_settings(mapping: Mapping[str, Any]) -> MethodSettings:
    """The settings of one item of ``methods``, whose label is not part of them.

    Raises:
        ConfigError: when its method does not take them.
    """
    return parse_method({name: value for name, value in mapping.items() if name != "label"})


def _checked(method: Any) -> dict[str, Any]:
    mapping = {"method": method} if isinstance(method, str) else method
    if not isinstance(mapping, Mapping) or "method" not in mapping:
        raise ValueError(f"give a method's name, or a mapping with the key method, not {method!r}")
    label = mapping.get("label")
    if label is not None and not (isinstance(label, str) and label.strip()):
        raise ValueError(f"label must be a text that is not empty, not {label!r}")
    own_size = {"budget", "ratio"} & mapping.keys()
    if own_size:
        raise ValueError(f"all methods keep the same number: give compare.{min(own_size)} instead")
    try:
        method_settings(mapping)
    except ConfigError as error:  # as a ValueError it gets its place in the config
        raise ValueError(str(error)) from None
    return dict(mapping)
