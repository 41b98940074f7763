"""The questions of easy-vqa: their types, their wordings, and wrong answers of the right type."""

from __future__ import annotations

import re
from functools import lru_cache

import numpy as np

SHAPES = ("circle", "rectangle", "triangle")
COLORS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
TRUTHS = ("no", "yes")

PRESENCE = (
    "is there a {}?",
    "is there a {} in the image?",
    "is a {} present?",
    "does the image contain a {}?",
)
ABSENCE = (
    "is there not a {}?",
    "is there not a {} in the image?",
    "is no {} present?",
    "does the image not contain a {}?",
)
COLOR = ("what color is the {}?", "what is the color of the {}?")
SHAPE = (
    "what shape is in the image?",
    "what shape does the image contain?",
    "what shape is present?",
)
# The data set has one wording only of this; the other two are ours.
SHAPE_OF_COLOR = ("what is the {} shape?", "which shape is {}?", "what shape is {}?")

# In this order: "what is the color of the shape?" would also fit the last.
WORDINGS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("presence", PRESENCE),
    ("absence", ABSENCE),
    ("color", COLOR),
    ("shape", SHAPE),
    ("shape", SHAPE_OF_COLOR),
)


def question_type(question: str) -> str:
    """``presence``, ``absence``, ``color`` or ``shape``.

    Raises:
        ValueError: for a question of another form.
    """
    return _found(question)[0]


def reworded(question: str, random: np.random.Generator) -> str:
    """Another wording of the same question, of the same answer.

    Raises:
        ValueError: for a question of another form.
    """
    _, wordings, thing = _found(question)
    others = [other for wording in wordings if (other := wording.format(thing)) != question]
    return str(random.choice(others))


def wrong_answer(answer: str, random: np.random.Generator) -> str:
    """Another answer of the same type: a shape for a shape, ``no`` for ``yes``.

    Raises:
        ValueError: for an answer that the data set does not have.
    """
    for answers in (SHAPES, COLORS, TRUTHS):
        if answer in answers:
            return str(random.choice([other for other in answers if other != answer]))
    raise ValueError(f"{answer!r} is no answer of easy-vqa")


def told(question: str, answer: str) -> set[str]:
    """The colors and shapes that the picture has, by a question and its right answer.

    Raises:
        ValueError: for a question of another form.
    """
    name, _, thing = _found(question)
    words = {answer}
    if name not in ("presence", "absence") or (name == "presence") == (answer == "yes"):
        words.update(thing.split())
    return words & {*COLORS, *SHAPES}


@lru_cache(maxsize=4096)  # a few hundred questions are asked tens of thousands of times
def _found(question: str) -> tuple[str, tuple[str, ...], str]:
    """Type, wordings, and what the question is about ("" where its words do not say)."""
    for name, wordings in WORDINGS:
        for wording in wordings:
            match = re.fullmatch(re.escape(wording).replace(r"\{\}", "([a-z ]+?)"), question)
            if match is not None:
                return name, wordings, "".join(match.groups())
    raise ValueError(f"{question!r} is no question of easy-vqa")
