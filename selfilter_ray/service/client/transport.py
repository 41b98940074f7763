"""HTTP requests that are sent again while the service says "later" or cannot be reached.

Sending again is safe: the service knows the ids that it decided on, and repeats its answers.
"""

from __future__ import annotations

import email.utils
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import tenacity

from selfilter_ray.errors import ConfigError
from selfilter_ray.service.client.errors import UnreachableError, problem_error

# Come again. 502 and 504 come from proxies whose service is being started anew.
LATER = frozenset({429, 502, 503, 504})
LONGEST_WAIT_SECONDS = 60.0
# These say that the request itself is wrong, not the way to the service.
_OUR_FAULT = (httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class LaterError(Exception):
    """Not now: the service said so, or could not be reached."""

    def __init__(self, detail: str, seconds: float = 0.0) -> None:
        super().__init__(detail)
        self.detail, self.seconds = detail, seconds


class Transport:
    """A pool of connections to one service; threads may share it."""

    def __init__(
        self,
        url: str,
        key: str | None,
        timeout: float,
        patience: float,
        stopping: threading.Event | None = None,
    ) -> None:
        """See ``Client``."""
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        try:
            self._http = httpx.Client(base_url=_checked(url), headers=headers, timeout=timeout)
        except UnicodeEncodeError:
            raise ConfigError("the key of the service must be ASCII text.") from None
        self._patience = patience
        self._stopping = stopping or threading.Event()

    def close(self) -> None:
        self._http.close()

    def json(self, method: str, path: str, **request: Any) -> Any:
        """The JSON of an answer.

        Raises:
            ServiceError: when the service refuses.
            UnreachableError: when it did not answer within the patience.
        """
        for attempt in self.attempts():
            with attempt, self.opened(method, path, **request) as response:
                return _decoded(response.read(), response)
        raise AssertionError("tenacity ends with a return or an exception")

    def attempts(self) -> tenacity.Retrying:
        """Attempts as context managers; those that end with ``LaterError`` are repeated."""
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(LaterError),
            wait=_wait,
            stop=tenacity.stop_any(
                tenacity.stop_before_delay(self._patience),
                tenacity.stop_when_event_set(self._stopping),
            ),
            sleep=tenacity.sleep_using_event(self._stopping),
            retry_error_callback=_give_up,
        )

    @contextmanager
    def opened(
        self, method: str, path: str, accepted: tuple[int, ...] = (200,), **request: Any
    ) -> Iterator[httpx.Response]:
        """One attempt: the response, its body not yet read.

        Raises:
            LaterError, ServiceError: see above.
        """
        try:
            with self._http.stream(method, path, **request) as response:
                if response.status_code not in accepted:
                    raise _refusal(response)
                yield response
        except _OUR_FAULT:
            raise
        except httpx.TransportError as error:
            raise LaterError(f"connection: {type(error).__name__}: {error}") from error


def lines_of(response: httpx.Response) -> Iterator[bytes]:
    """The lines of a body, without empty ones. (httpx also breaks lines inside JSON texts.)"""
    rest = b""
    for piece in response.iter_bytes():
        *whole, rest = (rest + piece).split(b"\n") if b"\n" in piece else (rest + piece,)
        yield from filter(None, map(bytes.strip, whole))
    if rest.strip():
        yield rest.strip()


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"the address of the service must start with http:// or https://: {url}")
    if parts.username or parts.password:
        raise ConfigError("the address of the service holds a password: give the key instead.")
    return url.rstrip("/")


def _refusal(response: httpx.Response) -> Exception:
    body = response.read()
    try:
        problem = _decoded(body, response)
    except LaterError:
        problem = None
    refused = problem_error(response.status_code, problem)
    # Ray Serve's own proxy answers 500 in plain text when the replica behind it has died.
    if response.status_code in LATER or (response.status_code == 500 and problem is None):
        return LaterError(refused.detail, retry_after(response.headers.get("Retry-After")))
    return refused


def _decoded(body: bytes, response: httpx.Response) -> Any:
    try:
        return httpx.Response(200, content=body).json()
    except ValueError:
        raise LaterError(f"{response.request.url.path} answered with broken JSON") from None


def retry_after(header: str | None) -> float:
    """Seconds of a Retry-After header: a number of them, or a date."""
    if header is None:
        return 0.0
    if header.strip().isdigit():
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


_backoff = tenacity.wait_exponential_jitter(initial=0.1, max=2.0, jitter=0.1)


def _wait(state: tenacity.RetryCallState) -> float:
    error = state.outcome.exception() if state.outcome else None
    asked = error.seconds if isinstance(error, LaterError) else 0.0
    return min(max(asked, _backoff(state)), LONGEST_WAIT_SECONDS)


def _give_up(state: tenacity.RetryCallState) -> Any:
    error = state.outcome.exception() if state.outcome else None
    assert isinstance(error, LaterError)
    raise UnreachableError(
        503, "unreachable", f"no answer in {state.attempt_number} attempts ({error.detail})",
        "look at /readyz and at the log of the service",
    ) from error  # fmt: skip
