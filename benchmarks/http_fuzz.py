"""Requests generated from the service's own OpenAPI document, good and bad ones: none may fail it.

The whole service in one process, with real scorer and state; every answer is checked against the
document: status, content type, schema.

    python -m benchmarks.http_fuzz --requests 20000
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
import zlib
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from benchmarks.store import store_result
from selfilter_ray.service.http.app import create_app
from selfilter_ray.service.local import LocalBackend
from selfilter_ray.service.settings import ServiceConfig

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from service_run import features_json, make_pool_features, make_service_run

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Every request to these is the same one.
PLAIN = {"/healthz", "/readyz", "/metrics", "/v1/stats", "/v1/admin/snapshot"}
PLAIN_REQUESTS = 20
BODY_SHARE = 0.5  # making a body takes ten times as long as making a query


# Of the document's form; so, and with features of the run's size; and of another form.
KINDS = ("good", "fitting", "bad")


@schemathesis.serializer("application/x-ndjson")
def _as_line(_: Any, value: Any) -> bytes:
    """The document describes one line."""
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


@dataclass
class Fuzzed:
    """Attributes: statuses: requests by operation and status."""

    statuses: Counter[tuple[str, int]] = field(default_factory=Counter)

    @property
    def requests(self) -> int:
        return sum(self.statuses.values())


def fuzz(app: Any, requests: int, start: int = 0) -> Fuzzed:
    """Send at least so many generated requests, shared out among the operations.

    Args:
        start: of the random numbers.

    Raises:
        FailureGroup: when an answer is not what the document promises, or is a 5xx.
    """
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    operations = [result.ok() for result in schema.get_all_operations()]
    rest = [operation for operation in operations if operation.path not in PLAIN]
    fuzzed = Fuzzed()
    for operation in operations:
        if operation.path in PLAIN:
            _send(operation, min(PLAIN_REQUESTS, requests), start, fuzzed)
    left = requests - fuzzed.requests
    weights = [BODY_SHARE if operation.body else 1.0 for operation in rest]
    for operation, weight in zip(rest, weights, strict=True):
        wanted, more = fuzzed.requests + math.ceil(left * weight / sum(weights)), start
        # Where hypothesis has seen all there is, it ends early: another seed finds other ones.
        while fuzzed.requests < wanted:
            count = -(-(wanted - fuzzed.requests) // len(KINDS))
            for kind in KINDS:
                _send(operation, count, more, fuzzed, kind)
            more += 1
        print(f"{fuzzed.requests} requests, {operation.label} done", file=sys.stderr, flush=True)
    return fuzzed


def _send(operation: Any, count: int, start: int, fuzzed: Fuzzed, kind: str = "good") -> None:
    mode = GenerationMode.NEGATIVE if kind == "bad" else GenerationMode.POSITIVE

    @seed(start)
    @settings(
        max_examples=count,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def one(case: Any) -> None:
        if kind == "fitting":
            _fit(case.body)
        response = case.call()
        fuzzed.statuses[(operation.label, response.status_code)] += 1
        case.validate_response(response, checks=CHECKS)

    one()


def _fit(body: Any) -> None:
    """Give samples features that the score net takes: the document does not know their number."""
    if not isinstance(body, dict):
        return
    for sample in body.get("samples", [body]):
        for other in ("conversations", "image", "images"):
            sample.pop(other, None)
        row_D = make_pool_features(1, zlib.crc32(str(sample["id"]).encode("utf-8", "replace")))[0]
        sample["features"] = features_json(row_D)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        run = make_service_run(Path(folder) / "run")
        config = ServiceConfig(run_dir=str(run), state=str(Path(folder) / "state"))
        backend = LocalBackend(config)
        started = time.perf_counter()
        try:
            fuzzed = fuzz(create_app(config, backend), arguments.requests, arguments.seed)
        finally:
            backend.close()
    by_status: Counter[int] = Counter()
    by_operation: dict[str, dict[str, int]] = {}
    for (label, status), number in sorted(fuzzed.statuses.items()):
        by_status[status] += number
        by_operation.setdefault(label, {})[str(status)] = number
    store_result(
        "http_fuzz",
        {
            "requests": fuzzed.requests,
            "server_errors": sum(n for status, n in by_status.items() if status >= 500),
            "by_status": {str(status): number for status, number in sorted(by_status.items())},
            "by_operation": by_operation,
            "seconds": round(time.perf_counter() - started),
        },
    )


if __name__ == "__main__":
    main()
