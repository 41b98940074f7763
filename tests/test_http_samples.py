"""Scoring and selecting: what is answered is what scorer and selector say."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from http_service import IMAGE, TEXT, Watched, problem_of, sample, samples, service_in, vector

from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.scoring import score_features
from selfilter_ray.service.messages import BusyError, NotReadyError
from selfilter_ray.service.scoring import FeatureScorer
from selfilter_ray.stage1.score_net import load_score_net

LIMITS = {"queue": 3, "request_seconds": 0.4}


@pytest.fixture
def service(tmp_path):
    online = {"budget": 3}
    with service_in(tmp_path, wrap=Watched, limits=LIMITS, online=online) as service:
        yield service


def select(service, *ids):
    response = service.post("/v1/select", json=samples(*ids))
    assert response.status_code == 200, response.text
    return response.json()["results"]


def as_lists(seed):
    image, text = vector([seed, 0], IMAGE), vector([seed, 1], TEXT)
    features = {"image_embedding": image.tolist(), "text_embedding": text.tolist()}
    return {"id": str(seed), "features": features}


def test_scores_are_those_of_the_score_net(service):
    [answer] = service.post("/v1/score", json={"samples": [sample("7", seed=7)]}).json()["results"]
    net, _ = load_score_net(RunFolder(service.config.run_dir).score_net)
    row_D = np.concatenate([vector([7, 0], IMAGE), vector([7, 1], TEXT)])
    assert answer["difficulty"] == -float(score_features(net, row_D[None])[0])
    assert answer["id"] == "7"
    assert 0 <= answer["percentile"] <= 100


def test_lists_and_base64_are_the_same_sample(service):
    one = service.post("/v1/score", json={"samples": [as_lists(5)]}).json()
    other = service.post("/v1/score", json={"samples": [sample("5", seed=5)]}).json()
    assert one == other
    first = service.post("/v1/select", json={"samples": [as_lists(5)]}).json()
    again = service.post("/v1/select", json={"samples": [sample("5", seed=5)]}).json()
    assert first == again


def test_decisions_are_those_of_the_selector_in_the_order_of_the_samples(service):
    ids = [str(number) for number in range(8)]
    answers = select(service, *ids[:5]) + select(service, *ids[5:])
    net = FeatureScorer(service.config.run_dir)
    selector = OnlineSelector(service.config.online, sum(net.features), net.base)
    rows = [
        np.concatenate([vector([abs(hash(id)), 0], IMAGE), vector([abs(hash(id)), 1], TEXT)])
        for id in ids
    ]
    decisions = selector.decide(ids, [answer["difficulty"] for answer in answers], rows)
    for answer, decision in zip(answers, decisions, strict=True):
        assert answer["sequence"] == decision.sequence
        assert answer["admitted"] == decision.admitted
        assert answer["reason"] == decision.reason
        assert answer["adjusted"] == decision.adjusted
        assert answer.get("evicted") == decision.evicted
        near = [(one["id"], one["similarity"]) for one in answer["nearest"]]
        assert near == list(zip(decision.nearest, decision.similarities, strict=True))
    assert [answer["threshold"] for answer in answers[:3]] == [None] * 3
    assert any("evicted" in answer for answer in answers)


def test_the_same_id_gets_the_same_answer_and_takes_no_new_place(service):
    first = select(service, "a", "b")
    assert select(service, "b", "a") == first[::-1]
    assert service.get("/v1/stats").json()["sequence"] == 2


def test_the_same_id_twice_in_a_request_is_one_sample(service):
    one, two = select(service, "a", "a")
    assert one == two
    assert service.get("/v1/stats").json()["sequence"] == 1


def test_the_same_id_with_other_content_is_a_conflict(service):
    select(service, "a")
    other = {"samples": [sample("a", seed=1)]}
    assert problem_of(service.post("/v1/select", json=other), 409)["code"] == "id_conflict"
    other["samples"].append(sample("b"))
    conflict, good = service.post("/v1/select", json=other).json()["results"]
    assert (conflict["id"], conflict["error"]["status"]) == ("a", 409)
    assert good["sequence"] == 1


def test_requests_at_the_same_time_are_decided_one_after_the_other(service):
    async def send():
        posts = [service.client.post("/v1/select", json=samples(str(n))) for n in range(3)]
        return await asyncio.gather(*posts)

    answers = service.run(send())
    sequences = [answer.json()["results"][0]["sequence"] for answer in answers]
    assert sorted(sequences) == [0, 1, 2]


def test_a_request_beyond_the_queue_is_told_to_come_again(service):
    service.backend.held = True

    async def send():
        posts = [service.client.post("/v1/select", json=samples(str(n))) for n in range(3)]
        waiting = [asyncio.create_task(post) for post in posts]
        while service.backend.waiting < 3:
            await asyncio.sleep(0.002)
        refused = [
            await service.client.post("/v1/score", json=samples("x")),
            await service.client.post(
                "/v1/select/stream", content=b"", headers={"content-type": "application/x-ndjson"}
            ),
        ]
        health = await service.client.get("/healthz")
        service.backend.held = False
        return refused, health, await asyncio.gather(*waiting)

    refused, health, answered = service.run(send())
    for response in refused:
        assert problem_of(response, 429)["code"] == "busy"
        assert int(response.headers["retry-after"]) >= 1
    assert health.status_code == 200
    assert [response.status_code for response in answered] == [200] * 3
    assert service.post("/v1/score", json=samples("x")).status_code == 200


def test_a_request_that_takes_too_long_is_given_up_and_may_come_again(service):
    service.backend.held = True
    response = service.post("/v1/select", json=samples("a"))
    assert problem_of(response, 503)["code"] == "not_ready"
    assert int(response.headers["retry-after"]) >= 1
    service.backend.held = False
    [answer] = select(service, "a")
    assert answer["sequence"] == 0


@pytest.mark.parametrize(
    ("error", "status"), [(NotReadyError("disk full", 2.5), 503), (BusyError("many", 2.5), 429)]
)
def test_a_backend_that_cannot_answer_is_a_problem_with_retry_after(service, error, status):
    service.backend.errors.append(error)
    response = service.post("/v1/select", json=samples("a"))
    assert problem_of(response, status)["detail"] == error.detail
    assert response.headers["retry-after"] == "3"


def test_a_bug_behind_the_interface_is_answered_without_what_it_said(service, caplog):
    service.backend.errors.append(ValueError("payload of someone"))
    response = service.post("/v1/select", json=samples("a"))
    assert problem_of(response, 500)["code"] == "internal"
    assert "someone" not in response.text + caplog.text
    assert "content-security-policy" in response.headers
