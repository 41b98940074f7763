"""From a conversation to tokens and labels: only what the assistant says is supervised.

The prompt is one string made of segments, each supervised or not. It is tokenized whole, so that
word pieces are those of running text, and a token is supervised when it lies inside a supervised
segment. Shapes: T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, SYSTEM, Turn
from selfilter_ray.stage1.loss import IGNORED

VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives detailed, helpful, and polite answers to the user's questions."
)


class Segment(NamedTuple):
    """A piece of the prompt."""

    text: str
    supervised: bool


class Encoded(NamedTuple):
    """Token ids and labels of one sample, both of length T; -100 marks no supervision."""

    input_ids: list[int]
    labels: list[int]


def vicuna_v1(turns: Sequence[Turn], end: str) -> list[Segment]:
    """LLaVA's conversation for Vicuna v1: one system sentence, USER and ASSISTANT in capitals."""
    system = " ".join(turn.text for turn in turns if turn.role == SYSTEM) or VICUNA_SYSTEM
    return [Segment(system + " ", False), *_dialogue(turns, end)]


def plain(turns: Sequence[Turn], end: str) -> list[Segment]:
    """USER and ASSISTANT without a system sentence; its pictures stay, for the model gets them."""
    marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns if turn.role == SYSTEM)
    return [Segment(f"{IMAGE_TOKEN}\n" * marks, False), *_dialogue(turns, end)]


def _dialogue(turns: Sequence[Turn], end: str) -> list[Segment]:
    segments = []
    for turn in turns:
        if turn.role == ASSISTANT:
            segments += [Segment("ASSISTANT:", False), Segment(f" {turn.text}{end}", True)]
        elif turn.role != SYSTEM:
            segments.append(Segment(f"USER: {_images_first(turn.text)} ", False))
    return segments


def chatml(turns: Sequence[Turn], end: str) -> list[Segment]:
    """ChatML: every turn between ``<|im_start|>`` and ``<|im_end|>``."""
    segments = []
    for turn in turns:
        if turn.role == ASSISTANT:
            opening = Segment("<|im_start|>assistant\n", False)
            segments += [opening, Segment(f"{turn.text}<|im_end|>", True), Segment("\n", False)]
        else:
            text = f"<|im_start|>{turn.role}\n{_images_first(turn.text)}<|im_end|>\n"
            segments.append(Segment(text, False))
    return segments


PROMPTS: dict[str, Callable[[Sequence[Turn], str], list[Segment]]] = {
    "vicuna_v1": vicuna_v1,
    "chatml": chatml,
    "plain": plain,
}


def encode(
    turns: Sequence[Turn],
    prompt: str,
    tokenizer: PreTrainedTokenizerBase,
    image_tokens: int,
    max_length: int,
) -> Encoded:
    """Tokens and labels of one conversation.

    Args:
        turns: the conversation, ``<image>`` where a picture stands.
        prompt: a key of ``PROMPTS``.
        tokenizer: a fast tokenizer that knows ``<image>`` as one token.
        image_tokens: positions that one picture takes.
        max_length: cut after so many tokens, but never inside the pictures.
    """
    segments = PROMPTS[prompt](turns, str(tokenizer.eos_token or ""))
    text, spans = "", []
    for segment in segments:
        piece = segment.text.replace(IMAGE_TOKEN, IMAGE_TOKEN * image_tokens)
        if segment.supervised:
            spans.append((len(text), len(text) + len(piece)))
        text += piece
    encoding = tokenizer(text, return_offsets_mapping=True, verbose=False)
    ids: list[int] = encoding["input_ids"]
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    labels = _labels(ids, encoding["offset_mapping"], spans)
    labels = [IGNORED if label == image else label for label in labels]  # no word to be learnt
    end = max(max_length, _last(ids, image) + 1)
    return Encoded(ids[:end], labels[:end])


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


def _images_first(text: str) -> str:
    """LLaVA puts a turn's pictures before its words."""
    marks = text.count(IMAGE_TOKEN)
    if not marks:
        return text
    return f"{IMAGE_TOKEN}\n" * marks + text.replace(IMAGE_TOKEN, "").strip()


def _last(ids: Sequence[int], token: int) -> int:
    return next((place for place in range(len(ids) - 1, -1, -1) if ids[place] == token), -1)
