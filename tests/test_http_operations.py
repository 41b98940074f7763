"""Health, metrics, logs, headers, limits while reading, and what the docs promise."""

from __future__ import annotations

import io
import json
import logging
import re
import socket
from pathlib import Path

import httpx
import pytest
from http_service import (
    Watched,
    lines_of,
    ndjson,
    problem_of,
    sample,
    samples,
    server_of,
    service_in,
)
from prometheus_client.parser import text_string_to_metric_families

from selfilter_ray.service.http.logs import JsonFormatter

BODY = 100_000
DOCS = Path(__file__).parents[1] / "docs" / "service.md"


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    folder = tmp_path_factory.mktemp("service")
    limits = {"body_bytes": BODY, "request_seconds": 1.0}
    with service_in(folder, wrap=Watched, limits=limits) as service:
        yield service


@pytest.fixture(scope="module")
def server(service):
    with server_of(service.app) as address:
        yield address


def test_the_selection_is_read_in_pages_by_sequence(service):
    ids = [str(number) for number in range(60)]
    lines_of(service.stream(ndjson(*map(sample, ids))))
    everything = lines_of(service.get("/v1/selection"))
    assert len(everything) == service.get("/v1/stats").json()["kept"] > 3
    assert all(kept["admitted"] and kept["decided_at"] > 0 for kept in everything)
    first = lines_of(service.get("/v1/selection?limit=2"))
    rest = lines_of(service.get(f"/v1/selection?after={first[-1]['sequence']}"))
    assert first + rest == everything
    assert lines_of(service.get(f"/v1/selection?after={everything[-1]['sequence']}")) == []


def test_a_selection_of_several_pages_is_whole(service, monkeypatch):
    lines_of(service.stream(ndjson(*map(sample, range(60)))))
    everything = lines_of(service.get("/v1/selection"))
    monkeypatch.setattr("selfilter_ray.service.http.streaming.PAGE", 2)
    assert lines_of(service.get("/v1/selection")) == everything
    assert lines_of(service.get("/v1/selection?limit=3")) == everything[:3]


def test_what_is_newest_is_told_and_a_missing_picture_is_a_404(service):
    lines_of(service.stream(ndjson(*map(sample, range(60)))))
    newest = service.get("/v1/recent?limit=3").json()
    assert {len(newest["admitted"]), len(newest["rejected"])} <= {1, 2, 3}
    sequence = newest["admitted"][0]["sequence"]
    problem_of(service.get(f"/v1/thumbnails/{sequence}"), 404)


def test_a_snapshot_is_written_when_asked_for(service):
    service.post("/v1/select", json=samples("snap"))
    answer = service.post("/v1/admin/snapshot").json()
    stats = service.get("/v1/stats").json()
    assert (answer["sequence"], answer["kept"]) == (stats["sequence"], stats["kept"])
    assert stats["snapshot"]["bytes"] == answer["bytes"] > 0


def test_readiness_names_the_parts(tmp_path):
    with service_in(tmp_path) as service:
        ready = service.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        service.local._writer.close()
        away = service.get("/readyz")
        assert away.status_code == 503
        assert away.json()["parts"]["writer"]["ready"] is False
        assert away.headers["retry-after"] == "1"
        assert service.get("/healthz").status_code == 200
        assert service.get("/metrics").status_code == 200
        for path in ("/v1/select", "/v1/score"):
            expected = 503 if path.endswith("select") else 200
            assert service.post(path, json=samples("a")).status_code == expected
        problem_of(service.stream(ndjson(sample("a"))), 503)


def values_of(text):
    return {
        (line.name, *sorted(line.labels.items())): line.value
        for family in text_string_to_metric_families(text)
        for line in family.samples
    }


def test_metrics_count_requests_samples_lines_and_decisions(service):
    before = values_of(service.get("/metrics").text)
    service.post("/v1/score", json=samples("m1", "m2"))
    service.post_json("/v1/score", b"{")
    service.get("/nowhere/secret-path")
    lines_of(service.stream(ndjson(sample("m1")) + b"bad\n"))
    response = service.get("/metrics")
    after = values_of(response.text)
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert all(name.startswith("selfilter_") for name, *_ in after)
    assert "secret-path" not in response.text

    def grown(name, **labels):
        key = (name, *sorted(labels.items()))
        return after.get(key, 0.0) - before.get(key, 0.0)

    asked = {"method": "POST", "route": "/v1/score"}
    assert grown("selfilter_http_requests_total", status="200", **asked) == 1
    assert grown("selfilter_http_requests_total", status="400", **asked) == 1
    assert grown("selfilter_samples_total", route="/v1/score", outcome="scored") == 2
    assert grown("selfilter_stream_lines_total") == 2
    assert grown("selfilter_samples_total", route="/v1/select/stream", outcome="not_json") == 1
    assert grown("selfilter_http_request_seconds_count", route="/v1/score") == 2
    assert after[("selfilter_http_requests_in_flight",)] == 1.0
    stats = service.get("/v1/stats").json()
    assert after[("selfilter_decisions_total", ("reason", "admitted"))] == stats["admitted"]
    assert after[("selfilter_kept",)] == stats["kept"]
    assert after[("selfilter_log_decisions",)] == stats["sequence"]


