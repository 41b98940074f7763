"""The client: one method a route."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from selfilter_ray.service.client.answers import (
    Answer,
    Ready,
    SampleError,
    Score,
    Snapshot,
    answer_of,
    score_of,
)
from selfilter_ray.service.client.errors import ServiceError
from selfilter_ray.service.client.lines import (
    CHUNK_BYTES,
    CHUNK_LINES,
    chunks,
    encode_line,
    select_lines,
)
from selfilter_ray.service.client.transport import LaterError, Transport, lines_of

PAGE = 1000  # kept samples of one request


class Client:
    """A running service. A context manager; threads may share one."""

    def __init__(
        self,
        url: str,
        key: str | None = None,
        timeout: float = 30.0,
        patience: float = 60.0,
        stopping: threading.Event | None = None,
    ) -> None:
        """Connect on first use.

        Args:
            url: of the service, ``http://127.0.0.1:8000``.
            key: sent as ``Authorization: Bearer``.
            timeout: seconds for each step of a request (connecting, a piece of the answer).
            patience: seconds for which a request is sent again on 429, 503 and lost connections.
            stopping: once set, waiting ends at once with ``UnreachableError``.

        Raises:
            ConfigError: when the URL is not one of HTTP.
        """
        self.url = url.rstrip("/")
        self._transport = Transport(self.url, key, timeout, patience, stopping)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        self._transport.close()

    def score(self, samples: Sequence[Mapping[str, Any]]) -> list[Score | SampleError]:
        """The difficulty of each; nothing is remembered.

        Raises:
            ServiceError: when the request is refused; a sample that is alone in it, too.
        """
        answer = self._transport.json("POST", "/v1/score", json={"samples": list(samples)})
        return [score_of(record) for record in _results(answer, samples)]

    def select(self, samples: Sequence[Mapping[str, Any]]) -> list[Answer | SampleError]:
        """Decide on each, after those before it. An id decided on before gets the same answer.

        Raises:
            ServiceError: when the request is refused; a sample that is alone in it, too.
        """
        answer = self._transport.json("POST", "/v1/select", json={"samples": list(samples)})
        return [answer_of(record) for record in _results(answer, samples)]

    def select_stream(
        self,
        samples: Iterable[Mapping[str, Any]],
        lines: int = CHUNK_LINES,
        size: int = CHUNK_BYTES,
    ) -> Iterator[Answer | SampleError]:
        """Decide on samples without end, in order, holding no more than one chunk of them.

        Args:
            samples: taken only as far as their answers are asked for.
            lines, size: samples and bytes of a chunk.

        Raises:
            ServiceError: when the stream as a whole is refused.
        """
        for chunk in chunks(map(encode_line, samples), len, lines, size):
            yield from map(answer_of, self.select_lines(chunk))

    def select_lines(self, lines: Sequence[bytes]) -> list[dict[str, Any]]:
        """The answers, as they are, to some lines of NDJSON: one each, in order."""
        return select_lines(self._transport, lines)

    def selection(self, after: int = -1, limit: int | None = None) -> Iterator[Answer]:
        """The samples kept now, by sequence.

        Args:
            after: the sequence of the last one that is not wanted.
            limit: how many at most; None for all.
        """
        while limit is None or limit > 0:
            wanted = PAGE if limit is None else min(limit, PAGE)
            page = self._page(after, wanted)
            yield from page
            if len(page) < wanted:
                return
            after = page[-1].sequence
            limit = None if limit is None else limit - len(page)

    def stats(self) -> dict[str, Any]:
        """Counts, threshold, histograms and the state of the writer; see docs/service.md."""
        result: dict[str, Any] = self._transport.json("GET", "/v1/stats")
        return result

    def snapshot(self) -> Snapshot:
        """Write the state down now (needs an admin key where keys are on)."""
        answer = self._transport.json("POST", "/v1/admin/snapshot")
        return Snapshot(
            int(answer["sequence"]),
            int(answer["kept"]),
            int(answer["bytes"]),
            float(answer["seconds"]),
            str(answer["file"]),
        )

    def ready(self) -> Ready:
        """Whether the service answers now; not sent again, and no exception when it does not."""
        try:
            with self._transport.opened("GET", "/readyz", accepted=(200, 503)) as response:
                answer = json.loads(response.read())
        except (LaterError, ServiceError, ValueError) as error:
            # Also where something else answers: Serve's proxy knows no route before the service.
            return Ready(False, {"service": {"ready": False, "detail": str(error)}})
        return Ready(bool(answer.get("ready")), answer.get("parts", {}))

    def _page(self, after: int, limit: int) -> list[Answer]:
        for attempt in self._transport.attempts():
            with (
                attempt,
                self._transport.opened(
                    "GET", "/v1/selection", params={"after": after, "limit": limit}
                ) as response,
            ):
                return [_kept(line) for line in lines_of(response)]
        raise AssertionError("tenacity ends with a return or an exception")


def _kept(line: bytes) -> Answer:
    try:
        kept = answer_of(json.loads(line))
    except ValueError:
        raise LaterError("the selection broke off inside a line") from None
    if isinstance(kept, SampleError):
        raise LaterError(kept.detail)
    return kept


def _results(answer: Any, samples: Sequence[Any]) -> list[dict[str, Any]]:
    results = answer.get("results") if isinstance(answer, dict) else None
    if not isinstance(results, list) or len(results) != len(samples):
        raise ServiceError(
            200,
            "answer",
            f"the answer does not hold {len(samples)} results",
            "use the client of the service's version",
        )
    return results
