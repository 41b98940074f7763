"""The form of a request: what is refused whole, with the path of the field."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from selfilter_ray.service.incoming.schemas import SamplesRequest

TURNS = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
FEATURES = {"image_embedding": [1, 0.5], "text_embedding": {"base64": "", "dtype": "float16"}}
MEBIBYTE = 2**20


def errors_of(text):
    with pytest.raises(ValidationError) as caught:
        SamplesRequest.model_validate_json(text)
    return caught.value.errors(include_url=False, include_context=False, include_input=False)


def sample(**fields):
    return {"id": "a", "conversations": TURNS} | fields


def features(**fields):
    return {"id": "a", "features": FEATURES | fields}


@pytest.mark.parametrize(
    "one",
    [
        sample(),
        sample(image={"base64": "AAAA"}),
        sample(images=[{"path": "a.png"}, {"url": "https://example.com/a.png"}]),
        sample(image=None, images=None, features=None),
        sample(conversations=[]),
        sample(conversations=[{"role": "user", "content": "Why?"}]),
        sample(conversations=[{"from": "x", "value": [{"type": "image"}]}]),
        sample(conversations=[{"from": "x", "value": [{"type": "text", "text": ""}]}]),
        features(),
        features(text_embedding=[-0.0]),
        sample(id="x" * 512),
        sample(id="../../etc/passwd"),
        sample(id="\u00e4\u4e16"),
    ],
)
def test_a_sample_of_the_documented_form_is_taken(one):
    request = SamplesRequest.model_validate_json(json.dumps({"samples": [one]}))
    assert request.samples[0].id == one["id"]


WRONG = [
    ({"x": 1}, ["x"]),
    (sample(id=""), ["id"]),
    (sample(id="x" * 513), ["id"]),
    (sample(id="a\nb"), ["id"]),
    (sample(id="a\u202eb"), ["id"]),
    (sample(id=7), ["id"]),
    (sample(id=None), ["id"]),
    ({"conversations": TURNS}, ["id"]),
    ({"id": "a"}, []),
    ("a", []),
    (sample(features=FEATURES), []),
    (sample(source="x"), ["source"]),
    (sample(image="a.png"), ["image"]),
    (sample(image={}), ["image"]),
    (sample(image={"base64": "AAAA", "url": "http://a"}), ["image"]),
    (sample(image={"base64": 1}), ["image", "base64"]),
    (sample(image={"bytes": "AAAA"}), ["image", "bytes"]),
    (sample(image={"path": "a"}, images=[{"path": "b"}]), []),
    (sample(images=[{"path": "a"}, {"path": 1}]), ["images", 1, "path"]),
    (sample(conversations="Why?"), ["conversations"]),
    (sample(conversations=[TURNS[0], "Why?"]), ["conversations", 1]),
    (sample(conversations=[{"from": "human"}]), ["conversations", 0]),
    (sample(conversations=[{"from": "human", "content": "x"}]), ["conversations", 0]),
    (sample(conversations=[TURNS[0] | {"role": "user"}]), ["conversations", 0]),
    (sample(conversations=[{"from": "human", "value": 1}]), ["conversations", 0, "value"]),
    (
        sample(conversations=[{"from": "human", "value": [{"type": "text"}]}]),
        ["conversations", 0, "value", 0],
    ),
    (
        sample(conversations=[{"from": "human", "value": [{"type": "image", "text": ""}]}]),
        ["conversations", 0, "value", 0],
    ),
    (
        sample(conversations=[{"role": "user", "content": [{"type": "audio"}]}]),
        ["conversations", 0, "content", 0, "type"],
    ),
    (features(image_embedding=None), ["features", "image_embedding"]),
    (features(image_embedding="1,2"), ["features", "image_embedding"]),
    (features(image_embedding=[]), ["features", "image_embedding"]),
    (features(image_embedding=[1, "2"]), ["features", "image_embedding", 1]),
    (features(image_embedding=[True]), ["features", "image_embedding", 0]),
    (features(image_embedding=[[1.0]]), ["features", "image_embedding", 0]),
    (features(image_embedding=[10**400]), ["features", "image_embedding", 0]),
    (features(image_embedding={"base64": ""}), ["features", "image_embedding", "dtype"]),
    (
        features(image_embedding={"base64": "", "dtype": "float64"}),
        ["features", "image_embedding", "dtype"],
    ),
    ({"id": "a", "features": {"image_embedding": [1.0]}}, ["features", "text_embedding"]),
    (features() | {"image": {"path": "a"}}, []),
]


@pytest.mark.parametrize(("one", "path"), WRONG, ids=[str(number) for number in range(len(WRONG))])
def test_a_field_that_is_missing_extra_or_wrong_is_named_by_its_path(one, path):
    errors = errors_of(json.dumps({"samples": [one]}))
    assert not any("Value error" in error["msg"] for error in errors)
    places = [error["loc"] for error in errors]
    assert ("samples", 0, *path) in places
    assert not any("[" in str(part) or "(" in str(part) for place in places for part in place)


@pytest.mark.parametrize("text", ["{}", "[]", '{"samples": []}', '{"samples": {}}', "null"])
def test_a_request_without_samples_is_refused(text):
    assert errors_of(text)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_a_number_that_is_none_is_named(number):
    text = json.dumps({"samples": [features()]}).replace("0.5", number)
    assert errors_of(text)[0]["loc"] == ("samples", 0, "features", "image_embedding", 1)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        '{"samples": [',
        "\ufeff{}",
        "[" * 100_000,
        '{"samples":' * 100_000,
        "9" * 10_000,
        json.dumps({"samples": [sample(id="a\ud800")]}),
        '{"samples": "\0"}',
    ],
)
def test_what_is_not_json_is_said_to_be_none(text):
    assert errors_of(text.encode("utf-8", "surrogatepass"))[0]["type"] == "json_invalid"


@pytest.mark.parametrize(
    "text",
    [
        '{"samples": [' + "1," * MEBIBYTE + "1]}",
        "{" + ",".join(f'"{number}": 1' for number in range(MEBIBYTE // 4)) + "}",
        json.dumps({"samples": [sample(id=1)]}).replace("[{", "[" + '{"id":2},' * 100_000 + "{"),
        json.dumps({"samples": [features(image_embedding=["x"] * 500_000)]}),
    ],
    ids=["samples", "fields", "bad samples", "numbers"],
)
def test_a_body_of_very_many_mistakes_makes_few_errors(text):
    assert len(errors_of(text)) <= 4


def test_openapi_says_that_an_image_comes_from_one_place_and_nothing_may_be_null():
    schema = SamplesRequest.model_json_schema()
    image = schema["$defs"]["ImageIn"]
    assert image["oneOf"] == [{"required": [name]} for name in ("base64", "path", "url")]
    assert image["additionalProperties"] is False
    assert '"null"' not in json.dumps(schema)
