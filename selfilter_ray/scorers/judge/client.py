"""One question to an OpenAI-compatible server, asked again as long as that can help.

Retries are tenacity's, not those of the openai package: theirs would pass by our rate limits, and
their pauses can neither be set nor be shared by all requests.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from types import TracebackType
from typing import Any

import openai
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception_type,
    stop_after_attempt,
    wait_random_exponential,
)

from selfilter_ray.errors import ConfigError
from selfilter_ray.scorers.judge.answers import Answer
from selfilter_ray.scorers.judge.failures import Unreachable, from_status
from selfilter_ray.scorers.judge.pace import Pace
from selfilter_ray.scorers.judge.reply import read_reply
from selfilter_ray.scorers.judge.settings import JudgeConfig

logger = logging.getLogger(__name__)

NO_KEY = "none"  # the package insists on one
SHORTEST_SECRET = 8
LONGEST_BACKOFF = 60.0
LONGEST_MESSAGE = 300


def read_key(settings: JudgeConfig) -> str:
    """The server's key from the environment.

    Raises:
        ConfigError: when the variable is not set, or holds what cannot be a key.
    """
    if settings.api_key_env is None:
        return NO_KEY
    key = os.environ.get(settings.api_key_env, "").strip()
    if not key:
        raise ConfigError(
            f"the environment variable {settings.api_key_env} is not set: export the judge's key "
            "in it, or set judge.api_key_env to null for a server without a key."
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{settings.api_key_env} does not hold a key: export it again.")
    return key


class JudgeClient:
    """Asks questions; use as an asynchronous context, in one event loop."""

    def __init__(self, settings: JudgeConfig, key: str) -> None:
        self.settings = settings
        self._key = key
        self._pace = Pace(settings.requests_per_minute, settings.tokens_per_minute)
        # The time limit is ours, over the whole request: the package's is one for each read.
        # No redirects: they would send the records to a server that nobody named.
        self._client = openai.AsyncOpenAI(
            api_key=key,
            base_url=settings.base_url,
            max_retries=0,
            timeout=None,
            http_client=openai.DefaultAsyncHttpxClient(follow_redirects=False, timeout=None),
        )

    async def __aenter__(self) -> JudgeClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._client.close()

    async def ask(self, messages: list[dict[str, Any]], tokens: int) -> Answer:
        """The answer to one question.

        Args:
            messages: the chat messages.
            tokens: a guess at their tokens, for the limit of tokens a minute.

        Raises:
            Unreachable: when all tries failed.
            Refused: when the server will not answer this.
        """
        tries = AsyncRetrying(
            retry=retry_if_exception_type(Unreachable),
            wait=wait_random_exponential(self.settings.backoff_seconds, max=LONGEST_BACKOFF),
            stop=stop_after_attempt(self.settings.max_retries + 1),
            before_sleep=_log_retry,
            reraise=True,
        )
        async for attempt in tries:
            with attempt:
                await self._pace.wait(tokens + self.settings.max_tokens)
                return await self._try(messages)
        raise AssertionError("tenacity returns or raises")

    async def _try(self, messages: list[dict[str, Any]]) -> Answer:
        began = time.monotonic()
        try:
            async with asyncio.timeout(self.settings.timeout_seconds):
                body = await self._send(messages)
        except TimeoutError:
            raise Unreachable(f"no answer in {self.settings.timeout_seconds:g} s") from None
        except openai.APIStatusError as error:
            failure = from_status(
                error.status_code, error.code, self._said(error), error.response.headers
            )
            if isinstance(failure, Unreachable) and failure.retry_after:
                self._pace.pause(failure.retry_after)
            raise failure from None
        except openai.APIConnectionError as error:
            raise Unreachable(f"no connection: {self._clean(str(error.__cause__))}") from None
        answer = read_reply(body, time.monotonic() - began)
        if answer is None:
            raise Unreachable(f"not a chat completion: {self._clean(body)!r}")
        return answer

    async def _send(self, messages: list[dict[str, Any]]) -> str:
        """The body of the reply, whatever it is, without the key."""
        settings = self.settings
        fields: dict[str, Any] = {settings.token_field: settings.max_tokens}
        if settings.temperature is not None:
            fields["temperature"] = settings.temperature
        if settings.seed is not None:
            fields["seed"] = settings.seed
        reply = await self._client.chat.completions.with_raw_response.create(
            model=settings.model,
            messages=messages,  # type: ignore[arg-type]
            extra_body=settings.extra_body or None,
            **fields,
        )
        return self._without_key(reply.text)

    def _said(self, error: openai.APIStatusError) -> str:
        said = error.body.get("message") if isinstance(error.body, dict) else None
        return self._clean(said if isinstance(said, str) else error.message)

    def _clean(self, text: str) -> str:
        """What a server said, on one short line."""
        return " ".join(self._without_key(text).split())[:LONGEST_MESSAGE]

    def _without_key(self, text: str) -> str:
        # A server may send back what it was sent.
        return text.replace(self._key, "***") if len(self._key) >= SHORTEST_SECRET else text


def _log_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    logger.info("judge: try %d failed, trying again: %s", state.attempt_number, error)
