"""Cutting a stream of bytes into lines without holding a line that is too long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Line:
    """Attributes: number: from 1, blank lines counted; text: None when it was too long."""

    number: int
    text: bytes | None


class LineCutter:
    """Lines out of chunks; blank ones are left out.

    Args:
        limit: bytes of a line, its end left out.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = bytearray()
        self._dropping = False
        self._number = 0

    def feed(self, chunk: bytes) -> Iterator[Line]:
        """The lines that end in the chunk."""
        *ended, rest = chunk.split(b"\n")
        for part in ended:
            self._take(part)
            yield from self.finish()
        self._take(rest)

    def finish(self) -> Iterator[Line]:
        """The line that has begun; call it also when the stream ends."""
        self._number += 1
        text = bytes(self._held).removesuffix(b"\r")
        dropped = self._dropping or len(text) > self._limit
        self._held, self._dropping = bytearray(), False
        if dropped:
            yield Line(self._number, None)
        elif text and not text.isspace():
            yield Line(self._number, text)

    def _take(self, part: bytes) -> None:
        if self._dropping:
            return
        # One more, for the carriage return before the line feed.
        if len(self._held) + len(part) > self._limit + 1:
            self._held, self._dropping = bytearray(), True
        else:
            self._held += part
