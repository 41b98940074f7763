"""The writer on a thread of its own: opened there, and asked one thing after another.

Samples of requests that wait at the same time are decided together, in their order: one search and
one durable transaction for all of them. The decisions are those of one by one.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from selfilter_ray.errors import SelfilterError
from selfilter_ray.online.decision import Decision
from selfilter_ray.service.messages import Arrival, BusyError, NotReadyError, Refused
from selfilter_ray.service.state.errors import FencedError
from selfilter_ray.service.state.writer import SelectionWriter

log = logging.getLogger(__name__)

GATHERED = 1024  # samples decided together at most
WAITING = 16_384  # samples that may wait; a request beyond is told to come again
REOPEN_SECONDS = 0.5  # between attempts to open the state

T = TypeVar("T")


@dataclass(slots=True)
class _Job(Generic[T]):
    """Something to ask the writer. ``arrivals`` where it is an admission."""

    work: Callable[[SelectionWriter], T] | None
    arrivals: list[Arrival] = field(default_factory=list)
    answer: Future[T] = field(default_factory=Future)


class WriterLoop:
    """Opens the writer in the background and keeps it open.

    Args:
        open_writer: takes the lease and replays the log; called again after a failure that leaves
            the state in memory uncertain, and as long as another process holds the lease.
    """

    def __init__(self, open_writer: Callable[[], SelectionWriter]) -> None:
        self._open_writer = open_writer
        self._jobs: queue.SimpleQueue[_Job[Any] | None] = queue.SimpleQueue()
        self._waiting = 0
        self._count = threading.Lock()
        self._ready = False
        self._detail = "opening the state"
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        return self._ready

    @property
    def detail(self) -> str:
        """What it is doing, or why it is not ready."""
        return self._detail

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    async def admit(self, arrivals: Sequence[Arrival]) -> list[Decision | Refused]:
        """See ``Backend.admit``."""
        self._check()
        with self._count:
            if self._waiting + len(arrivals) > WAITING:
                raise BusyError(f"{self._waiting} samples are waiting for their decision")
            self._waiting += len(arrivals)
        job: _Job[list[Decision | Refused]] = _Job(None, list(arrivals))
        self._jobs.put(job)
        return await asyncio.wrap_future(job.answer)

    async def ask(self, work: Callable[[SelectionWriter], T]) -> T:
        """Call ``work`` with the writer, on its thread."""
        self._check()
        job: _Job[T] = _Job(work)
        self._jobs.put(job)
        return await asyncio.wrap_future(job.answer)

    def close(self) -> None:
        """Answer what is waiting, then close the writer and let go of the lease."""
        self._closing.set()
        self._jobs.put(None)
        self._thread.join()

    def _check(self) -> None:
        if not self._ready:
            raise NotReadyError(f"the writer is not ready: {self._detail}")

    def _run(self) -> None:
        while not self._closing.is_set():
            writer = self._opened()
            if writer is None:
                break
            try:
                self._serve(writer)
            except Exception as error:
                log.exception("the writer failed and is opened anew")
                self._detail = f"opening the state again after {type(error).__name__}"
            finally:
                self._ready = False
                writer.close()
        self._detail = "closed"
        self._refuse_waiting()

    def _opened(self) -> SelectionWriter | None:
        """The open writer; None when the loop is being closed."""
        while not self._closing.is_set():
            started = time.monotonic()
            try:
                writer = self._open_writer()
            except (SelfilterError, NotReadyError) as error:
                if self._detail != str(error):
                    log.error("the state cannot be opened: %s", error)
                self._detail = str(error)
                self._refuse_waiting()
                self._closing.wait(REOPEN_SECONDS)
                continue
            log.info("the state is open after %.1f s", time.monotonic() - started)
            self._ready, self._detail = True, "ready"
            return writer
        return None

    def _serve(self, writer: SelectionWriter) -> None:
        ahead: _Job[Any] | None = None
        while True:
            job = ahead or self._jobs.get()
            ahead = None
            if job is None:
                return
            if job.work is not None:
                _answer(job, job.work, writer)
                continue
            jobs, ahead, closing = self._gathered(job)
            self._admit(writer, [job for job in jobs if self._wanted(job)])
            if closing:
                if ahead is not None:
                    self._jobs.put(ahead)
                return

    def _gathered(self, first: _Job[Any]) -> tuple[list[_Job[Any]], _Job[Any] | None, bool]:
        """The admissions that wait behind the first, and the first other job behind them."""
        jobs, samples = [first], len(first.arrivals)
        while samples < GATHERED:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return jobs, None, True
            if job.work is not None:
                return jobs, job, False
            jobs.append(job)
            samples += len(job.arrivals)
        return jobs, None, False

    def _wanted(self, job: _Job[Any]) -> bool:
        """False when the caller has left; from here on its leaving changes nothing."""
        wanted = job.answer.set_running_or_notify_cancel()
        if not wanted:
            self._forget(job)
        return wanted

    def _forget(self, job: _Job[Any]) -> None:
        with self._count:
            self._waiting -= len(job.arrivals)

    def _admit(self, writer: SelectionWriter, jobs: list[_Job[Any]]) -> None:
        arrivals = [arrival for job in jobs for arrival in job.arrivals]
        try:
            answers = writer.admit(arrivals)
        except BaseException as error:
            for job in jobs:
                _fail(job, error)
            # A writer that was fenced knows less than the log; others have their state whole.
            if isinstance(error, FencedError) or not isinstance(error, NotReadyError):
                raise
        else:
            start = 0
            for job in jobs:
                job.answer.set_result(answers[start : start + len(job.arrivals)])
                start += len(job.arrivals)
        finally:
            for job in jobs:
                self._forget(job)

    def _refuse_waiting(self) -> None:
        while True:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return
            if job is not None and self._wanted(job):
                self._forget(job)
                _fail(job, NotReadyError(f"the writer is not ready: {self._detail}"))


def _answer(job: _Job[T], work: Callable[[SelectionWriter], T], writer: SelectionWriter) -> None:
    """Reading may fail without harm to the state: the caller hears of it."""
    if not job.answer.set_running_or_notify_cancel():
        return
    try:
        job.answer.set_result(work(writer))
    except Exception as error:
        if not isinstance(error, NotReadyError | SelfilterError):
            log.exception("a question to the writer failed")
        _fail(job, error)


def _fail(job: _Job[Any], error: BaseException) -> None:
    """Pass on what is meant for the caller; anything else is in the log."""
    if not isinstance(error, NotReadyError | SelfilterError):
        error = NotReadyError(f"the writer failed: {type(error).__name__}")
    job.answer.set_exception(error)
