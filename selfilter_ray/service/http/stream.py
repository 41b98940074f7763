"""POST /v1/select/stream: NDJSON in, NDJSON out, one answer a line, in order.

Three tasks hand work on: one reads lines ahead, one scores micro-batches, one decides on them and
sends. What is between them is bounded, so a sender that is faster than the decisions waits in TCP.
A micro-batch is what has arrived, up to ``limits.batch``: nobody waits for one to fill.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import Response
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from selfilter_ray.service.http import judging
from selfilter_ray.service.http.ahead import Ahead
from selfilter_ray.service.http.answers import of_answer, of_failed
from selfilter_ray.service.http.context import Context
from selfilter_ray.service.http.lines import Line, LineCutter
from selfilter_ray.service.http.ndjson import MEDIA_TYPE, ndjson
from selfilter_ray.service.http.observe import COUNTS
from selfilter_ray.service.http.parse import parse_aside, readable_id
from selfilter_ray.service.http.problems import Problem, of_not_ready
from selfilter_ray.service.incoming.schemas import SampleIn
from selfilter_ray.service.messages import NotReadyError, Refused, Scored

ROUTE = "/v1/select/stream"
# Scored micro-batches that may wait for their decisions, and are then decided together.
SCORED_AHEAD = 4

Answered = TypeVar("Answered")


@dataclass(frozen=True, slots=True)
class _Batch:
    """Attributes: scored: of the good lines, in order; failed: the answers of the others."""

    numbers: list[int]
    scored: list[Scored | Refused]
    failed: dict[int, dict[str, Any]]


class SelectStream(Response):
    """Reads the request and answers it, line by line."""

    def __init__(self, context: Context) -> None:
        super().__init__(media_type=MEDIA_TYPE)
        self._context, self._limits = context, context.limits
        self._ahead = Ahead(2 * self._limits.batch, self._limits.body_bytes)
        self._scored: asyncio.Queue[_Batch | Problem | None] = asyncio.Queue(SCORED_AHEAD)
        self._lines = self._samples = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._context.gate.entered(timed=False):
            await self._send(send, {**self._head(), "status": self.status_code})
            try:
                async with asyncio.TaskGroup() as group:
                    ahead = [
                        group.create_task(self._read(receive)),
                        group.create_task(self._score()),
                    ]
                    await self._decide(send)
                    for task in ahead:
                        task.cancel()
            except* ClientDisconnect:
                pass
            finally:
                scope[COUNTS] = {"lines": self._lines, "samples": self._samples}

    def _head(self) -> dict[str, Any]:
        headers = [(name, value) for name, value in self.raw_headers if name != b"content-length"]
        return {"type": "http.response.start", "headers": headers}

    async def _read(self, receive: Receive) -> None:
        """Lines of the body into ``_ahead``; then watch for a client that leaves."""
        cutter = LineCutter(self._limits.line_bytes)
        problem = None
        while problem is None:
            try:
                async with asyncio.timeout(self._limits.request_seconds):
                    message = await receive()
            except TimeoutError:
                problem = _idle(self._limits.request_seconds)
                break
            if message["type"] == "http.disconnect":
                raise ClientDisconnect
            more = message.get("more_body", False)
            lines = list(cutter.feed(message.get("body", b"")))
            problem = await self._put(lines if more else lines + list(cutter.finish()))
            if not more:
                break
        await self._ahead.end(problem)
        while (await receive())["type"] != "http.disconnect":
            pass
        raise ClientDisconnect

    async def _put(self, lines: list[Line]) -> Problem | None:
        left = self._limits.lines - self._lines
        self._lines += min(len(lines), left)
        self._context.metrics.lines.inc(min(len(lines), left))
        if lines:
            await self._ahead.put(lines[:left])
        return _too_many(self._limits.lines) if len(lines) > left else None

    async def _score(self) -> None:
        """Micro-batches of lines into ``_scored``."""
        try:
            while lines := await self._ahead.take(self._limits.batch):
                await self._scored.put(await self._scored_batch(lines))
            await self._scored.put(self._ahead.problem)
        except NotReadyError as error:
            await self._scored.put(of_not_ready(error))

    async def _scored_batch(self, lines: list[Line]) -> _Batch:
        samples: list[SampleIn] = []
        failed: dict[int, dict[str, Any]] = {}
        for line in lines:
            try:
                samples.append(await self._parsed(line))
            except Problem as problem:
                failed[line.number] = of_failed(readable_id(line.text), problem)
        scored = await self._patiently(lambda: judging.score(self._context, samples, previews=True))
        return _Batch([line.number for line in lines], scored, failed)

    async def _parsed(self, line: Line) -> SampleIn:
        if line.text is None:
            detail = f"the line has more than {self._limits.line_bytes} bytes"
            raise Problem(413, "line_too_large", detail, "Send smaller samples.")
        return await parse_aside(SampleIn, line.text)

    async def _decide(self, send: Send) -> None:
        """Decide on micro-batches, and send their answers."""
        last: Problem | None = None
        ended = False
        while not ended and last is None:
            batch, ended, last = await self._waiting()
            try:
                answers = await self._answers(batch)
            except NotReadyError as error:
                last = of_not_ready(error)
                break
            if answers:
                self._samples += len(answers)
                self._context.metrics.count(ROUTE, answers)
                await self._send_body(send, ndjson(answers), more=True)
        end = [of_failed(None, last) | {"end": True}] if last else []
        await self._send_body(send, ndjson(end), more=False)

    async def _waiting(self) -> tuple[_Batch, bool, Problem | None]:
        """All micro-batches that are scored, as one; whether they are the last, and why."""
        together = _Batch([], [], {})
        found = await self._scored.get()
        while isinstance(found, _Batch):
            together.numbers.extend(found.numbers)
            together.scored.extend(found.scored)
            together.failed.update(found.failed)
            if self._scored.empty():
                return together, False, None
            found = self._scored.get_nowait()
        return together, True, found

    async def _answers(self, batch: _Batch) -> list[dict[str, Any]]:
        decided = iter(await self._patiently(lambda: judging.admit(self._context, batch.scored)))
        answers = []
        for number in batch.numbers:
            answer = batch.failed.get(number) or of_answer(next(decided))
            answers.append(answer | {"line": number} if "error" in answer else answer)
        return answers

    async def _patiently(self, ask: Callable[[], Awaitable[Answered]]) -> Answered:
        """Ask again while the service is busy or not ready, for ``request_seconds``.

        Asking again is safe: what was decided on already gets the answer of then.
        """
        clock = asyncio.get_running_loop()
        until = clock.time() + self._limits.request_seconds
        while True:
            try:
                async with asyncio.timeout_at(until):
                    return await ask()
            except TimeoutError:
                raise NotReadyError(
                    f"no decision within {self._limits.request_seconds:g} seconds"
                ) from None
            except NotReadyError as error:
                if clock.time() + error.retry_seconds >= until:
                    raise
                await asyncio.sleep(error.retry_seconds)

    async def _send_body(self, send: Send, body: bytes, more: bool) -> None:
        await self._send(send, {"type": "http.response.body", "body": body, "more_body": more})

    async def _send(self, send: Send, message: dict[str, Any]) -> None:
        """Send, unless the client takes nothing for ``request_seconds``."""
        try:
            async with asyncio.timeout(self._limits.request_seconds):
                await send(message)
        except (TimeoutError, OSError):
            raise ClientDisconnect from None


def _idle(seconds: float) -> Problem:
    detail = f"no line arrived within {seconds:g} seconds"
    return Problem(408, "idle", detail, "Go on with another stream; blank lines keep one open.")


def _too_many(lines: int) -> Problem:
    detail = f"the stream has more than {lines} lines; those before are answered"
    return Problem(413, "too_many_lines", detail, "Send the rest as another stream.")
