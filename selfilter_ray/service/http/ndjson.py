"""Lines of JSON."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pydantic_core

MEDIA_TYPE = "application/x-ndjson"


def ndjson(records: Iterable[dict[str, Any]]) -> bytes:
    """One line a record, each with its line feed."""
    return b"".join(
        pydantic_core.to_json(record, inf_nan_mode="null") + b"\n" for record in records
    )
