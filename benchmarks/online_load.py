"""The service under load, against a bare Serve application that sends the same body back.

Both run in one Ray Serve at the same time and are asked in turns, by the same client with as many
requests under way. With features given: single samples to /v1/score and /v1/select, and a stream.
With images: the service against its embedder called with batches in this process.

    python -m benchmarks.online_load --run runs/quickstart [--haproxy] [--seconds 8] [--rounds 3]
        [--store online_load]
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.store import store_result
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import iterate_samples, read_samples
from selfilter_ray.service.incoming.reader import SampleReader
from selfilter_ray.service.incoming.schemas import SampleIn
from selfilter_ray.service.scoring import IncomingScorer
from selfilter_ray.service.settings import ServiceConfig

UNDER_WAY = 16
STREAMED = 5_000
PICTURES, IN_A_REQUEST, REQUESTS_WITH_IMAGES = 256, 16, 4
PORT = 8123
URL = f"http://127.0.0.1:{PORT}"

Body = Callable[[], bytes]


def main() -> None:
    arguments = _arguments()
    if arguments.haproxy:
        os.environ["RAY_SERVE_ENABLE_HA_PROXY"] = "1"
    with tempfile.TemporaryDirectory() as state:
        measured = _measure(arguments, Path(state))
    store_result("online_load", measured, arguments.store)


def _measure(arguments: argparse.Namespace, state: Path) -> dict[str, Any]:
    from ray import serve

    from selfilter_ray.config.root import RayConfig
    from selfilter_ray.distributed.runtime import connected
    from selfilter_ray.service.config import parse_service_config
    from selfilter_ray.service.distributed.application import application
    from selfilter_ray.service.scoring import FeatureScorer

    config = parse_service_config(
        {"run_dir": arguments.run, "state": str(state), "limits": {"queue": 256}}
    )
    image, text = FeatureScorer(config.run_dir).features
    conversations = _conversations(config.run_dir)
    bare_images = _bare_images(config, conversations)
    with connected(RayConfig(num_cpus=4)):
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(_bare(), name="bare", route_prefix="/bare")
        serve.run(application(config), name="selfilter", route_prefix="/")
        try:
            measured = asyncio.run(_all(arguments, bodies_of(image, text), conversations))
            measured["images"]["bare_embedder_per_second"] = bare_images
            measured["images"]["of_bare"] = measured["images"]["per_second"] / bare_images
            return measured | {
                "proxy": "haproxy" if arguments.haproxy else "serve",
                "features": image + text,
                "requests_under_way": UNDER_WAY,
                "load_client": "in this process, on the same cores",
            }
        finally:
            serve.shutdown()


def _bare() -> Any:
    from ray import serve
    from starlette.requests import Request
    from starlette.responses import Response

    class Bare:
        async def __call__(self, request: Request) -> Response:
            return Response(await request.body(), media_type="application/json")

    # Classes of this file go by value: the replica does not import the benchmark.
    Bare.__module__ = "__main__"
    options = {"num_cpus": 0.1}
    return serve.deployment(name="bare", ray_actor_options=options, max_ongoing_requests=1000)(
        Bare
    ).bind()


def _conversations(run_dir: str) -> list[dict[str, Any]]:
    """Records of the run about pictures, as requests hold them."""
    folder = RunFolder(run_dir)
    found = []
    for sample in iterate_samples(read_samples(folder.samples, ["id", "turns", "images"])):
        if len(sample.images) == 1:
            content = Path(sample.images[0]).read_bytes()
            turns = [{"role": turn.role, "content": turn.text} for turn in sample.turns]
            image = {"base64": base64.b64encode(content).decode()}
            found.append({"id": sample.id, "image": image, "conversations": turns})
        if len(found) == PICTURES:
            break
    return found


def _bare_images(config: ServiceConfig, samples: list[dict[str, Any]]) -> float:
    """Samples a second of embedder and score net in this process, in the service's batches."""
    scorer = IncomingScorer(config.run_dir, config.limits, config.previews)
    reader = SampleReader(config, scorer.features)
    incoming = asyncio.run(reader.read_all([SampleIn.model_validate(one) for one in samples]))
    size = config.scorer.batch
    scorer.score(incoming[:size])
    began = time.perf_counter()
    for start in range(0, len(incoming), size):
        scorer.score(incoming[start : start + size])
    return len(incoming) / (time.perf_counter() - began)


