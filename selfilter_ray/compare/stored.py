"""What a comparison left as JSON, checked when it is read again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from selfilter_ray.errors import ArtifactError

Stored = TypeVar("Stored", bound=BaseModel)


def from_stored(kind: type[Stored], value: Any, format: int, what: str) -> Stored:
    """The value as ``kind``.

    Args:
        format: that this version reads.
        what: it is, for messages.

    Raises:
        ArtifactError: when it is none, or one of another version.
    """
    found = value.get("format") if isinstance(value, Mapping) else None
    if isinstance(found, int) and found != format:  # first: the rest may look different
        raise ArtifactError(
            f"the comparison has format {found}, this version reads {format}: compare again."
        )
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise ArtifactError(
            f"this is not {what} ({place}: {first['msg']}): compare again."
        ) from None
