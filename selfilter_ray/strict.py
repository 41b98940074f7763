"""The base of every config section."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field

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