async def _images(session: Any, samples: list[dict[str, Any]]) -> dict[str, float]:
    """Samples a second through /v1/score, ``IN_A_REQUEST`` in each request."""
    parts = [samples[n : n + IN_A_REQUEST] for n in range(0, len(samples), IN_A_REQUEST)]
    waiting = iter([json.dumps({"samples": part}).encode() for part in parts * 2])

    async def ask() -> None:
        for body in waiting:
            headers = {"Content-Type": "application/json"}
            async with session.post(f"{URL}/v1/score", data=body, headers=headers) as answer:
                text = await answer.read()
                assert answer.status == 200 and b'"error"' not in text, text[:300]

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(REQUESTS_WITH_IMAGES)))
    return {"per_second": 2 * len(samples) / (time.perf_counter() - began)}


async def _all(
    arguments: argparse.Namespace, bodies: Iterator[bytes], conversations: list[dict[str, Any]]
) -> dict[str, Any]:
    import aiohttp

    connector = aiohttp.TCPConnector(limit=UNDER_WAY)
    async with aiohttp.ClientSession(connector=connector) as session:
        single: dict[str, list[dict[str, float]]] = {}
        routes = {"bare": "/bare", "score": "/v1/score", "select": "/v1/select"}
        for route in routes.values():  # warm
            await load(session, URL + route, bodies, 1.0)
        for _ in range(arguments.rounds):
            for name, route in routes.items():
                done = await load(session, URL + route, bodies, arguments.seconds)
                single.setdefault(name, []).append(done)
        return {
            "single": {name: _median(rounds) for name, rounds in single.items()},
            "of_bare": {
                name: _median(single[name])["per_second"] / _median(single["bare"])["per_second"]
                for name in ("score", "select")
            },
            "stream_samples_per_second": [
                await _stream(session, bodies, STREAMED) for _ in range(arguments.rounds)
            ],
            "images": await _images(session, conversations),
        }


async def load(session: Any, url: str, bodies: Iterator[bytes], seconds: float) -> dict[str, float]:
    """Requests a second and the latencies, with ``UNDER_WAY`` requests at any time."""
    until = time.perf_counter() + seconds
    latencies: list[float] = []

    async def ask() -> None:
        while time.perf_counter() < until:
            body = next(bodies)
            began = time.perf_counter()
            headers = {"Content-Type": "application/json"}
            async with session.post(url, data=body, headers=headers) as answer:
                text = await answer.read()
                assert answer.status == 200, (answer.status, text[:300])
            latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(ask() for _ in range(UNDER_WAY)))
    passed = time.perf_counter() - began
    ordered = np.array(latencies)
    return {
        "per_second": len(latencies) / passed,
        "p50_ms": float(np.percentile(ordered, 50)) * 1000,
        "p99_ms": float(np.percentile(ordered, 99)) * 1000,
    }


async def _stream(session: Any, bodies: Iterator[bytes], samples: int) -> float:
    lines = [
        json.dumps(json.loads(body)["samples"][0]).encode() + b"\n"
        for body in itertools.islice(bodies, samples)
    ]

    async def send() -> Any:
        for start in range(0, len(lines), 64):
            yield b"".join(lines[start : start + 64])

    began = time.perf_counter()
    headers = {"Content-Type": "application/x-ndjson"}
    async with session.post(f"{URL}/v1/select/stream", data=send(), headers=headers) as answer:
        assert answer.status == 200, await answer.text()
        received = (await answer.read()).splitlines()
    assert len(received) == samples, (len(received), samples)
    assert not any(b'"error"' in line for line in received)
    return samples / (time.perf_counter() - began)


def bodies_of(image: int, text: int) -> Iterator[bytes]:
    """Requests of one sample each, all different, features as base64 of float32."""
    random = np.random.default_rng(0)
    pool = [
        {
            "image_embedding": _encoded(random.normal(size=image)),
            "text_embedding": _encoded(random.normal(size=text)),
        }
        for _ in range(4096)
    ]
    for number in itertools.count():
        sample = {"id": f"load-{number}", "features": pool[number % len(pool)]}
        yield json.dumps({"samples": [sample]}).encode()


def _encoded(vector_D: np.ndarray) -> dict[str, str]:
    data = base64.b64encode(vector_D.astype("<f4").tobytes()).decode()
    return {"base64": data, "dtype": "float32"}


def _median(rounds: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(one[key] for one in rounds) for key in rounds[0]}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", default="runs/quickstart")
    parser.add_argument("--haproxy", action="store_true")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--store", default="online_load")
    return parser.parse_args()


if __name__ == "__main__":
    main()
