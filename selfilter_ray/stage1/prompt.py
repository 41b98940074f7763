"""From a conversation to tokens and labels: only what the assistant says is supervised.

The prompt is one text made of segments, each supervised or not. It is tokenized whole, so that word
pieces are those of running text, and a token is supervised when it lies inside a supervised
segment. The one image token of a picture then gives way to the picture's own tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.record import Turn
from selfilter_ray.stage1.families.contract import Family
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.segments import Segment

AUTO = "auto"


class Encoded(NamedTuple):
    """Token ids and labels of one sample, both of the same length; -100 marks no supervision.

    ``pictures_end``: where its last picture ends; it is never cut before.
    """

    input_ids: list[int]
    labels: list[int]
    pictures_end: int = 0


def encode(
    turns: Sequence[Turn],
    prompt: str,
    family: Family,
    pictures: Sequence[Sequence[int]],
    max_length: int,
) -> Encoded:
    """Tokens and labels of one conversation.

    Args:
        turns: the conversation, ``<image>`` where a picture stands.
        prompt: ``auto`` for the family's own, ``template``, or a key of ``PROMPTS``.
        pictures: the tokens of each picture, in the order of their marks.
        max_length: cut after so many tokens, but never inside the pictures.

    Raises:
        ConfigError: when the prompt does not fit the model or the conversation.
    """
    segments = family.segments(turns, family.prompt if prompt == AUTO else prompt)
    return encode_segments(segments, family.tokenizer, family.image_id, pictures, max_length)


def encode_segments(
    segments: Sequence[Segment],
    tokenizer: PreTrainedTokenizerBase,
    image_id: int,
    pictures: Sequence[Sequence[int]],
    max_length: int,
) -> Encoded:
    """As ``encode``, of a prompt's text.

    Args:
        tokenizer: a fast one.
        image_id: the token that stands once a picture.
    """
    text, spans = "", []
    for segment in segments:
        if segment.supervised:
            spans.append((len(text), len(text) + len(segment.text)))
        text += segment.text
    begins = str(tokenizer.bos_token or "")
    encoding = tokenizer(
        text,
        return_offsets_mapping=True,
        add_special_tokens=not (begins and text.startswith(begins)),
        verbose=False,
    )
    ids: list[int] = encoding["input_ids"]
    labels = _labels(ids, encoding["offset_mapping"], spans)
    whole = _with_pictures(Encoded(ids, labels), image_id, pictures)
    end = max(max_length, whole.pictures_end)
    return whole._replace(input_ids=whole.input_ids[:end], labels=whole.labels[:end])


def _with_pictures(encoded: Encoded, image_id: int, pictures: Sequence[Sequence[int]]) -> Encoded:
    """Each image token replaced by its picture's tokens, none of which is supervised."""
    found = encoded.input_ids.count(image_id)
    if found != len(pictures):
        raise ConfigError(
            f"a prompt holds {found} of its sample's {len(pictures)} pictures: set train.prompt to "
            "a format that shows all of them."
        )
    remaining = iter(pictures)
    ids: list[int] = []
    labels: list[int] = []
    last = 0
    for token, label in zip(encoded.input_ids, encoded.labels, strict=True):
        if token == image_id:
            tokens = next(remaining)
            ids += tokens
            labels += [IGNORED] * len(tokens)
            last = len(ids)
        else:
            ids.append(token)
            labels.append(label)
    return Encoded(ids, labels, last)


def _labels(
    ids: Sequence[int], offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]
) -> list[int]:
    labels = [IGNORED] * len(ids)
    current = 0
    for place, (start, end) in enumerate(offsets):
        while current < len(spans) and spans[current][1] <= start:
            current += 1
        inside = current < len(spans) and spans[current][0] <= start and end <= spans[current][1]
        if inside and end > start:
            labels[place] = ids[place]
    return labels
