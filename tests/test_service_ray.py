"""The service on a real Ray Serve: it answers as its parts do, and survives the writer's death."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import httpx
import numpy as np
import pytest
from service_run import SIZES, make_pool_features, make_service_run

from benchmarks.service_chaos import TARGETS, kill
from selfilter_ray.online.base import base_of
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.service.client import Client, ServiceError, encode_features
from selfilter_ray.service.config import load_service_config
from selfilter_ray.service.messages import Incoming
from selfilter_ray.service.scoring import FeatureScorer
from selfilter_ray.service.settings import BODY

pytestmark = pytest.mark.ray

START_SECONDS = 240


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    return make_service_run(tmp_path_factory.mktemp("service") / "run")


@pytest.fixture(scope="module")
def service(run_dir):
    """The command as a user starts it; its URL and its process."""
    port = free_port()
    command = [sys.executable, "-m", "selfilter_ray.cli", "serve", str(run_dir)]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + START_SECONDS
    with Client(url) as client:
        while not client.ready().ready:
            assert process.poll() is None, process.stdout.read()
            assert time.monotonic() < deadline, "the service does not get ready"
            time.sleep(0.3)
    yield url, process
    process.kill()
    process.wait()


def samples(count: int, seed: int) -> tuple[list[dict], np.ndarray]:
    rows = make_pool_features(count, seed)
    made = [
        {"id": f"{seed}-{number}", "features": encode_features(*np.split(row, SIZES[:1]))}
        for number, row in enumerate(rows)
    ]
    return made, rows


def difficulty(run_dir, rows: np.ndarray) -> list[float]:
    sent = [Incoming("", b"", row) for row in rows]
    return [scored.difficulty for scored in FeatureScorer(run_dir).score(sent)]


def test_scores_are_those_of_the_score_net(service, run_dir):
    sent, rows = samples(20, 1)
    with Client(service[0]) as client:
        scores = client.score(sent)
    assert [score.id for score in scores] == [sample["id"] for sample in sent]
    assert [score.difficulty for score in scores] == difficulty(run_dir, rows)


def test_decisions_are_those_of_the_rule_and_outlive_the_writer(service, run_dir):
    sent, rows = samples(120, 2)
    with Client(service[0], patience=120) as client:
        first = client.select(sent[:50])
        assert kill(TARGETS["writer"], service[1].pid) is not None
        rest = [answer for start in (50, 85) for answer in client.select(sent[start : start + 35])]
        again = client.select(sent[:50])
        kept = list(client.selection())
    assert again == first
    config = load_service_config(run_dir)
    net = FeatureScorer(run_dir)
    selector = OnlineSelector(
        config.online, rows.shape[1], base_of(config.online, np.array([net.base]))
    )
    expected = selector.decide([s["id"] for s in sent], difficulty(run_dir, rows), rows)
    found = [(a.id, a.admitted, a.adjusted, a.sequence) for a in first + rest]
    assert found == [(d.id, d.admitted, d.adjusted, d.sequence) for d in expected]
    assert [a.id for a in kept] == [d.id for d in expected if d.admitted]


def test_a_stream_comes_back_in_order_and_a_bad_sample_fails_alone(service):
    sent, _ = samples(300, 3)
    sent[100] = {"id": "bad", "features": encode_features(np.ones(2), np.ones(2))}
    with Client(service[0]) as client:
        answers = list(client.select_stream(sent))
    assert [answer.id for answer in answers] == [sample["id"] for sample in sent]
    assert answers[100].status == 422
    sequences = [answer.sequence for answer in answers if hasattr(answer, "sequence")]
    assert sequences == sorted(sequences) and len(sequences) == 299


def test_other_content_under_a_known_id_is_a_conflict(service):
    (first,), _ = samples(1, 4)
    (other,), _ = samples(1, 5)
    with Client(service[0]) as client:
        client.select([first])
        with pytest.raises(ServiceError) as caught:
            client.select([other | {"id": first["id"]}])
    assert caught.value.status == 409


def test_a_conversation_goes_through_the_scorer_replica(service):
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A red square."}]
    with Client(service[0]) as client:
        (score,) = client.score([{"id": "text", "conversations": turns}])
        (again,) = client.score([{"id": "other id", "conversations": turns}])
    assert score.difficulty == again.difficulty


def test_what_stands_before_the_service_changes_no_answer(service):
    url, _ = service
    given = {"x-request-id": "mine", "Content-Type": "application/json"}
    with httpx.Client(base_url=url, timeout=60) as client:
        answer = client.post("/v1/score", content=b'{"samples": []}', headers=given)
        assert answer.headers.get_list("x-request-id") == ["mine"]
        large = client.post("/v1/score", content=b" " * (BODY + 1), headers=given)
        assert (large.status_code, large.json()["code"]) == (413, "body_too_large")
        line = b'{"id": "' + b"x" * BODY + b'"}\n{"id": "after"}\n'
        stream = client.post(
            "/v1/select/stream", content=line, headers={"Content-Type": "application/x-ndjson"}
        )
    errors = [json.loads(line)["error"]["code"] for line in stream.text.splitlines()]
    assert errors[0] == "line_too_large"
    assert len(errors) == 2


def test_a_stop_is_clean_and_the_selection_is_on_disk(service, run_dir):
    url, process = service
    with Client(url) as client:
        kept = [answer.id for answer in client.selection()]
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    from selfilter_ray.service.state.writer import SelectionWriter

    config, net = load_service_config(run_dir), FeatureScorer(run_dir)
    base = base_of(config.online, np.array([net.base]))
    writer = SelectionWriter.open(config, sum(net.features), base, "a test")
    assert [one.decision.id for one in writer.selection(-1, 10_000)] == kept
    writer.close()
