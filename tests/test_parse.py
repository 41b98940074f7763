"""Any decoded row is a record that later stages can rely on, or a reason from the list."""

from __future__ import annotations

import math
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfilter_ray.config import LimitsConfig
from selfilter_ray.samples.parse import ParsedRow, parse_row
from selfilter_ray.samples.quarantine import REMEDIES, BadRow
from selfilter_ray.samples.record import ASSISTANT, IMAGE_TOKEN, SYSTEM, USER, Turn

LIMITS = LimitsConfig()
QUESTION, ANSWER = {"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}
PLAIN = (Turn(USER, "Why?"), Turn(ASSISTANT, "So."))


def row(**fields: Any) -> dict[str, Any]:
    """A good LLaVA row, changed by ``fields``."""
    return {"id": "r", "conversations": [QUESTION, ANSWER], **fields}


def reason_of(value: Any, limits: LimitsConfig = LIMITS) -> str:
    with pytest.raises(BadRow) as caught:
        parse_row(value, limits)
    return caught.value.reason


@pytest.mark.parametrize(
    "turns",
    [
        {"conversations": [QUESTION, ANSWER]},
        {"conversations": [{"role": "user", "content": "Why?"}, {"role": "model", "value": "So."}]},
        {
            "messages": [
                {"role": "user", "content": "Why?"},
                {"role": "assistant", "content": "So."},
            ]
        },
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "Why?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "So."}]},
            ]
        },
        {"texts": [{"user": "Why?", "assistant": "So."}]},
        {"conversations": None, "messages": None, "texts": [{"user": "Why?", "assistant": "So."}]},
    ],
)
def test_every_layout_of_the_turns_gives_the_same_record(turns):
    assert parse_row({"id": "r", **turns}, LIMITS) == ParsedRow("r", None, PLAIN, ())


def test_a_system_turn_and_several_pairs_keep_their_order():
    system = {"from": "system", "value": "Be brief."}
    turns = parse_row(row(conversations=[system, QUESTION, system, QUESTION, ANSWER]), LIMITS).turns
    assert [turn.role for turn in turns] == [SYSTEM, USER, SYSTEM, USER, ASSISTANT]


def test_image_parts_become_marks_where_they_stand():
    parts = [
        {"type": "text", "text": "Compare"},
        {"type": "image"},
        {"type": "image_url", "image_url": {"url": "http://elsewhere/b.png"}},
    ]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "Equal."}]
    parsed = parse_row({"messages": messages, "images": ["a.png", "b.png"]}, LIMITS)
    assert parsed.turns[0].text == f"Compare\n{IMAGE_TOKEN}\n{IMAGE_TOKEN}"
    assert parsed.images == ("a.png", "b.png")


@pytest.mark.parametrize(
    ("fields", "images"),
    [
        ({}, ()),
        ({"image": None, "images": None}, ()),
        ({"image": ""}, ()),
        ({"images": []}, ()),
        ({"images": [None, ""]}, ()),
        ({"image": "a/b.jpg"}, ("a/b.jpg",)),
        ({"image": ["a.jpg", "b.jpg"]}, ("a.jpg", "b.jpg")),
        ({"images": "a.jpg"}, ("a.jpg",)),
        ({"image": b"bytes"}, (b"bytes",)),
        ({"image": bytearray(b"bytes")}, (b"bytes",)),
        ({"image": {"bytes": b"bytes", "path": "a.jpg"}}, (b"bytes",)),
        ({"image": {"bytes": None, "path": "a.jpg"}}, ("a.jpg",)),
        ({"images": [{"bytes": b"1", "path": None}, {"path": "b.jpg"}]}, (b"1", "b.jpg")),
        ({"images": None, "image": "a.jpg"}, ("a.jpg",)),
    ],
)
def test_images_are_paths_bytes_or_both_one_or_many(fields, images):
    parsed = parse_row(row(**fields), LIMITS)
    assert parsed.images == images
    assert parsed.turns[0].text == f"{IMAGE_TOKEN}\n" * len(images) + "Why?"


def test_marks_that_are_there_already_stay_where_they_are():
    marked = {"from": "human", "value": "Is <image> as <image>?"}
    parsed = parse_row(row(conversations=[marked, ANSWER], images=["a", "b"]), LIMITS)
    assert parsed.turns == (Turn(USER, "Is <image> as <image>?"), Turn(ASSISTANT, "So."))


def test_marks_are_added_to_the_first_user_turn_and_else_to_the_first():
    system = {"from": "system", "value": "Look."}
    turns = parse_row(row(conversations=[system, QUESTION, ANSWER], image="a"), LIMITS).turns
    assert [turn.text for turn in turns] == ["Look.", "<image>\nWhy?", "So."]
    assert parse_row(row(conversations=[ANSWER], image="a"), LIMITS).turns == (
        Turn(ASSISTANT, "<image>\nSo."),
    )


