"""The HTTP interface over the whole service in one process, for tests."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx
import numpy as np
import uvicorn
from service_run import SIZES, make_service_run

from selfilter_ray.service.http.app import create_app
from selfilter_ray.service.local import LocalBackend
from selfilter_ray.service.settings import ServiceConfig

IMAGE, TEXT = SIZES
PATIENCE_SECONDS = 20.0


def vector(seed, size):
    row = np.random.default_rng(seed).normal(size=size).astype("<f4")
    return row / np.linalg.norm(row)


def encoded(row):
    return {"base64": base64.b64encode(row.tobytes()).decode(), "dtype": "float32"}


def sample(id, seed=None):
    """A sample with features of its own; equal seeds give equal content."""
    seed = abs(hash(id)) if seed is None else seed
    image, text = vector([seed, 0], IMAGE), vector([seed, 1], TEXT)
    return {
        "id": str(id),
        "features": {"image_embedding": encoded(image), "text_embedding": encoded(text)},
    }


def samples(*ids):
    return {"samples": [sample(id) for id in ids]}


def ndjson(*records):
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


class Service:
    """An app over a real backend; requests go through httpx, without a socket."""

    def __init__(self, folder, wrap=lambda backend: backend, **settings):
        run = make_service_run(folder / "run", samples=20)
        self.config = ServiceConfig(
            run_dir=str(run), state=str(folder / "state"), **{"previews": {"pixels": 0}} | settings
        )
        self.local = LocalBackend(self.config)
        self.backend = wrap(self.local)
        self.app = create_app(self.config, self.backend)
        self.runner = asyncio.Runner()
        self.client = httpx.AsyncClient(
            transport=httpx.ASGITransport(app=self.app), base_url="http://service"
        )

    def run(self, work):
        return self.runner.run(work)

    def request(self, method, path, **given):
        return self.run(self.client.request(method, path, **given))

    def get(self, path, **given):
        return self.request("GET", path, **given)

    def post(self, path, **given):
        return self.request("POST", path, **given)

    def post_json(self, path, text, **headers):
        """Send bytes as they are, and say that they are JSON."""
        return self.post(path, content=text, headers={"content-type": "application/json"} | headers)

    def stream(self, content, **headers):
        headers = {"content-type": "application/x-ndjson"} | headers
        return self.post("/v1/select/stream", content=content, headers=headers)

    def close(self):
        self.run(self.client.aclose())
        self.runner.close()
        self.local.close()


@contextmanager
def service_in(folder, **settings) -> Iterator[Service]:
    """A service that is ready."""
    service = Service(folder, **settings)
    try:
        wait_until(lambda: service.get("/readyz").status_code == 200)
        yield service
    finally:
        service.close()


@contextmanager
def server_of(app) -> Iterator[str]:
    """The app behind a real server on loopback; yields its address."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="critical", access_log=False)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_until(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


def wait_until(condition):
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.005)


def problem_of(response, status):
    """The problem that a response is; checks what every problem has."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    problem = response.json()
    assert problem["status"] == status
    assert problem["detail"] and problem["remedy"] and problem["title"]
    assert problem["instance"].endswith(response.headers["x-request-id"])
    return problem


def lines_of(response):
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/x-ndjson"
    return [json.loads(line) for line in response.text.splitlines()]


class Watched:
    """A backend between the app and the real one: holds admissions back, or fails as told.

    Attributes:
        errors: raised by the next calls of ``admit``, one each.
        admitted: sizes of the micro-batches that came through.
        held: while True, admissions wait.
    """

    def __init__(self, backend):
        self._backend = backend
        self.errors, self.admitted, self.held = [], [], False
        self.waiting = 0

    def __getattr__(self, name):
        return getattr(self._backend, name)

    async def admit(self, arrivals):
        if self.errors:
            raise self.errors.pop(0)
        self.waiting += 1
        try:
            while self.held:
                await asyncio.sleep(0.002)
        finally:
            self.waiting -= 1
        self.admitted.append(len(arrivals))
        return await self._backend.admit(arrivals)
