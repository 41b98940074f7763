"""The three prompts that a sample is measured with: whole, without its image, without its question.

All three supervise the same answer tokens, those that training supervises, so that their losses can
be subtracted and divided. Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from sys import maxsize

from transformers import PreTrainedTokenizerBase

from selfilter_ray.samples.record import IMAGE_TOKEN, USER, Turn
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.prompt import Encoded, encode


def supervised(encoded: Encoded) -> int:
    """n: how many tokens count. Nothing predicts the first token of a prompt."""
    return sum(label != IGNORED for label in encoded.labels[1:])


def without_image(whole: Encoded, image_token: int) -> Encoded:
    """The same tokens but for those of the pictures: L(a|q)."""
    kept = [place for place, id in enumerate(whole.input_ids) if id != image_token]
    return Encoded(
        [whole.input_ids[place] for place in kept], [whole.labels[place] for place in kept]
    )


def without_question(
    whole: Encoded,
    turns: Sequence[Turn],
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: int,
) -> Encoded:
    """The same conversation with nothing but pictures in the user's turns: L(a|v).

    All turns of the user lose their words, those after the first too: they tell of the answers
    before them. Earlier answers and a system sentence stay, as do the marks of the roles. ``whole``
    was cut at ``max_length``; this ends with the same answer token, though it would have had room
    for more.
    """
    silent = [
        replace(turn, text=IMAGE_TOKEN * turn.text.count(IMAGE_TOKEN))
        if turn.role == USER
        else turn
        for turn in turns
    ]
    ids, labels = encode(silent, prompt, tokenizer, image_tokens, maxsize)
    answer = [place for place, label in enumerate(labels) if place and label != IGNORED]
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    pictures = [place for place, id in enumerate(ids) if id == image]
    end = max([*answer[: supervised(whole)][-1:], *pictures[-1:], 0]) + 1
    return Encoded(ids[:end], labels[:end])
