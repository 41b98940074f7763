"""The Python client against the whole service behind a real server."""

import base64
import email.utils
import functools
import http.server
import itertools
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from http_service import sample
from hypothesis import given
from hypothesis import strategies as st
from running_service import running

from selfilter_ray.errors import ConfigError
from selfilter_ray.service.client import (
    Answer,
    Client,
    SampleError,
    Score,
    ServiceError,
    UnreachableError,
    encode_features,
    encode_image,
)
from selfilter_ray.service.client.lines import chunks
from selfilter_ray.service.client.transport import retry_after
from selfilter_ray.service.http.keys import Key, hash_of


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """Admits everything that is no near duplicate: (url, service, gatekeeper)."""
    online = {"rate": 0.5, "near_duplicate": 0.99}
    with running(tmp_path_factory.mktemp("client"), online=online) as parts:
        yield parts


@pytest.fixture
def client(service):
    with Client(service[0], patience=20.0) as client:
        yield client


fresh = itertools.count(1)


def new(count):
    return [sample(f"c{number}") for number in itertools.islice(fresh, count)]


def test_scores_and_decisions_come_typed_and_in_order(client):
    samples = new(5)
    scores, answers = client.score(samples), client.select(samples)
    assert all(isinstance(score, Score) for score in scores)
    assert [score.id for score in scores] == [one["id"] for one in samples]
    assert [answer.id for answer in answers] == [one["id"] for one in samples]
    assert [answer.difficulty for answer in answers] == [score.difficulty for score in scores]
    assert {answer.reason for answer in answers} <= {"admitted", "too_easy", "near_duplicate"}
    assert all(answer.admitted == (answer.reason == "admitted") for answer in answers)


def test_an_id_that_comes_again_gets_the_same_answer(client):
    samples = new(4)
    assert client.select(samples) == client.select(samples)
    assert list(client.select_stream(samples)) == client.select(samples)


def test_other_content_under_a_known_id_is_an_error_of_that_sample(client):
    [known, other] = new(2)
    client.select([known])
    changed = {**other, "id": known["id"]}
    refused, answered = client.select([changed, other])
    assert isinstance(refused, SampleError) and isinstance(answered, Answer)
    assert (refused.id, refused.code, refused.status) == (known["id"], "id_conflict", 409)
    with pytest.raises(ServiceError) as alone:
        client.select([changed])
    assert alone.value.status == 409 and alone.value.code == "id_conflict" and alone.value.remedy


def test_a_wrong_form_names_its_field(client):
    with pytest.raises(ServiceError) as raised:
        client.select([{"id": "", "conversations": []}])
    assert raised.value.status == 422 and raised.value.pointer == "/samples/0/id"
    assert "/samples/0/id" in str(raised.value)


def test_a_stream_of_many_chunks_keeps_its_order_and_takes_samples_as_it_goes(client):
    taken = []

    def samples():
        for one in new(40):
            taken.append(one["id"])
            yield one

    answers = client.select_stream(samples(), lines=8)
    first = next(answers)
    assert len(taken) <= 9
    assert [first.id, *(answer.id for answer in answers)] == taken


def test_one_bad_sample_in_a_stream_fails_alone(client):
    one, other = new(2)
    bad = {"id": "bad\u2028id", "features": {"image_embedding": [1.0], "text_embedding": [1.0]}}
    answers = list(client.select_stream([one, bad, other]))
    assert [type(answer) for answer in answers] == [Answer, SampleError, Answer]
    assert answers[1].status == 422


def test_a_service_that_is_away_is_asked_again(service, client):
    gate = service[2]
    samples = new(3)
    for status in (503, 429, 502, 500):
        gate.refusals, gate.status = 2, status
        before = len(gate.requests)
        assert client.select(samples) == client.select(samples)
        assert len(gate.requests) == before + 4


def test_an_answer_that_breaks_off_is_asked_for_again(service, client):
    gate = service[2]
    samples = new(30)
    gate.cuts = 2
    answers = list(client.select_stream(samples))
    assert gate.cuts == 0
    assert [answer.id for answer in answers] == [one["id"] for one in samples]
    assert answers == client.select(samples)
    gate.cuts = 1
    assert client.stats()["sequence"] >= 30


