"""The consumer of a group: which partitions are ours, and what of them is done."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from selfilter_ray.errors import ConfigError, SelfilterError
from selfilter_ray.service.ingest.kafka_settings import KafkaSettings

log = logging.getLogger(__name__)

START_SECONDS = 15.0  # for the brokers to answer at the start

Place = tuple[str, int]  # a topic, and a partition of it


class BrokerError(SelfilterError):
    """The brokers refuse this consumer for good."""


@dataclass(slots=True)
class Held:
    """Partitions that are ours until the group takes them away.

    Attributes:
        claims: by partition, a new object each time it is assigned: what was read under an earlier
            one is not committed any more.
        done: by partition, the offset after the last message that was committed.
    """

    claims: dict[Place, object] = field(default_factory=dict)
    done: dict[Place, int] = field(default_factory=dict)

    def take(self, partitions: Iterable[TopicPartition]) -> None:
        for place in map(place_of, partitions):
            self.claims[place] = object()
            self.done.pop(place, None)

    def drop(self, partitions: Iterable[TopicPartition]) -> None:
        for place in map(place_of, partitions):
            self.claims.pop(place, None)
            self.done.pop(place, None)


class GroupConsumer:
    """Messages in the order of their partitions; used by one thread."""

    def __init__(self, settings: KafkaSettings, revoking: Callable[[], None]) -> None:
        """Connect.

        Args:
            revoking: called when partitions are about to go: the last time to commit.

        Raises:
            ConfigError: when librdkafka does not know an option.
        """
        self.held = Held()
        self._settings, self._revoking = settings, revoking
        self._backlog: list[Message] = []
        self._paused: set[Place] = set()
        self._fatal: KafkaError | None = None
        try:
            self._consumer = Consumer(self._options(settings), logger=log)
        except KafkaException as error:
            raise ConfigError(f"options: {error.args[0].str()}.") from None

    def subscribe(self) -> None:
        """Join the group.

        Raises:
            ConfigError: when no broker answers, or a topic does not exist.
        """
        try:
            known = self._consumer.list_topics(timeout=START_SECONDS).topics
        except KafkaException as error:
            raise ConfigError(
                f"brokers {self._settings.brokers} do not answer: {error.args[0].str()}."
            ) from None
        for topic in (*self._settings.topics, self._settings.output, self._settings.dead_letter):
            if topic not in known or known[topic].error is not None:
                raise ConfigError(f"topic {topic} does not exist: create it.")
        self._consumer.subscribe(
            list(self._settings.topics),
            on_assign=self._assigned,
            on_revoke=self._revoked,
            on_lost=self._lost,
        )

    def read(self) -> list[Message]:
        """Up to a batch of messages, after at most ``linger_seconds``."""
        settings = self._settings
        held, self._backlog = self._backlog, []
        return held + self._usable(self._consumer.consume(settings.batch, settings.linger_seconds))

    def stay(self, seconds: float) -> None:
        """Let the group know that we live, without taking more messages than come by chance."""
        new = self.held.claims.keys() - self._paused
        if new:
            self._consumer.pause([TopicPartition(*place) for place in new])
            self._paused |= new
        message = self._consumer.poll(seconds)
        self._backlog += self._usable([] if message is None else [message])

    def go_on(self) -> None:
        """After ``stay``: take messages again."""
        ours = self._paused & self.held.claims.keys()
        self._consumer.resume([TopicPartition(*place) for place in ours])
        self._paused.clear()

    def commit(self, offsets: dict[Place, int]) -> None:
        """Offsets of the next messages to read. What fails is read again by whoever is next."""
        if not offsets:
            return
        wanted = [TopicPartition(*place, offset) for place, offset in offsets.items()]
        try:
            committed = self._consumer.commit(offsets=wanted, asynchronous=False) or []
        except KafkaException as error:
            log.warning("offsets were not committed, messages come again: %s", error.args[0].str())
            return
        for partition in committed:
            if partition.error is not None:
                log.warning("%s was not committed: %s", place_of(partition), partition.error.str())
            else:
                self.held.done[place_of(partition)] = partition.offset

    def lag(self) -> dict[Place, int]:
        """Messages of each of our partitions that are not yet decided, as far as it is known."""
        behind = {}
        for place in self.held.claims:
            partition = TopicPartition(*place)
            try:
                low, high = self._ends(partition)
                [position] = self._consumer.position([partition])
            except (KafkaException, TypeError) as error:  # no answer in time is None
                log.warning("the lag of %s is not known: %s", place, error)
                continue
            if high >= 0:
                done = self.held.done.get(place, max(position.offset, low))
                behind[place] = max(0, high - done)
        return behind

    def _ends(self, partition: TopicPartition) -> tuple[int, int]:
        """The first and the next offset; negative before the first answer of a broker."""
        # A question to a broker waits behind the fetch that is under way. Fetches bring these
        # numbers along; while a partition is paused there are none.
        ask = place_of(partition) in self._paused
        ends: tuple[int, int] = self._consumer.get_watermark_offsets(
            partition, timeout=1.0, cached=not ask
        )
        return ends

    def close(self) -> None:
        """Leave the group; what was not committed is for others."""
        self._consumer.close()

    def _usable(self, messages: Sequence[Message]) -> list[Message]:
        if self._fatal is not None:
            raise BrokerError(f"the brokers refuse this consumer: {self._fatal.str()}.")
        usable = []
        for message in messages:
            error = message.error()
            if error is None:
                usable.append(message)
            else:
                log.warning("the brokers say: %s", error.str())
        return [message for message in usable if place_of(message) in self.held.claims]

    def _assigned(self, _: Any, partitions: list[TopicPartition]) -> None:
        self.held.take(partitions)
        log.info("assigned: %s", [place_of(partition) for partition in partitions])

    def _revoked(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._revoking()
        self._forget(partitions)
        log.info("revoked: %s", [place_of(partition) for partition in partitions])

    def _lost(self, _: Any, partitions: list[TopicPartition]) -> None:
        self._forget(partitions)
        log.warning("lost: %s", [place_of(partition) for partition in partitions])

    def _forget(self, partitions: list[TopicPartition]) -> None:
        self.held.drop(partitions)
        gone = {place_of(partition) for partition in partitions}
        self._paused -= gone
        self._backlog = [one for one in self._backlog if place_of(one) not in gone]

    def _options(self, settings: KafkaSettings) -> dict[str, Any]:
        return {
            **settings.client_options(),
            "group.id": settings.group,
            "auto.offset.reset": settings.start,
            "enable.auto.commit": False,
            "error_cb": self._failed,
        }

    def _failed(self, error: KafkaError) -> None:
        log.warning("the brokers say: %s", error.str())
        if error.fatal():
            self._fatal = error


def place_of(at: TopicPartition | Message) -> Place:
    """Where a message stands, or which partition is meant."""
    if isinstance(at, TopicPartition):
        return at.topic, at.partition
    return str(at.topic()), int(at.partition() or 0)
