"""Writing decisions and dead letters: what was flushed is on the broker."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

from confluent_kafka import KafkaError, Message, Producer

from selfilter_ray.errors import SelfilterError
from selfilter_ray.service.ingest.kafka_batch import Outgoing
from selfilter_ray.service.ingest.kafka_settings import KafkaSettings

LARGEST_BYTES = 1_000_000_000  # of a message: the broker's own limit decides


class OutputError(SelfilterError):
    """A topic does not take what must be written; nothing of it was committed."""


class Output:
    """The producer of one ingestion; used by one thread."""

    def __init__(self, settings: KafkaSettings, logger: Any) -> None:
        self._settings = settings
        options: dict[str, Any] = {
            **settings.client_options(),
            "acks": "all",
            "enable.idempotence": True,
            "message.max.bytes": LARGEST_BYTES,
            "linger.ms": 5,
        }
        self._producer = Producer(options, logger=logger)
        self._failed: list[str] = []

    def write(self, messages: Iterable[Outgoing], dropped: threading.Event) -> bool:
        """Write all of them, in order; whether all are on the broker.

        Args:
            dropped: once set, nobody waits any longer; the answer is False then.

        Raises:
            OutputError: when the broker refuses one.
        """
        for message in messages:
            self._produce(message)
        while self._producer.flush(0.2) and not self._failed:
            if dropped.is_set():
                return False
        if self._failed:
            failed, self._failed = self._failed[0], []
            self._producer.purge()
            raise OutputError(f"{failed}. What was not written will be read again.")
        return True

    def _produce(self, message: Outgoing) -> None:
        settings = self._settings
        topic = settings.dead_letter if message.dead else settings.output
        while True:
            try:
                self._producer.produce(
                    topic, message.value, message.key, headers=message.headers,
                    on_delivery=self._delivered,
                )  # fmt: skip
                return
            except BufferError:  # the queue is full: let some of it go
                self._producer.poll(0.2)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is not None:
            self._failed.append(f"topic {message.topic()} does not take a message: {error.str()}")