@pytest.mark.parametrize(
    ("given_id", "id"),
    [
        (None, None),
        (math.nan, None),  # how pandas writes a missing id
        (0, "0"),
        (-7, "-7"),
        ("x" * 512, "x" * 512),
        ("Zürich 7/ß", "Zürich 7/ß"),
    ],
)
def test_ids_are_text_whole_numbers_or_missing(given_id, id):
    assert parse_row(row(id=given_id), LIMITS).id == id


@pytest.mark.parametrize(
    "id",
    ["", "x" * 513, "x" * 10_000, "a\nb", "a\0b", "\x1b[31m", "\u202ereversed", "\ud800"],
)
def test_an_id_that_is_empty_long_or_unprintable_is_refused(id):
    assert reason_of(row(id=id)) == "id_invalid"


@pytest.mark.parametrize("id", [True, False, 1.5, math.inf, ["a"], {"a": 1}, b"a"])
def test_an_id_of_another_type_is_refused(id):
    assert reason_of(row(id=id)) == "id_invalid"


@pytest.mark.parametrize(
    ("source", "kept"),
    [("coco", "coco"), ("x" * 300, "x" * 200), ("", None), ("a\nb", None), (7, None), (None, None)],
)
def test_a_source_is_short_printable_text_or_none(source, kept):
    assert parse_row(row(source=source), LIMITS).source == kept


def test_the_field_of_the_source_can_be_named():
    assert parse_row(row(dataset="vqa", source="no"), LIMITS, "dataset").source == "vqa"


@pytest.mark.parametrize("value", [None, 1, 1.5, True, "text", b"bytes", [], [row()]])
def test_a_row_that_is_no_object_is_refused(value):
    assert reason_of(value) == "record_shape"


