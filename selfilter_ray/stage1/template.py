"""The chat template that comes with a model, and which parts of its text the assistant says.

A template shows no spans. So the conversation is rendered prefix by prefix: up to an assistant's
turn with the opening that asks for an answer, and up to and including that turn. What the second
text adds is what the model would have to say, its end mark included. This works where each text
begins with the one before, and is refused otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, Turn
from selfilter_ray.stage1.segments import Segment

OTHERS = "Set train.prompt to one of the other formats."


def template_segments(processor: Any, turns: Sequence[Turn], path: str) -> list[Segment]:
    """The conversation under the processor's chat template, or its tokenizer's.

    Raises:
        ConfigError: when there is none, or one that rewrites what came before.
    """
    source = processor if getattr(processor, "chat_template", None) else processor.tokenizer
    if not getattr(source, "chat_template", None):
        raise ConfigError(f"{path} has no chat template. {OTHERS}")
    messages = [_message(turn) for turn in turns]
    segments: list[Segment] = []
    text = ""
    for end, opening in _prefixes(turns):
        longer = _render(source, messages[:end], opening, path)
        if not longer.startswith(text):
            raise ConfigError(
                f"the chat template of {path} rewrites earlier turns, so that it does not show "
                f"which tokens are answers. {OTHERS}"
            )
        said = not opening and turns[end - 1].role == ASSISTANT
        segments += _answer(longer[len(text) :], processor) if said else []
        segments += [] if said else [Segment(longer[len(text) :], False)]
        text = longer
    return segments


def _prefixes(turns: Sequence[Turn]) -> Iterator[tuple[int, bool]]:
    """How many turns each text shows, and whether it ends with the opening of an answer."""
    for place, turn in enumerate(turns):
        if turn.role == ASSISTANT:
            yield place, True
            yield place + 1, False
    if turns and turns[-1].role != ASSISTANT:
        yield len(turns), False


def _answer(text: str, processor: Any) -> list[Segment]:
    """Line ends behind the end mark are the template's: a model stops at the mark."""
    said = text.rstrip()
    ends = processor.tokenizer.get_added_vocab()
    if said == text or not said.endswith(tuple(ends)):
        return [Segment(text, True)]
    return [Segment(said, True), Segment(text[len(said) :], False)]


def _render(source: Any, messages: list[dict[str, Any]], opening: bool, path: str) -> str:
    try:
        text = source.apply_chat_template(messages, tokenize=False, add_generation_prompt=opening)
    except Exception as error:  # templates raise what they like
        raise ConfigError(
            f"the chat template of {path} refuses a conversation: {error} {OTHERS}"
        ) from error
    return str(text)


def _message(turn: Turn) -> dict[str, Any]:
    """Words and pictures in the order of the text."""
    content: list[dict[str, str]] = []
    pieces = turn.text.split(IMAGE_TOKEN)
    for number, piece in enumerate(pieces):
        words = piece.strip() if len(pieces) > 1 else piece
        if number:
            content.append({"type": "image"})
        if words:
            content.append({"type": "text", "text": words})
    return {"role": turn.role, "content": content or [{"type": "text", "text": ""}]}
