"""From Kafka topics into a running service, at least once.

Messages are read in batches. A thread sends a batch to the service, waits for its durable
decisions, writes them to the output topic and flushes it; only then are the offsets committed.
Whatever is cut off before that is read again, and the service repeats the decisions that it made.
While the thread works, or waits for a service that is away, the consumer keeps its place in the
group.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from confluent_kafka import Message

from selfilter_ray.service.client import Client, UnreachableError
from selfilter_ray.service.client.lines import CHUNK_BYTES, CHUNK_LINES, chunks
from selfilter_ray.service.ingest.kafka_batch import Outgoing, Taken, outgoing, take
from selfilter_ray.service.ingest.kafka_consumer import GroupConsumer, Place, place_of
from selfilter_ray.service.ingest.kafka_metrics import IngestMetrics
from selfilter_ray.service.ingest.kafka_output import Output
from selfilter_ray.service.ingest.kafka_settings import KafkaSettings

log = logging.getLogger(__name__)

# Pausing partitions throws away what was fetched ahead, so short work is waited for without it.
QUIET_SECONDS = 5.0
POLL_SECONDS = 0.1


@dataclass(slots=True)
class _Batch:
    """Messages on their way.

    Attributes:
        claims: of their partitions, when they were read.
        written: whether all answers are on the broker.
        committed: nothing is left to do.
    """

    messages: Sequence[Message]
    claims: dict[Place, object]
    written: Future[bool]
    committed: bool = False


class KafkaIngest:
    """One consumer of the group; ``run`` until it is stopped."""

    def __init__(self, settings: KafkaSettings, url: str, key: str | None = None) -> None:
        """Connect.

        Raises:
            ConfigError: for a wrong URL, option or secret.
        """
        self.metrics = IngestMetrics(settings.lag_seconds)
        self._settings = settings
        self._stop = threading.Event()
        self._give_up = threading.Event()
        self._client = Client(url, key, settings.request_seconds, math.inf, self._give_up)
        self._consumer = GroupConsumer(settings, self._revoking)
        self._output = Output(settings, log)
        self._batch: _Batch | None = None

    def stop(self) -> None:
        """Finish what is under way, commit it, and leave the group."""
        self._stop.set()

    def run(self) -> None:
        """Read until ``stop``, SIGTERM or SIGINT.

        Raises:
            ConfigError: when no broker answers, or a topic does not exist.
            ServiceError: when the service refuses the key, or fails.
            OutputError, BrokerError: when a topic takes no messages, or the group not this one.
        """
        with (
            self._client,
            self.metrics.served(self._settings.metrics_port),
            ThreadPoolExecutor(1, thread_name_prefix="ingest") as worker,
            _stopped_by_signals(self.stop),
        ):
            try:
                self._consumer.subscribe()
                while not self._stop.is_set():
                    self._look_at_lag()
                    messages = self._consumer.read()
                    if messages:
                        self._process(messages, worker)
            finally:
                self._give_up.set()
                self._consumer.close()
        log.info("stopped: %d decided, %d dead", self.metrics.decided, self.metrics.dead)

    def _process(self, messages: Sequence[Message], worker: ThreadPoolExecutor) -> None:
        claims = {place_of(one): self._consumer.held.claims[place_of(one)] for one in messages}
        batch = _Batch(messages, claims, worker.submit(self._decide, messages))
        self._batch = batch
        try:
            wait([batch.written], QUIET_SECONDS)
            if not batch.written.done():
                self._wait_in_group(batch)
            self._commit(batch)
        finally:
            self._batch = None

    def _wait_in_group(self, batch: _Batch) -> None:
        log.info("waiting for the service; the group keeps this consumer")
        until = math.inf
        while not batch.written.done():
            self._consumer.stay(POLL_SECONDS)
            self._look_at_lag()
            if self._stop.is_set():
                until = min(until, time.monotonic() + self._settings.stop_seconds)
            if time.monotonic() > until:
                self._give_up.set()
        self._consumer.go_on()

    def _decide(self, messages: Sequence[Message]) -> bool:
        """In the thread: whether all decisions are durable and written."""
        taken = [take(message, self._settings.message_bytes) for message in messages]
        try:
            written = list(outgoing(taken, self._answers(taken)))
        except UnreachableError:
            log.warning("stopped before the service answered: %d messages come again", len(taken))
            return False
        if not self._output.write(written, self._give_up):
            return False
        self._count(written)
        return True

    def _answers(self, taken: Sequence[Taken]) -> list[dict[str, Any]]:
        lines = [one.line for one in taken if one.fault is None]
        answers: list[dict[str, Any]] = []
        for chunk in chunks(lines, len, CHUNK_LINES, CHUNK_BYTES):
            answers += self._client.select_lines(chunk)
        return answers

    def _count(self, written: Sequence[Outgoing]) -> None:
        dead = sum(message.dead for message in written)
        self.metrics.count(len(written) - dead, dead)

    def _commit(self, batch: _Batch) -> None:
        if batch.committed or not batch.written.result():
            return
        claims = self._consumer.held.claims
        offsets: dict[Place, int] = {}
        for message in batch.messages:
            place = place_of(message)
            if claims.get(place) is batch.claims[place]:
                offsets[place] = int(message.offset() or 0) + 1
        self._consumer.commit(offsets)
        batch.committed = True

    def _revoking(self) -> None:
        """Partitions are about to go: finish what is under way, if it does not take too long."""
        batch = self._batch
        if batch is None:
            return
        wait([batch.written], self._settings.stop_seconds)
        if batch.written.done() and batch.written.exception() is None:
            self._commit(batch)

    def _look_at_lag(self) -> None:
        if self.metrics.is_due():
            self.metrics.show(self._consumer.lag())


@contextmanager
def _stopped_by_signals(stop: Any) -> Iterator[None]:
    """SIGTERM and SIGINT call ``stop`` inside the block, where it is the main thread's."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = {number: signal.signal(number, lambda *_: stop()) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
