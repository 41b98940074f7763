"""The scoring pass's three prompts under every family. Its losses are tried in test_families.py."""

from __future__ import annotations

import shutil
from pathlib import Path
from sys import maxsize

import pytest
import torch
from family_pool import SAMPLES, TinyStage1, tiny_stage1, turns_of, write_pictures
from PIL import Image
from tiny_vlms import TINY

from selfilter_ray.measure.prompts import supervised, without_image, without_question
from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, USER, Turn
from selfilter_ray.stage1.families.registry import family_of
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.prompt import Encoded, encode


@pytest.fixture(scope="module", params=list(TINY))
def tiny(request, tmp_path_factory) -> TinyStage1:
    folder: Path = tmp_path_factory.mktemp(request.param)
    write_pictures(folder)
    return tiny_stage1(request.param, folder, folder / "model")


def prompts_of(tiny, turns, max_length) -> tuple[Encoded, Encoded, Encoded]:
    """Whole, without its pictures, without its question."""
    family = tiny.data.family
    marks = sum(turn.text.count(IMAGE_TOKEN) for turn in turns)
    tokens = [family.tokens_for((40, 24 + 16 * number)) for number in range(marks)]
    whole = encode(turns, "auto", family, tokens, max_length)
    silent = without_question(whole, turns, "auto", family, tokens)
    return whole, without_image(whole, turns, "auto", family), silent


@pytest.mark.parametrize("max_length", [60, maxsize])
@pytest.mark.parametrize("name", SAMPLES)
def test_all_three_prompts_supervise_the_same_answers(tiny, name, max_length):
    prompts = prompts_of(tiny, turns_of(name), max_length)
    answers = [[label for label in prompt.labels[1:] if label != IGNORED] for prompt in prompts]
    assert answers[0] == answers[1] == answers[2]
    assert supervised(prompts[0]) == len(answers[0])
    pictures = [prompt.input_ids.count(tiny.data.family.image_id) for prompt in prompts]
    assert pictures == [pictures[0], 0, pictures[0]]


def test_without_its_pictures_a_conversation_is_one_that_had_none(tiny):
    """But for white space: LLaVA's line end behind a picture stays."""
    answer = Turn(ASSISTANT, "A red circle.")
    pictured = [Turn(USER, "<image>\nWhat is in the picture?"), answer]
    text_only = [Turn(USER, "What is in the picture?"), answer]
    without, text = prompts_of(tiny, pictured, maxsize)[1], prompts_of(tiny, text_only, maxsize)[0]
    words = [tiny.data.tokenizer.decode(one.input_ids).split() for one in (without, text)]
    assert words[0] == words[1]


def test_a_saved_processor_writes_the_same_tokens(tiny, tmp_path):
    family = tiny.data.family
    family.save(str(tmp_path))
    shutil.copy(tiny.folder / "config.json", tmp_path)
    again = family_of(str(tmp_path))
    assert type(again) is type(family)
    image = Image.new("RGB", (70, 66), "red")
    tokens, tensors = family.picture(image)
    assert again.picture(image).tokens == tokens
    for name, value in again.picture(image).tensors.items():
        assert torch.equal(value, tensors[name])


def test_a_format_that_is_not_a_model_s_own_still_writes_its_marks_around_a_picture(tiny):
    turns = [Turn(USER, "<image>\nWhat?"), Turn(ASSISTANT, "A circle.")]
    family = tiny.data.family
    text = "".join(segment.text for segment in family.segments(turns, "chatml"))
    assert text.count(family.image_token) == 1
    assert f"user\n{family.image_mark}\nWhat?<|im_end|>" in text
    around = {"minigpt4": ("<Img>", "</Img>")}
    around |= dict.fromkeys(
        ("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), ("<|vision_start|>", "<|vision_end|>")
    )
    before, behind = around.get(tiny.name, ("", ""))
    assert family.image_mark == f"{before}{family.image_token}{behind}"
