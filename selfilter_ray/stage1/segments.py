"""Prompt formats: from a conversation to pieces of text, each supervised or not.

A picture stands in them as ``<image>``; its family writes what it needs in its place.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, SYSTEM, Turn

TEMPLATE = "template"  # the chat template that comes with the model: see template.py
VICUNA_V0_SYSTEM = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives detailed, helpful, and polite answers to the user's questions."
)


class Segment(NamedTuple):
    """A piece of the prompt."""

    text: str
    supervised: bool


def vicuna_v1(turns: Sequence[Turn], end: str) -> list[Segment]:
    """LLaVA's conversation for Vicuna v1: one system sentence, USER and ASSISTANT in capitals."""
    return [Segment(f"{_system(turns) or VICUNA_SYSTEM} ", False), *_dialogue(turns, end)]


def vicuna_v0(turns: Sequence[Turn], end: str) -> list[Segment]:
    """LLaVA's conversation for Vicuna v0: Human and Assistant, ``###`` after every part of it."""
    segments = [Segment(f"{_system(turns) or VICUNA_V0_SYSTEM}###", False)]
    for turn in turns:
        if turn.role == ASSISTANT:
            segments += [Segment("Assistant:", False), Segment(f" {turn.text}###", True)]
        elif turn.role != SYSTEM:
            segments.append(Segment(f"Human: {images_first(turn.text)}###", False))
    return segments


def minigpt4(turns: Sequence[Turn], end: str) -> list[Segment]:
    """MiniGPT-4's second stage: no system sentence, a turn's pictures before its words."""
    segments = [Segment(f"{_system(turns)}###", False)]
    for turn in turns:
        if turn.role == ASSISTANT:
            segments += [Segment("Assistant:", False), Segment(f" {turn.text}###", True)]
        elif turn.role != SYSTEM:
            words = images_first(turn.text, behind=" ")
            segments.append(Segment(f"Human: {words} ###", False))
    return segments


def _system(turns: Sequence[Turn]) -> str:
    return " ".join(turn.text for turn in turns if turn.role == SYSTEM)


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
            segments.append(Segment(f"USER: {images_first(turn.text)} ", False))
    return segments


def chatml(turns: Sequence[Turn], end: str) -> list[Segment]:
    """ChatML: every turn between ``<|im_start|>`` and ``<|im_end|>``."""
    segments = []
    for turn in turns:
        if turn.role == ASSISTANT:
            opening = Segment("<|im_start|>assistant\n", False)
            segments += [opening, Segment(f"{turn.text}<|im_end|>", True), Segment("\n", False)]
        else:
            text = f"<|im_start|>{turn.role}\n{images_first(turn.text)}<|im_end|>\n"
            segments.append(Segment(text, False))
    return segments


PROMPTS: dict[str, Callable[[Sequence[Turn], str], list[Segment]]] = {
    "vicuna_v1": vicuna_v1,
    "vicuna_v0": vicuna_v0,
    "chatml": chatml,
    "plain": plain,
    "minigpt4": minigpt4,
}


def images_first(text: str, behind: str = "\n") -> str:
    """LLaVA puts a turn's pictures before its words, each on a line; others ``behind`` each."""
    marks = text.count(IMAGE_TOKEN)
    if not marks:
        return text
    return f"{IMAGE_TOKEN}{behind}" * marks + text.replace(IMAGE_TOKEN, "").strip()
