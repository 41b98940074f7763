"""One record type for every input format.

A record is one conversation about zero or more images. What the file said is kept verbatim in
``Sample.record``; everything else is what the stages need.
"""

from __future__ import annotations

from dataclasses import dataclass

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
IMAGE_TOKEN = "<image>"


@dataclass(frozen=True, slots=True)
class Turn:
    """One utterance. ``role`` is ``user``, ``assistant`` or ``system``."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One usable record of the pool.

    Attributes:
        id: unique within the pool.
        source: the part of the mixture it came from, for shares and stratification.
        turns: the conversation; ``<image>`` marks where an image stands.
        images: paths of the image files, in the order of their marks; empty for text only.
        locator: where the record stands in the input, ``file#row``.
        record: the record as the input had it (JSON text).
    """

    id: str
    source: str
    turns: tuple[Turn, ...]
    images: tuple[str, ...]
    locator: str
    record: str

    @property
    def answer_characters(self) -> int:
        """Length of all answers together, in characters."""
        return sum(len(turn.text) for turn in self.turns if turn.role == ASSISTANT)


def scorer_text(turns: tuple[Turn, ...]) -> str:
    """All turns in one line, ``USER: ... ASSISTANT: ...``, without image marks (Self-Filter)."""
    names = {USER: "USER", ASSISTANT: "ASSISTANT", SYSTEM: "SYSTEM"}
    parts = [f"{names[turn.role]}: {_without_image_marks(turn.text)}" for turn in turns]
    return " ".join(parts)


def _without_image_marks(text: str) -> str:
    return " ".join(text.replace(IMAGE_TOKEN, " ").split())
