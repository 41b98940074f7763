"""A chat-completions server on loopback that answers as a test wants, and remembers who asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Reply:
    """What is sent back; ``seconds`` later."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass
class Asked:
    """One request. ``number`` counts from 0."""

    number: int
    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    time: float

    @property
    def text(self) -> str:
        """The text of the user's message."""
        content = self.body["messages"][1]["content"]
        return content if isinstance(content, str) else content[-1]["text"]


def says(text: str | None, finish_reason: str = "stop", seconds: float = 0.0) -> Reply:
    """A whole chat completion."""
    message = {"role": "assistant", "content": text}
    body = {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1,
        "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 7, "total_tokens": 107},
    }
    return Reply(body, seconds=seconds)


def error(status: int, message: str, headers: dict[str, str] | None = None, **more: Any) -> Reply:
    """An error as such servers send it."""
    return Reply({"error": {"message": message, **more}}, status, headers or {})


class JudgeServer:
    """``behave`` may be replaced while it runs."""

    def __init__(self, url: str, behave: Callable[[Asked], Reply]) -> None:
        self.url = url
        self.behave = behave
        self.asked: list[Asked] = []
        self.most_at_once = 0
        self.at_once = 0
        self.lock = threading.Lock()

    def answer(self, path: str, headers: dict[str, str], body: dict[str, Any]) -> Reply:
        with self.lock:
            asked = Asked(len(self.asked), path, headers, body, time.monotonic())
            self.asked.append(asked)
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
        reply = self.behave(asked)
        time.sleep(reply.seconds)
        with self.lock:
            self.at_once -= 1
        return reply


@contextmanager
def serving(behave: Callable[[Asked], Reply]) -> Iterator[JudgeServer]:
    """A running server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            headers = {name.lower(): value for name, value in self.headers.items()}
            reply = judge.answer(self.path, headers, body)
            plain = isinstance(reply.body, bytes)
            data = reply.body if plain else json.dumps(reply.body).encode()
            kind = "text/html" if plain else "application/json"
            try:
                self.send_response(reply.status)
                for name, value in {"content-type": kind, **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)
            except OSError:
                self.close_connection = True  # the client went away

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, *_: object) -> None:
            pass  # killed clients

    with Server(("127.0.0.1", 0), Handler) as server:
        judge = JudgeServer(f"http://127.0.0.1:{server.server_port}/v1", behave)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield judge
        finally:
            server.shutdown()
            thread.join()
