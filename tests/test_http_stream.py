"""The stream, through a real server: NDJSON both ways, in order, in bounded memory."""

from __future__ import annotations

import json
import select
import socket

import httpx
import pytest
from http_service import (
    Watched,
    lines_of,
    ndjson,
    problem_of,
    sample,
    server_of,
    service_in,
    wait_until,
)

from selfilter_ray.service.messages import BusyError, NotReadyError

LIMITS = {"batch": 4, "lines": 40, "line_bytes": 20_000, "request_seconds": 0.5}
TYPE = {"content-type": "application/x-ndjson"}


@pytest.fixture
def service(tmp_path):
    with service_in(tmp_path, wrap=Watched, limits=LIMITS) as service:
        yield service


@pytest.fixture
def server(service):
    with server_of(service.app) as address:
        yield address


SHORT = {"image_embedding": [0.5], "text_embedding": [0.5]}


def ids_of(answers):
    return [answer["id"] for answer in answers]


def test_every_line_gets_its_answer_in_order(service):
    ids = [str(number) for number in range(23)]
    answers = lines_of(service.stream(ndjson(*map(sample, ids))))
    assert ids_of(answers) == ids
    assert [answer["sequence"] for answer in answers] == list(range(23))
    assert max(service.backend.admitted) <= 5 * LIMITS["batch"]
    again = lines_of(service.stream(ndjson(*map(sample, ids))))
    assert again == answers


def test_a_bad_line_fails_alone(service):
    bad = {
        b"{bad": 400,
        b"\xef\xbb\xbf" + ndjson(sample("bom")).strip(): 400,
        b"[" * 9_000: 400,
        b"[]": 422,
        b'{"id": "named"}': 422,
        b'{"id": "\\ud800"}': 400,
        json.dumps(sample("many") | {"id": 5}).encode(): 422,
        b"x" * (LIMITS["line_bytes"] + 1): 413,
        json.dumps({"id": "short", "features": SHORT}).encode(): 422,
    }
    content = ndjson(sample("first"))
    for number, line in enumerate(bad):
        content += line + b"\n" + ndjson(sample(f"good-{number}"))
    first, *answers = lines_of(service.stream(content))
    assert first["sequence"] == 0
    for number, status in enumerate(bad.values()):
        failed, good = answers[2 * number : 2 * number + 2]
        assert failed["error"]["status"] == status, failed
        assert failed["line"] == 2 * number + 2
        assert (good["id"], good["sequence"]) == (f"good-{number}", number + 1)
    assert [answer["id"] for answer in answers if answer.get("line") == 10] == ["named"]


def test_blank_lines_other_line_ends_and_no_last_line_end_are_fine(service):
    one, two, three = (ndjson(sample(id)).strip() for id in "abc")
    content = b"\r\n\n" + one + b"\r\n  \n" + two + b"\n\n" + three
    assert ids_of(lines_of(service.stream(content))) == ["a", "b", "c"]


@pytest.mark.parametrize("content", [b"", b"\n", b"\r\n\r\n"])
def test_an_empty_stream_has_an_empty_answer(service, content):
    assert lines_of(service.stream(content)) == []


def test_more_lines_than_the_limit_end_the_stream_with_an_error(service):
    *answers, last = lines_of(service.stream(ndjson(*map(sample, range(45)))))
    assert ids_of(answers) == [str(number) for number in range(40)]
    assert last["error"]["code"] == "too_many_lines"
    assert last["end"] is True
    assert service.get("/v1/stats").json()["sequence"] == 40


def test_the_same_id_with_other_content_is_a_conflict_of_its_line(service):
    content = ndjson(sample("a"), sample("a", seed=1), sample("a"), sample("b"))
    first, conflict, same, other = lines_of(service.stream(content))
    assert conflict["error"]["status"] == 409
    assert conflict["line"] == 2
    assert (first, other["sequence"]) == (same, 1)


def test_another_content_type_is_refused(service):
    response = service.stream(b"", **{"content-type": "application/json"})
    assert problem_of(response, 415)["code"] == "content_type"


@pytest.mark.parametrize("error", [NotReadyError("disk full", 0.01), BusyError("many", 0.01)])
def test_a_service_that_is_busy_for_a_moment_is_waited_for(service, error):
    service.backend.errors += [error, error]
    answers = lines_of(service.stream(ndjson(*map(sample, "abcdef"))))
    assert [answer["sequence"] for answer in answers] == list(range(6))