@pytest.mark.parametrize(
    "turns",
    [
        {},
        {"conversations": "Why?"},
        {"conversations": {"from": "human", "value": "Why?"}},
        {"conversations": ["Why?", "So."]},
        {"conversations": [None]},
        {"messages": [[]]},
        {"texts": ["Why?"]},
        {"texts": [{"user": "Why?"}]},
        {"texts": [{"user": None, "assistant": "So."}]},
        {"conversations": [{"from": "human"}, ANSWER]},
        {"conversations": [{"from": "human", "value": None}, ANSWER]},
        {"conversations": [{"from": "human", "value": 7}, ANSWER]},
        {"conversations": [{"from": "human", "value": b"Why?"}, ANSWER]},
        {"conversations": [{"from": "human", "value": {"text": "Why?"}}, ANSWER]},
        {"messages": [{"role": "user", "content": ["Why?"]}]},
        {"messages": [{"role": "user", "content": [{"type": "video"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": 7}]}]},
        {"messages": [{"role": "user", "content": [{"type": ["text"], "text": "Why?"}]}]},
    ],
)
def test_turns_of_another_shape_are_refused(turns):
    assert reason_of(turns) == "record_shape"


@pytest.mark.parametrize(
    "role", [None, "", "Human", "user ", "tool", 1, True, ["human"], {}, "\ud800", "x" * 10**6]
)
def test_an_unknown_role_is_refused_and_named_shortly(role):
    with pytest.raises(BadRow) as caught:
        parse_row(row(conversations=[{"from": role, "value": "Why?"}, ANSWER]), LIMITS)
    assert caught.value.reason == "role_unknown"
    assert len(caught.value.detail) < 200


def test_a_role_nested_as_deeply_as_can_be_read_is_refused():
    role: list[Any] = []
    for _ in range(100_000):
        role = [role]
    assert reason_of(row(conversations=[{"from": role, "value": "Why?"}])) == "role_unknown"


@pytest.mark.parametrize(
    "turns",
    [[], [QUESTION], [QUESTION, {"from": "gpt", "value": ""}], [{"from": "gpt", "value": " \n\t"}]],
)
def test_a_row_without_an_answer_is_refused(turns):
    assert reason_of(row(conversations=turns)) == "answer_missing"


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb", "NUL \0 inside"])
def test_text_that_no_table_can_hold_is_refused(text):
    assert reason_of(row(conversations=[QUESTION, {"from": "gpt", "value": text}])) == (
        "text_invalid"
    )
    parts = [{"type": "text", "text": text}]
    assert reason_of({"messages": [{"role": "user", "content": parts}]}) == "text_invalid"


def test_turns_are_counted_up_to_the_limit():
    limits = LimitsConfig(turns=3)
    assert len(parse_row(row(conversations=[QUESTION, QUESTION, ANSWER]), limits).turns) == 3
    assert reason_of(row(conversations=[QUESTION] * 3 + [ANSWER]), limits) == "too_many_turns"


def test_a_hundred_thousand_turns_are_refused_without_looking_at_them_all():
    class Untouched(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            raise AssertionError("looked past the limit")

    turns = [QUESTION] * (LIMITS.turns + 1) + [Untouched()] * 100_000
    started = time.process_time()
    assert reason_of(row(conversations=turns)) == "too_many_turns"
    assert time.process_time() - started < 1.0


def test_text_is_measured_in_bytes_over_all_turns():
    limits = LimitsConfig(text_bytes=8)
    turns = [{"from": "human", "value": "äöü"}, {"from": "gpt", "value": "ab"}]
    assert len(parse_row(row(conversations=turns), limits).turns) == 2
    turns[1] = {"from": "gpt", "value": "abc"}
    assert reason_of(row(conversations=turns), limits) == "text_too_long"


def test_images_are_counted_up_to_the_limit():
    limits = LimitsConfig(images_per_record=2)
    assert len(parse_row(row(images=["a", "b"]), limits).images) == 2
    assert reason_of(row(images=["a", "b", "c"]), limits) == "too_many_images"


@pytest.mark.parametrize(
    ("text", "images"),
    [("<image> Why?", []), ("<image> <image>", ["a"]), ("<image>", ["a", "b"]), ("<image>", None)],
)
def test_marks_that_do_not_match_the_images_are_refused(text, images):
    turns = [{"from": "human", "value": text}, ANSWER]
    assert reason_of(row(conversations=turns, images=images)) == "image_marks"


@pytest.mark.parametrize(
    "image",
    [7, 0, True, False, 1.5, {}, {"path": None}, {"path": ""}, {"bytes": b""}, {"path": 7}, b""],
)
def test_an_image_that_is_neither_path_nor_bytes_is_refused(image):
    assert reason_of(row(image=image)) == "image_value"
    assert reason_of(row(images=["good.png", image])) == "image_value"


@pytest.mark.parametrize("path", ["a\0b", "\ud800.png", "caf\udce9.png"])
def test_a_path_that_no_table_can_hold_is_refused(path):
    assert reason_of(row(image=path)) == "image_value"
    assert reason_of(row(image={"path": path})) == "image_value"


def test_every_detail_can_be_written_to_the_quarantine():
    with pytest.raises(BadRow) as caught:
        parse_row(row(conversations=[{"from": "\ud800\0\n", "value": ""}]), LIMITS)
    caught.value.detail.encode()  # shown escaped


# Lone surrogates and NUL included: a JSON file can hold both.
TEXTS = st.one_of(
    st.text(st.characters(), max_size=8),
    st.sampled_from(["", "<image>", "<image> Why? <image>", "So.", "human", "gpt", "text"]),
)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXTS)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
ROLES = st.sampled_from(["human", "gpt", "user", "assistant", "system", "tool"])
PARTS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "image_url", "audio"]) | JSON},
    optional={"text": TEXTS | JSON},
)
CONTENTS = st.one_of(TEXTS, st.lists(PARTS, max_size=3), JSON)
TURNS = st.one_of(
    st.fixed_dictionaries({"from": ROLES, "value": CONTENTS}),
    st.fixed_dictionaries({"role": ROLES | JSON, "content": CONTENTS}),
    st.fixed_dictionaries({"user": TEXTS, "assistant": TEXTS}),
    JSON,
)
IMAGES = st.one_of(
    TEXTS,
    st.binary(max_size=3),
    st.fixed_dictionaries({"bytes": st.none() | st.binary(max_size=3), "path": TEXTS | st.none()}),
    JSON,
)
ROWS = st.fixed_dictionaries(
    {},
    optional={
        "id": JSON,
        "source": JSON,
        "conversations": st.lists(TURNS, max_size=4) | JSON,
        "messages": st.lists(TURNS, max_size=4),
        "texts": st.lists(TURNS, max_size=4),
        "image": IMAGES,
        "images": st.lists(IMAGES, max_size=3) | JSON,
    },
)


@settings(deadline=None, max_examples=200)
@given(JSON | ROWS)
def test_any_value_is_a_sound_record_or_a_reason_with_a_remedy(value):
    limits = LimitsConfig(turns=3, images_per_record=2, text_bytes=40)
    try:
        parsed = parse_row(value, limits)
    except BadRow as error:
        assert error.reason in REMEDIES
        return
    assert any(turn.role == ASSISTANT and turn.text.strip() for turn in parsed.turns)
    assert sum(turn.text.count(IMAGE_TOKEN) for turn in parsed.turns) == len(parsed.images)
    assert len(parsed.turns) <= 3
    assert len(parsed.images) <= 2
    for turn in parsed.turns:
        assert turn.role in {USER, ASSISTANT, SYSTEM}
        assert "\0" not in turn.text
        assert turn.text.encode().decode() == turn.text
    for image in parsed.images:
        assert image
        assert isinstance(image, bytes) or image.encode().decode() == image
    assert parsed.id is None or (0 < len(parsed.id) <= 512 and parsed.id.isprintable())
    assert parsed.source is None or (0 < len(parsed.source) <= 200 and parsed.source.isprintable())
