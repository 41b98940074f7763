"""Traces, sent to a real OTLP receiver over HTTP."""

import asyncio
import os
import subprocess
import sys

import pytest

pytest.importorskip("opentelemetry.sdk", reason="needs the extra otel")

from http_service import samples, service_in
from otlp_receiver import attributes, receiver
from state_streams import BASE, FEATURES, arrivals, configured

from selfilter_ray.service.distributed.writer import WriterReplica
from selfilter_ray.telemetry import tracing

# Run in a process of its own, since OpenTelemetry keeps one provider a process.
CHILD = {
    "run": """
from selfilter_ray.telemetry import tracing
from selfilter_ray.telemetry.run import carried, running
from selfilter_ray.telemetry.shards import making_shard
from selfilter_ray.telemetry.stage import watched_stage
from selfilter_ray.telemetry.training import TrainingWatch, saving_checkpoint

with running("r1", "mine"):
    with watched_stage("featurize", "rows", 8, lambda units: None) as told:
        with making_shard("featurize", 0, 8):
            told(8)
    with watched_stage("train", "steps", 4, lambda units: None):
        print(carried().traceparent)
        watch = TrainingWatch("stage1")
        watch.start(0)
        for step in range(1, 5):
            watch.step({"step": step, "epoch": step / 2, "loss": 1.0})
            if step == 1:
                with saving_checkpoint("stage1", step, rank=0):
                    pass
        watch.close()
    try:
        with watched_stage("select", "picks", 1, lambda units: None):
            raise ValueError("a payload")
    except ValueError:
        pass
""",
    "joined": """
import sys
from selfilter_ray.telemetry.run import Run, join
from selfilter_ray.telemetry.shards import making_shard

join(Run("r1", "mine", "featurize", "00-" + "a" * 32 + "-" + "b" * 16 + "-01"), "featurize")
with making_shard("featurize", 3, 8):
    pass
""",
    "imported": """
import sys
from selfilter_ray.telemetry.run import running
from selfilter_ray.telemetry.stage import watched_stage

with running("r1", "mine"), watched_stage("read", "rows", 1, lambda units: None):
    pass
print(*sorted(name for name in sys.modules if name.startswith("opentelemetry")))
""",
}


def child(name, **environment):
    kept = {key: value for key, value in os.environ.items() if not key.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", CHILD[name]],
        env=kept | environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done


@pytest.fixture(scope="module")
def traced():
    """What a run sent, and what it said."""
    with receiver() as kept:
        done = child("run", OTEL_EXPORTER_OTLP_ENDPOINT=kept.address)
        yield kept, done


def only(spans):
    (span,) = spans
    return span


def test_run_stage_shard_epoch_and_checkpoint_are_one_trace(traced):
    kept, _ = traced
    run = only(kept.named("run"))
    assert len({span.trace_id for span in kept.spans}) == 1
    assert kept.services == {"selfilter-ray"}
    stages = {attributes(span)["selfilter.stage"]: span for span in kept.named("stage")}
    assert set(stages) == {"featurize", "train", "select"}
    assert all(span.parent_span_id == run.span_id for span in stages.values())
    assert only(kept.named("shard")).parent_span_id == stages["featurize"].span_id
    epochs = {attributes(span)["selfilter.epoch"]: span for span in kept.named("epoch")}
    assert set(epochs) == {0, 1}
    assert all(span.parent_span_id == stages["train"].span_id for span in epochs.values())
    assert only(kept.named("checkpoint")).parent_span_id == epochs[0].span_id
    assert attributes(run) == {"selfilter.run": "r1", "selfilter.name": "mine"}


def test_an_error_marks_its_span_with_its_type_and_not_with_its_words(traced):
    kept, _ = traced
    failed = only(span for span in kept.named("stage") if span.status.code == 2)
    assert failed.status.message == "ValueError"
    assert not any(b"a payload" in span.SerializeToString() for span in kept.spans)


def test_what_is_carried_names_the_open_stage(traced):
    kept, done = traced
    stages = {attributes(span)["selfilter.stage"]: span for span in kept.named("stage")}
    _, trace, span, _ = done.stdout.split()[0].split("-")
    assert (trace, span) == (stages["train"].trace_id.hex(), stages["train"].span_id.hex())


def test_another_process_puts_its_shard_below_the_span_that_it_was_given():
    with receiver() as kept:
        child("joined", OTEL_EXPORTER_OTLP_ENDPOINT=kept.address)
    shard = only(kept.named("shard"))
    assert shard.trace_id.hex() == "a" * 32
    assert shard.parent_span_id.hex() == "b" * 16
    assert attributes(shard)["selfilter.shard"] == 3


@pytest.fixture(scope="module")
def traced_here():
    """Tracing in this process; for all tests at once, since OpenTelemetry keeps its provider."""
    with receiver() as kept:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", kept.address)
            tracing._tracer.cache_clear()
            yield kept
        tracing._tracer.cache_clear()


def test_a_request_goes_below_its_callers_span_and_nonsense_starts_a_new_trace(
    tmp_path, traced_here
):
    kept = traced_here
    parent = {"traceparent": "00-" + "c" * 32 + "-" + "d" * 16 + "-01"}
    with service_in(tmp_path) as service:
        for headers in (parent, {"traceparent": "nonsense"}):
            answer = service.post("/v1/select", json=samples("a"), headers=headers)
            assert answer.status_code == 200, answer.text
    tracing.flush()
    asked = [s for s in kept.named("request") if attributes(s)["http.route"] == "/v1/select"]
    first, second = asked
    assert (first.trace_id.hex(), first.parent_span_id.hex()) == ("c" * 32, "d" * 16)
    assert second.trace_id != first.trace_id and not second.parent_span_id
    assert attributes(first)["http.response.status_code"] == 200
    assert attributes(first)["http.request.method"] == "POST"


def test_the_writer_puts_its_work_below_the_request_that_asks_for_it(tmp_path, traced_here):
    config = configured(tmp_path)
    replica = WriterReplica(config.model_dump(mode="json"), FEATURES, BASE)

    async def admit():
        while not (await replica.readiness())["ready"]:
            await asyncio.sleep(0.01)
        return await replica.admit(arrivals(3), "00-" + "e" * 32 + "-" + "f" * 16 + "-01")

    try:
        assert len(asyncio.run(admit())) == 3
    finally:
        replica._loop.close()
    tracing.flush()
    admitted = only(traced_here.named("admit"))
    assert (admitted.trace_id.hex(), admitted.parent_span_id.hex()) == ("e" * 32, "f" * 16)
    assert attributes(admitted) == {"selfilter.samples": 3}


def test_nothing_of_opentelemetry_is_imported_without_an_endpoint():
    assert child("imported").stdout.strip() == ""


@pytest.mark.parametrize(
    "switch", [{"OTEL_SDK_DISABLED": "true"}, {"OTEL_TRACES_EXPORTER": "none"}]
)
def test_opentelemetrys_own_switches_keep_it_off(switch):
    done = child("imported", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", **switch)
    assert done.stdout.strip() == ""


def test_a_collector_that_is_away_costs_no_run():
    done = child(
        "run", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", OTEL_EXPORTER_OTLP_TIMEOUT="1"
    )
    assert done.stdout.startswith("00-")


def test_an_endpoint_without_the_extra_is_said_once_and_the_run_goes_on():
    code = "import sys; sys.modules['opentelemetry.sdk'] = None\n" + CHILD["run"].replace(
        "print(carried().traceparent)", "assert carried().traceparent == ''"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("pip install 'selfilter-ray[otel]'") == 1
