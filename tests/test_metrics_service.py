"""Metrics of the service that do not belong to a route: size of the state, several ingresses."""

from contextlib import closing

import psycopg
import pytest
from http_service import samples, service_in
from postgresql import private_server
from prometheus_client.parser import text_string_to_metric_families
from state_streams import RATE, arrivals, configured, opened

from selfilter_ray.service.http.metrics import HttpMetrics
from selfilter_ray.service.metrics import prometheus_text
from selfilter_ray.service.state import size


@pytest.fixture(autouse=True)
def always_due(monkeypatch):
    """Look at the size with every batch."""
    monkeypatch.setattr(size, "EVERY_SECONDS", 0.0)


def values(text):
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_size_of_a_state_in_files_is_that_of_its_files(tmp_path):
    config = configured(tmp_path, RATE)
    with closing(opened(config)) as writer:
        before = writer.stats()["log"]["bytes"]
        writer.admit(arrivals(200))
        after = writer.stats()["log"]["bytes"]
        files = sum(file.stat().st_size for file in config.state_folder.glob("decisions.sqlite*"))
        text = prometheus_text(writer.stats()).decode()
    assert before < after == files
    assert values(text)["selfilter_state_bytes",] == files


def test_the_size_of_a_state_in_postgresql_is_that_of_its_tables_also_while_it_is_away(tmp_path):
    with private_server(tmp_path / "pg") as server:
        config = configured(server.get_uri(), RATE, snapshot_dir=str(tmp_path / "snapshots"))
        writer = opened(config)
        writer.admit(arrivals(50))
        size = writer.stats()["log"]["bytes"]
        with psycopg.connect(server.get_uri()) as connection:
            (tables,) = connection.execute(
                "SELECT sum(pg_total_relation_size(relid)) FROM pg_stat_user_tables"
            ).fetchone()
    assert size == tables
    writer._size.look_if_due()
    assert writer.stats()["log"]["bytes"] == size
    writer.close()


def test_counts_of_several_ingresses_are_told_apart(tmp_path):
    with service_in(tmp_path, ingress=2) as service:
        service.post("/v1/select", json=samples("a"))
        found = values(service.get("/metrics").text)
    asked = {key: value for key, value in found.items() if key[0] == "selfilter_samples_total"}
    ((_, *labels),) = asked
    assert dict(labels)["process"]
    # The writer is one, whoever is asked for it.
    assert found["selfilter_log_decisions",] == 1


def test_the_label_of_a_process_is_on_every_sample_and_changes_none():
    plain, labelled = HttpMetrics(), HttpMetrics("host-1")
    for metrics in (plain, labelled):
        metrics.requests.labels("/v1/score", "POST", "200").inc(3)
        metrics.seconds.labels("/v1/score").observe(0.02)
    before, after = values(plain.text().decode()), values(labelled.text().decode())

    def counted(found):
        return {key: value for key, value in found.items() if not key[0].endswith("_created")}

    stripped = {
        (name, *(pair for pair in labels if pair != ("process", "host-1"))): value
        for (name, *labels), value in counted(after).items()
    }
    assert stripped == counted(before)
    assert all(("process", "host-1") in labels for _, *labels in after)
