"""What stands at an address may be no dashboard: real HTTP servers that answer something else."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from selfilter_ray.distributed import job_client
from selfilter_ray.distributed.job_client import JobClient, NoAnswerError, Server
from selfilter_ray.errors import ConfigError


@contextmanager
def answering(status, body, silent=False):
    """A server whose every answer is this, or that never answers; yields its URL."""
    over = threading.Event()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked.append(dict(self.headers))
            if silent:
                over.wait(60)
                return
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    server.asked = []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server.asked
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, b"<html>welcome</html>", "is no Ray dashboard: correct --address"),
        (404, b"not here", "is no Ray dashboard: correct --address"),
        (407, b"sign in", "status 407: correct --address, or --header"),
        (401, b"who are you", "asks for a token, and none was sent"),
        (403, b"not you", "refuses the token"),
        (200, b'{"version": "4", "ray_version": "1.0.0"}', "is running on the cluster"),
    ],
)
def test_another_server_is_told_from_a_dashboard(status, body, said):
    with answering(status, body) as (url, _), pytest.raises(Exception, match=said) as refused:
        JobClient(Server(url))
    assert type(refused.value).__module__.startswith("selfilter_ray")


def test_a_server_with_a_problem_may_be_asked_again():
    with answering(503, b"busy") as (url, _), pytest.raises(NoAnswerError, match="try again"):
        JobClient(Server(url))


def test_a_server_that_never_answers_does_not_hang_the_command(monkeypatch):
    monkeypatch.setattr(job_client, "READ_SECONDS", 0.2)
    with answering(200, b"", silent=True) as (url, _), pytest.raises(NoAnswerError):
        JobClient(Server(url))


def test_headers_reach_a_gateway_and_no_message(monkeypatch):
    with answering(403, b"no") as (url, asked), pytest.raises(ConfigError) as refused:
        JobClient(Server(url, {"X-Gateway-Key": "open sesame"}))
    assert asked[0]["X-Gateway-Key"] == "open sesame"
    assert "sesame" not in str(refused.value)


def test_certificates_that_are_not_there_are_a_config_error():
    with answering(200, b"{}") as (url, _), pytest.raises(ConfigError, match="--verify /nowhere"):
        JobClient(Server(url, verify="/nowhere"))
