"""The three prompts that a sample is measured with: whole, without its image, without its question.

All three supervise the same answer tokens, those that training supervises, so that their losses can
be subtracted and divided.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from sys import maxsize

from selfilter_ray.samples.record import IMAGE_TOKEN, USER, Turn
from selfilter_ray.stage1.families.contract import Family
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.prompt import AUTO, Encoded, encode
from selfilter_ray.stage1.segments import TEMPLATE


def supervised(encoded: Encoded) -> int:
    """n: how many tokens count. Nothing predicts the first token of a prompt."""
    return sum(label != IGNORED for label in encoded.labels[1:])


def without_image(whole: Encoded, turns: Sequence[Turn], prompt: str, family: Family) -> Encoded:
    """The same text but for the pictures and what the model writes around them: L(a|q).

    ``whole`` was cut at ``max_length``; this and ``without_question`` end with the same answer
    token, though they would have had room for more.
    """
    name = family.prompt if prompt == AUTO else prompt
    bare = name != TEMPLATE and family.image_mark == family.image_token
    marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    if not bare:
        turns = [replace(turn, text=_without_marks(turn.text)) for turn in turns]
    nothing: list[list[int]] = [[]] * marks if bare else []
    return _cut(encode(turns, prompt, family, nothing, maxsize), supervised(whole))


def without_question(
    whole: Encoded,
    turns: Sequence[Turn],
    prompt: str,
    family: Family,
    pictures: Sequence[Sequence[int]],
) -> Encoded:
    """The same conversation with nothing but pictures in the user's turns: L(a|v).

    All turns of the user lose their words, those after the first too: they tell of the answers
    before them. Earlier answers and a system sentence stay, as do the marks of the roles.

    Args:
        pictures: as ``encode`` takes them.
    """
    silent = [
        replace(turn, text=IMAGE_TOKEN * turn.text.count(IMAGE_TOKEN))
        if turn.role == USER
        else turn
        for turn in turns
    ]
    return _cut(encode(silent, prompt, family, pictures, maxsize), supervised(whole))


def _cut(encoded: Encoded, answers: int) -> Encoded:
    """Up to that many supervised tokens, but not inside the pictures."""
    places = [place for place, label in enumerate(encoded.labels) if place and label != IGNORED]
    end = max([*(place + 1 for place in places[:answers][-1:]), encoded.pictures_end, 1])
    return encoded._replace(input_ids=encoded.input_ids[:end], labels=encoded.labels[:end])


def _without_marks(text: str) -> str:
    if IMAGE_TOKEN not in text:
        return text
    return " ".join(part for piece in text.split(IMAGE_TOKEN) if (part := piece.strip()))
