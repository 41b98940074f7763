"""Whatever is sent, the answer is a 4xx that says what is wrong and what to do."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from http_service import IMAGE, TEXT, encoded, problem_of, sample, samples, service_in, vector

BODY = 4 * 2**20
DEEP = 100_000
PATHS = ["/v1/score", "/v1/select"]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    limits = {"body_bytes": BODY, "batch": 4}
    with service_in(tmp_path_factory.mktemp("service"), limits=limits) as service:
        yield service


@pytest.fixture(autouse=True)
def nothing_is_decided(service):
    before = service.get("/v1/stats").json()["sequence"]
    yield
    assert service.get("/v1/stats").json()["sequence"] == before


def text_of(value):
    return json.dumps(value).encode()


GOOD = text_of(samples("a"))
NOT_JSON = {
    "empty": b"",
    "blank": b" \n",
    "words": b"not json",
    "truncated": GOOD[:-2],
    "more behind it": GOOD + b"x",
    "BOM": b"\xef\xbb\xbf" + GOOD,
    "UTF-16": GOOD.decode().encode("utf-16"),
    "100,000 lists": b"[" * DEEP,
    "100,000 lists in a sample": b'{"samples": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "100,000 objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "lone surrogate": GOOD.replace(b'"a"', b'"\\ud800"'),
    "broken UTF-8": GOOD.replace(b'"a"', b'"\xff"'),
    "a raw control character": GOOD.replace(b'"a"', b'"a\x00b"'),
    "single quotes": GOOD.replace(b'"', b"'"),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("text", NOT_JSON.values(), ids=NOT_JSON)
def test_what_is_not_json_is_told_so(service, path, text):
    problem = problem_of(service.post_json(path, text), 400)
    assert problem["code"] == "not_json"


def wrong(pointer, **changes):
    return {"samples": [sample("a") | changes]}, pointer


def features(image, text=None):
    text = encoded(vector(1, TEXT)) if text is None else text
    return {"image_embedding": image, "text_embedding": text}


LONG = "/samples/0/features/image_embedding"
WRONG_FORM = {
    "a list": ([], ""),
    "null": (None, ""),
    "a number": (1, ""),
    "a string": ("samples", ""),
    "no samples": ({}, "/samples"),
    "samples of another type": ({"samples": {}}, "/samples"),
    "no sample": ({"samples": []}, "/samples"),
    "an extra field": ({"samples": [sample("a")], "sample": 1}, "/sample"),
    "a field with a slash": ({"samples": [sample("a")], "a/b~c": 1}, "/a~1b~0c"),
    "an extra field of a sample": wrong("/samples/0/extra", extra=1),
    "no id": ({"samples": [{"features": sample("a")["features"]}]}, "/samples/0/id"),
    "a number as id": wrong("/samples/0/id", id=7),
    "null as id": wrong("/samples/0/id", id=None),
    "an empty id": wrong("/samples/0/id", id=""),
    "a long id": wrong("/samples/0/id", id="x" * 10_000),
    "NUL in an id": wrong("/samples/0/id", id="a\0b"),
    "an escape character in an id": wrong("/samples/0/id", id="a\x1b[2J"),
    "a line feed in an id": wrong("/samples/0/id", id="a\nb"),
    "text as features": wrong("/samples/0/features", features="x"),
    "half of the features": (
        {"samples": [{"id": "a", "features": {"image_embedding": [1.0]}}]},
        "/samples/0/features/text_embedding",
    ),
    "text among numbers": wrong(LONG + "/1", features=features([1.0, "2"] + [0.0] * (IMAGE - 2))),
    "true among numbers": wrong(LONG + "/0", features=features([True] + [0.0] * (IMAGE - 1))),
    "no numbers": wrong(LONG, features=features([])),
    "an unknown dtype": wrong(
        LONG + "/dtype", features=features(encoded(vector(1, IMAGE)) | {"dtype": "float64"})
    ),
    "turns of another type": (
        {"samples": [{"id": "a", "conversations": {"from": "human"}}]},
        "/samples/0/conversations",
    ),
    "features and turns": wrong("/samples/0", conversations=[]),
    "the second sample": ({"samples": [sample("a"), {"id": "b"}]}, "/samples/1"),
    "more samples than a batch": (samples(*"abcde"), "/samples"),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("body", "pointer"), WRONG_FORM.values(), ids=WRONG_FORM)
def test_a_wrong_form_is_refused_whole_with_the_path_of_the_field(service, path, body, pointer):
    problem = problem_of(service.post_json(path, text_of(body)), 422)
    assert problem["pointer"] == pointer


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999"]


@pytest.mark.parametrize("number", [*NUMBERS, "1e39", "9" * 300, "9" * 5000])
def test_numbers_that_are_none_are_refused(service, number):
    row = f"[{number}{', 0.5' * (IMAGE - 1)}]"
    body = GOOD.decode().replace(json.dumps(sample("a")["features"]["image_embedding"]), row)
    assert number in body
    for path in PATHS:
        response = service.post_json(path, body.encode())
        assert response.status_code in (400, 422)
        problem_of(response, response.status_code)


def alone(features):
    return text_of({"samples": [{"id": "a", "features": features}]})


HALF = vector(1, TEXT)
UNUSABLE = {
    "too few numbers": features([0.5]),
    "too many numbers": features([0.5] * (IMAGE + 1)),
    "broken base64": features({"base64": "a!b", "dtype": "float32"}),
    "base64 cut in half": features({"base64": encoded(HALF)["base64"][:-3], "dtype": "float32"}),
    "bytes that are no whole numbers": features({"base64": "AAAA", "dtype": "float32"}),
    "NaN in base64": features(encoded(np.full(IMAGE, np.nan, "<f4"))),
    "Infinity in base64": features(encoded(np.full(IMAGE, np.inf, "<f4"))),
    "all zero": features([0.0] * IMAGE, [0.0] * TEXT),
    "emoji as base64": features({"base64": "\N{GRINNING FACE}" * 8, "dtype": "float32"}),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("given", UNUSABLE.values(), ids=UNUSABLE)
def test_features_that_cannot_be_used_fail_the_request_when_they_are_alone(service, path, given):
    problem_of(service.post_json(path, alone(given)), 422)


def test_a_sample_that_fails_among_others_fails_alone(service):
    body = samples("good-1", "bad", "good-2")
    body["samples"][1]["features"] = UNUSABLE["too few numbers"]
    response = service.post("/v1/score", json=body)
    assert response.status_code == 200
    first, second, third = response.json()["results"]
    assert (first["id"], third["id"]) == ("good-1", "good-2")
    assert {"difficulty", "weight", "percentile"} <= set(first) & set(third)
    assert second["id"] == "bad"
    assert second["error"].keys() >= {"code", "status", "detail", "remedy"}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "", "application/x-ndjson", "application/json; charset=utf-16", "a" * 5000],
)
def test_another_content_type_is_refused(service, path, content_type):
    headers = {"content-type": content_type}
    problem_of(service.post(path, content=GOOD, headers=headers), 415)


@pytest.mark.parametrize("path", [*PATHS, "/v1/select/stream"])
def test_a_compressed_body_is_refused(service, path):
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    if path.endswith("stream"):
        headers["content-type"] = "application/x-ndjson"
    problem = problem_of(service.post(path, content=GOOD, headers=headers), 415)
    assert problem["code"] in ("content_encoding", "content_type")


@pytest.mark.parametrize("parameter", ["after=x", "after=-2", "after=1e3", "after=" + "9" * 5000])
@pytest.mark.parametrize("limit", ["limit=0", "limit=-1", "limit=NaN", "limit=" + "9" * 5000])
def test_wrong_parameters_are_refused_by_name(service, parameter, limit):
    for query in (parameter, limit):
        problem = problem_of(service.get(f"/v1/selection?{query}"), 422)
        assert query.partition("=")[0] in problem["detail"]


@pytest.mark.parametrize("sequence", ["x", "-1", "1.5", "9" * 5000, "%00", "0x10"])
def test_a_thumbnail_of_no_sequence_is_refused(service, sequence):
    problem_of(service.get(f"/v1/thumbnails/{sequence}"), 422)


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "BREW"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_on_every_route_is_answered_without_a_500(service, method):
    paths = [*service.app.openapi()["paths"], "/", "/page.js", "/openapi.json", "/nowhere", "//"]
    for path in paths:
        if path == "/v1/admin/snapshot" and method == "POST":
            continue
        response = service.request(method, path.replace("{sequence}", "0"))
        assert response.status_code < 500, (method, path)
        if response.status_code >= 400 and method != "HEAD":
            problem_of(response, response.status_code)


@pytest.mark.parametrize(
    "path", ["/nowhere", "/v1", "/v1/", "/v1/score/", "//v1/score", "/v1/%2e%2e/v1/score", "/docs"]
)
def test_an_unknown_address_is_a_problem(service, path):
    assert problem_of(service.post(path, content=GOOD), 404)["code"] == "not_found"


def talk(*turns, **more):
    said = [{"from": role, "value": text} for role, text in turns]
    return {"id": "a", "conversations": said} | more


PIXEL = base64.b64encode(b"GIF89a\1\0\1\0").decode()
BAD_TALKS = {
    "no turns": (talk(), 422),
    "an odd role": (talk(("robot", "hello"), ("gpt", "hi")), 422),
    "no answer": (talk(("human", "hello")), 422),
    "an image mark without an image": (talk(("human", "<image> what?"), ("gpt", "it")), 422),
    "100,000 turns": (talk(*[("human", "x"), ("gpt", "y")] * 50_000), 422),
    "a giant text": (talk(("human", "x" * 3_000_000), ("gpt", "y")), 413),
    "a path without a root": (talk(("human", "x"), ("gpt", "y"), image={"path": "a.jpg"}), 403),
    "a URL that is not allowed": (
        talk(("human", "x"), ("gpt", "y"), image={"url": "http://127.0.0.1/a"}),
        403,
    ),
    "an image cut off": (talk(("human", "x"), ("gpt", "y"), image={"base64": PIXEL}), 422),
    "no base64": (talk(("human", "x"), ("gpt", "y"), image={"base64": "a!"}), 422),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("given", "status"), BAD_TALKS.values(), ids=BAD_TALKS)
def test_a_conversation_that_cannot_be_used_is_refused(service, path, given, status):
    problem_of(service.post_json(path, text_of({"samples": [given]})), status)


def test_the_input_is_not_repeated_in_the_answer(service):
    secret = base64.b64encode(b"secret" * 9).decode()
    response = service.post_json("/v1/score", text_of({"samples": [{"id": 1, "password": secret}]}))
    problem_of(response, 422)
    assert secret not in response.text
