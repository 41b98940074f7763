"""One row of an input on its way to the service."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfilter_ray.samples.quarantine import REMEDIES, BadRow


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a row was not sent."""

    code: str
    detail: str
    remedy: str

    @classmethod
    def of(cls, error: BadRow) -> Fault:
        """The fault of a row that has no place in a pool either."""
        return cls(error.reason, error.detail[:500], REMEDIES[error.reason])


@dataclass(frozen=True, slots=True)
class Row:
    """A row of an input.

    Attributes:
        number: of the row, counted from 0 as the reader counts; never less than before it.
        locator: where it stands, ``file#row``.
        line: the sample as a line of NDJSON, without its line feed.
        id: where it is known before the service answers.
        fault: why it cannot be sent; ``line`` is empty then.
    """

    number: int
    locator: str
    line: bytes = b""
    id: str | None = None
    fault: Fault | None = None


@dataclass(frozen=True, slots=True)
class Source:
    """A file of rows.

    Attributes:
        file: it lies here.
        kind: how its rows are read: ``samples``, ``records`` or ``features``.
        rows: its rows from a number on.
        count: how many it has; None where only reading them all would tell.
    """

    file: Path
    kind: str
    rows: Callable[[int], Iterator[Row]]
    count: Callable[[], int | None]

    @property
    def identity(self) -> dict[str, Any]:
        """Tells the file from another one, or another content, of its name."""
        status = self.file.stat()
        return {"kind": self.kind, "bytes": status.st_size, "modified": status.st_mtime_ns}