def test_patience_ends(service):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = f"http://127.0.0.1:{probe.getsockname()[1]}"
    with Client(free, patience=0.5) as client:
        assert not client.ready().ready
        with pytest.raises(UnreachableError, match="readyz"):
            client.stats()


def test_the_selection_comes_page_by_page_from_where_it_is_wanted(service, client, monkeypatch):
    client.select(new(20))
    whole = list(client.selection())
    assert [kept.sequence for kept in whole] == sorted(kept.sequence for kept in whole)
    assert len(whole) == client.stats()["kept"] and all(kept.admitted for kept in whole)
    monkeypatch.setattr("selfilter_ray.service.client.client.PAGE", 3)
    assert list(client.selection()) == whole
    assert list(client.selection(after=whole[1].sequence, limit=4)) == whole[2:6]


def test_a_snapshot_is_written(client):
    client.select(new(1))
    snapshot = client.snapshot()
    assert snapshot.kept == client.stats()["kept"] and snapshot.bytes > 0 and snapshot.file


def test_readiness_names_the_parts(client):
    ready = client.ready()
    assert ready.ready and ready.parts["writer"]["ready"]


def test_keys_are_sent_and_a_wrong_one_is_not_tried_twice(tmp_path, monkeypatch):
    key = Key("one", "data", hash_of("right"))
    monkeypatch.setenv("TEST_KEYS", key.line())
    with running(tmp_path, keys={"environment": "TEST_KEYS"}) as (url, _, gate):
        with Client(url, key="right") as client:
            assert client.stats()["sequence"] == 0
            with pytest.raises(ServiceError) as raised:
                client.snapshot()
            assert raised.value.status == 403
        gate.requests.clear()
        with Client(url, key="wrong") as client, pytest.raises(ServiceError) as raised:
            client.stats()
        assert raised.value.status == 401 and len(gate.requests) == 1
        assert "wrong" not in str(raised.value)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://host", "http://", "http://a:b@host"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ConfigError):
        Client(url)


def test_features_and_images_come_back_from_their_base64(tmp_path):
    image, text = np.arange(3.0), np.array([0.1, -2.5])
    encoded = encode_features(image, text)
    for name, values in (("image_embedding", image), ("text_embedding", text)):
        raw = base64.b64decode(encoded[name]["base64"])
        assert np.array_equal(np.frombuffer(raw, "<f4"), values.astype("<f4"))
    with pytest.raises(ValueError, match="shape"):
        encode_features(np.zeros((2, 2)), text)
    (tmp_path / "a.png").write_bytes(b"bytes")
    assert encode_image(tmp_path / "a.png") == encode_image(b"bytes") == {"base64": "Ynl0ZXM="}


@given(st.lists(st.binary(max_size=12)), st.integers(1, 5), st.integers(1, 20))
def test_chunks_keep_every_line_within_their_limits(lines, most, size):
    cut = list(chunks(lines, len, most, size))
    assert [line for chunk in cut for line in chunk] == lines
    for chunk in cut:
        assert 1 <= len(chunk) <= most
        assert len(chunk) == 1 or sum(map(len, chunk)) <= size


def test_retry_after_is_seconds_or_a_date():
    assert retry_after("7") == 7.0
    assert retry_after(None) == retry_after("soon") == 0.0
    assert retry_after(email.utils.formatdate(time.time() - 60, usegmt=True)) == 0.0
    assert 3000 < retry_after(email.utils.formatdate(time.time() + 3600, usegmt=True)) <= 3600


def test_the_client_needs_neither_torch_nor_ray():
    code = (
        "import sys, selfilter_ray.service.client; "
        "sys.exit(bool({'torch', 'ray', 'fastapi'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_something_else_at_the_address_is_not_ready(tmp_path):
    answering = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with Client(f"http://127.0.0.1:{server.server_port}") as client:
            ready = client.ready()
        server.shutdown()
    assert not ready.ready and "404" in ready.parts["service"]["detail"]