def test_every_answer_has_the_security_headers_and_an_id(service):
    for path in ("/", "/healthz", "/nowhere", "/v1/stats", "/openapi.json", "/v1/score"):
        headers = service.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy and "*" not in policy and "http" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert re.fullmatch("[0-9a-f]{16}", headers["x-request-id"])


def test_a_sane_request_id_is_taken_over_and_another_is_not(service):
    def answered(given):
        return service.get("/healthz", headers={"x-request-id": given}).headers["x-request-id"]

    assert answered("trace-1:a.b_c") == "trace-1:a.b_c"
    for odd in ("", "a b", "x" * 129, "a;b", 'a"b', "a\tb"):
        assert answered(odd) != odd
    raw = service.get("/healthz", headers={b"x-request-id": b"\xff"}).headers["x-request-id"]
    assert re.fullmatch("[0-9a-f]{16}", raw)


def test_the_page_is_served_as_it_lies_in_the_package(service):
    page = service.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert service.get("/page.js").headers["content-type"].startswith("text/javascript")
    for address in re.findall(r'(?:src|href)="([^"]+)"', page.text):
        if not address.startswith("data:"):
            assert service.get("/" + address.lstrip("/.")).status_code == 200


@pytest.fixture
def logged():
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("selfilter_ray")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield lambda: [json.loads(line) for line in text.getvalue().splitlines()]
    logger.removeHandler(handler)
    logger.setLevel(level)


def test_the_log_has_one_line_a_request_with_counts_and_no_payload(service, logged):
    response = service.post("/v1/score", json=samples("secret-id", "other"))
    service.stream(ndjson(sample("secret-id")))
    service.get("/v1/selection?after=1&secret=1")
    lines = [line for line in logged() if line["message"] == "request"]
    assert [line["route"] for line in lines] == ["/v1/score", "/v1/select/stream", "/v1/selection"]
    assert lines[0]["request_id"] == response.headers["x-request-id"]
    assert (lines[0]["status"], lines[0]["samples"], lines[0]["method"]) == (200, 2, "POST")
    assert (lines[1]["lines"], lines[1]["samples"]) == (1, 1)
    assert lines[0]["seconds"] > 0
    assert "secret" not in json.dumps(logged())


def test_an_error_is_logged_with_its_places_and_without_its_message(service, logged):
    service.backend.errors.append(ValueError("payload of someone"))
    service.post("/v1/select", json=samples("never seen"))
    [line] = [line for line in logged() if line["level"] == "error"]
    assert line["error"]["type"] == "ValueError"
    assert any("http_service.py" in place for place in line["error"]["places"])
    assert "someone" not in json.dumps(line)


# The limit while reading, on a real socket.


class Endless:
    """A body that goes on; counts what was taken."""

    def __init__(self, chunk=b" " * 65_536, chunks=2_000):
        self.chunk, self.chunks, self.taken = chunk, chunks, 0

    def __iter__(self):
        for _ in range(self.chunks):
            self.taken += len(self.chunk)
            yield self.chunk


@pytest.mark.parametrize("path", ["/v1/score", "/v1/select"])
def test_a_chunked_body_over_the_limit_is_refused_before_its_end(server, path):
    body = Endless()
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{server}{path}", content=body, headers=headers, timeout=20)
    assert problem_of(response, 413)["code"] == "body_too_large"
    assert response.headers["connection"] == "close"
    assert body.taken < 65_536 * 2_000 / 2


def test_a_long_body_is_refused_by_its_header_alone(server):
    host, _, port = server.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /v1/score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {BODY + 1}\r\n\r\n".encode())
        assert connection.recv(65_536).startswith(b"HTTP/1.1 413 ")


def test_a_body_that_does_not_arrive_is_given_up(server):
    host, _, port = server.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = f"POST /v1/score HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {BODY}\r\n\r\n".encode() + b"{")
        assert connection.recv(65_536).startswith(b"HTTP/1.1 408 ")


def test_a_body_as_long_as_the_limit_is_read(server):
    text = json.dumps(samples("long")).encode()
    headers = {"content-type": "application/json"}
    padded = text + b" " * (BODY - len(text))
    assert httpx.post(f"{server}/v1/score", content=padded, headers=headers).status_code == 200
    over = httpx.post(f"{server}/v1/score", content=padded + b" ", headers=headers)
    assert problem_of(over, 413)


@pytest.mark.parametrize(
    "raw", [b"BREW / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET\r\n\r\n"]
)
def test_what_is_no_http_is_no_500(server, raw):
    host, _, port = server.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(raw)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65_536)
    assert not answer.startswith(b"HTTP/1.1 5")


def test_every_route_is_in_the_docs_with_a_curl_example(service):
    text = DOCS.read_text(encoding="utf-8")
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    shown = " ".join(line for block in blocks for line in block.splitlines())
    paths = [*service.app.openapi()["paths"], "/", "/openapi.json"]
    for path in paths:
        address = re.escape("http://localhost:8000" + path).replace(r"\{sequence\}", r"\d+")
        assert re.search(rf"curl [^\n]*{address}(?=[\s'?\"]|$)", shown), path
