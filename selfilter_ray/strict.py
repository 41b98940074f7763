"""The bases of config sections."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from selfilter_ray.storage.places import checked

# A local path, or a URI of a known store.
Place = Annotated[str, AfterValidator(checked)]
Positive = Annotated[int, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


class Strict(BaseModel):
    """A config section. Fields named in ``speed_only`` cannot change a result, only its cost."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )
    speed_only: ClassVar[frozenset[str]] = frozenset()

    def result_fields(self) -> dict[str, Any]:
        """The settings that decide the result: what a finished stage is recognised by."""
        return {
            name: value.result_fields() if isinstance(value, Strict) else value
            for name, value in self
            if name not in self.speed_only
        }


class ActorsConfig(Strict):
    """A pass over the pool on Ray Data actors: a number of them, or [fewest, most]."""

    speed_only = frozenset({"actors"})

    actors: Positive | tuple[Positive, Positive] = 1
    cpus_per_actor: Positive = 1
    gpus_per_actor: Annotated[float, Field(ge=0.0)] | None = None

    @model_validator(mode="after")
    def _actor_range(self) -> ActorsConfig:
        if isinstance(self.actors, tuple) and self.actors[0] > self.actors[1]:
            raise ValueError("actors: [min, max] needs min <= max")
        return self