def test_a_service_that_stays_away_ends_the_stream_with_an_error(service):
    service.backend.errors += [NotReadyError("disk full", 0.1)] * 100
    [last] = lines_of(service.stream(ndjson(*map(sample, "abcdef"))))
    assert (last["error"]["status"], last["end"]) == (503, True)
    service.backend.errors.clear()
    assert len(lines_of(service.stream(ndjson(*map(sample, "abcdef"))))) == 6


def test_a_bug_cuts_the_connection_instead_of_ending_the_stream_in_peace(service, server, caplog):
    service.backend.errors.append(ValueError("payload of someone"))
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.post(f"{server}/v1/select/stream", content=ndjson(sample("a")), headers=TYPE)
    [record] = [record for record in caplog.records if record.message == "unexpected error"]
    assert record.fields["error"]["type"] == "ValueError"
    assert "someone" not in caplog.text


class Talk:
    """A connection that sends and reads piece by piece."""

    def __init__(self, server):
        host, _, port = server.removeprefix("http://").partition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=20)
        head = f"POST /v1/select/stream HTTP/1.1\r\nHost: {host}\r\n"
        head += "Content-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n"
        self.socket.sendall(head.encode())
        self.file = self.socket.makefile("rb")

    def send(self, content):
        self.socket.sendall(b"%x\r\n%s\r\n" % (len(content), content))

    def line(self):
        """The next answer; chunks of the encoding hold one each here."""
        while True:
            line = self.file.readline()
            assert line, "the connection has ended"
            if line.startswith(b"{"):
                return json.loads(line)

    def close(self):
        self.file.close()
        self.socket.close()


def test_an_answer_comes_before_the_next_line_is_sent(server):
    talk = Talk(server)
    for number in range(6):
        talk.send(ndjson(sample(number)))
        assert talk.line()["sequence"] == number
    talk.close()


def test_a_client_that_leaves_stops_the_work(service, server):
    service.backend.held = True
    talk = Talk(server)
    talk.send(ndjson(*map(sample, range(3))))
    wait_until(lambda: service.backend.waiting == 1)
    talk.close()
    wait_until(lambda: service.backend.waiting == 0)
    service.backend.held = False
    assert service.get("/v1/stats").json()["sequence"] == 0
    text = service.get("/metrics").text
    assert "selfilter_http_requests_in_flight 1.0" in text, "only that of the metrics themselves"


def test_a_client_that_leaves_after_its_last_line_stops_the_work_too(service, server):
    service.backend.held = True
    talk = Talk(server)
    talk.send(ndjson(*map(sample, range(3))))
    talk.socket.sendall(b"0\r\n\r\n")
    wait_until(lambda: service.backend.waiting == 1)
    talk.close()
    wait_until(lambda: service.backend.waiting == 0)


def test_a_sender_that_is_faster_than_the_decisions_is_held_by_tcp(tmp_path):
    content = ndjson(*map(sample, range(4)))
    content = b"%x\r\n%s\r\n" % (len(content), content)
    limits = {"batch": 4, "body_bytes": 200_000}
    with (
        service_in(tmp_path, wrap=Watched, limits=limits) as service,
        server_of(service.app) as server,
    ):
        service.backend.held = True
        talk = Talk(server)
        talk.socket.setblocking(False)
        sent = 0
        while select.select([], [talk.socket], [], 0.3)[1]:
            sent += talk.socket.send(content)
            assert sent < 64 * 2**20, "the service takes more than buffers hold"
        wait_until(lambda: service.backend.waiting == 1)
        assert service.backend.admitted == []
        service.backend.held = False
        talk.socket.settimeout(20)
        assert talk.line()["sequence"] == 0
        talk.close()


def test_a_client_that_says_nothing_is_let_go(server):
    talk = Talk(server)
    talk.send(ndjson(sample("a")))
    assert talk.line()["sequence"] == 0
    assert talk.line()["error"]["code"] == "idle"
    talk.close()


def test_a_whole_stream_through_a_socket(server):
    content = ndjson(*map(sample, range(40)))
    address, parts = f"{server}/v1/select/stream", iter([content[:9], content[9:]])
    with httpx.stream("POST", address, content=parts, headers=TYPE, timeout=20.0) as response:
        answers = [json.loads(line) for line in response.iter_lines()]
    assert ids_of(answers) == [str(number) for number in range(40)]
