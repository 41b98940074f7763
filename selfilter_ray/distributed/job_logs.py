"""Following a job: its log as it grows, until it has ended, over losses of the connection."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import aiohttp

from selfilter_ray.distributed.job_client import JobClient, NoAnswerError, NoSuchJobError, told
from selfilter_ray.errors import SelfilterError
from selfilter_ray.submission.outcome import has_ended, status_of

LOOK_SECONDS = 1.0
PENDING_SECONDS = 20.0


class Following:
    """A job that is watched.

    Args:
        write: takes pieces of the job's log; none is given twice.
        say: takes messages to the user.
        patience: seconds that the dashboard may be away.
    """

    def __init__(
        self,
        client: JobClient,
        job: str,
        write: Callable[[str], None],
        say: Callable[[str], None],
        patience: float,
    ) -> None:
        self.client, self.job, self.write, self.say = client, job, write, say
        self.patience = patience
        self.seen = 0  # characters of the log
        self._away_since: float | None = None
        self._waiting_since: float | None = time.monotonic()

    def until_end(self) -> Any:
        """Wait; returns what Ray says of the ended job.

        Raises:
            NoAnswerError: when the dashboard was away for longer than the patience.
            SelfilterError: when the cluster does not know the job any more.
            KeyboardInterrupt: the job goes on, and may be followed again.
        """
        return asyncio.run(self._until_end())

    async def _until_end(self) -> Any:
        reading = asyncio.create_task(self._read())
        try:
            while True:
                details = await self._look()
                if details is not None and has_ended(details):
                    break
                self._say_if_waiting(details)
                await asyncio.sleep(LOOK_SECONDS)
                if reading.done():  # the connection was lost
                    reading = asyncio.create_task(self._read())
        finally:
            reading.cancel()
        await asyncio.wait([reading])
        self._rest()
        return details

    async def _look(self) -> Any:
        """What Ray says of the job; None while the dashboard is away."""
        try:
            details = await asyncio.to_thread(job_details, self.client, self.job)
        except NoAnswerError:
            now = time.monotonic()
            if self._away_since is None:
                self._away_since = now
                self.say(f"the dashboard does not answer; waiting {self.patience:.0f} s for it.")
            if now - self._away_since > self.patience:
                raise
            return None
        except NoSuchJobError:
            raise SelfilterError(
                f"the cluster has forgotten job {self.job}: its head has started anew, without "
                "fault tolerance. Submit again: what is finished is kept."
            ) from None
        if self._away_since is not None:
            self.say("the dashboard answers again.")
            self._away_since = None
        return details

    def _say_if_waiting(self, details: Any) -> None:
        """A job that does not start has no log: say once what it waits for."""
        if details is None or status_of(details) != "PENDING" or self._waiting_since is None:
            return
        if time.monotonic() - self._waiting_since > PENDING_SECONDS:
            self.say(f"job {self.job} has not started yet: {(details.message or '').strip()}")
            self._waiting_since = None

    def _rest(self) -> None:
        """What is left of the log of a job that has ended: it grows no more."""
        try:
            log = job_log(self.client, self.job)
        except SelfilterError as error:
            self.say(f"the end of the log cannot be had: {error}")
            return
        if len(log) > self.seen:
            self.write(log[self.seen :])

    async def _read(self) -> None:
        """Write the log as it grows, until it ends or the connection is lost.

        A log is only ever appended to, so what was written before is skipped by its length.
        """
        position = 0
        try:
            async for text in self.client.tail_job_logs(self.job):
                new = text[max(0, self.seen - position) :]
                position += len(text)
                if new:
                    self.seen = position
                    self.write(new)
        except (aiohttp.ClientError, RuntimeError, OSError):
            return  # what is wrong with the connection is found by looking at the job


def job_details(client: JobClient, job: str) -> Any:
    """What Ray says of a job.

    Raises:
        NoSuchJobError: when it is not known.
        NoAnswerError: when the dashboard is away.
    """
    with told(client.url):
        return client.get_job_info(job)


def job_log(client: JobClient, job: str) -> str:
    """The whole log so far.

    Raises:
        SelfilterError: when it cannot be had.
    """
    with told(client.url):
        return str(client.get_job_logs(job))
