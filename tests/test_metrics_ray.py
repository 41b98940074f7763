"""Metrics of runs through a real Ray: its agent exports them under their names."""

import time

import httpx
import pytest
import ray
from prometheus_client.parser import text_string_to_metric_families

from selfilter_ray.distributed.metrics import exported_by_ray
from selfilter_ray.telemetry.declared import ALL
from selfilter_ray.telemetry.run import carried, running

pytest.importorskip("aiohttp", reason="Ray's agent needs the extra cluster")
pytestmark = pytest.mark.ray
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def exported():
    """What Ray's agent shows after every declared metric was measured in a task.

    A driver that starts Ray measures, too; but where the agent needs long to start, what that
    driver measures never arrives: Ray gives up on it after some seconds.
    """
    from selfilter_ray.config import RayConfig
    from selfilter_ray.distributed.runtime import connected

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_metrics_report_interval_ms", "500")
        with connected(RayConfig(num_cpus=1)), running("r1", "mine"), exported_by_ray():
            names = sorted(ALL)
            measured(names)(None)
            ray.get(ray.remote(measured(names)).remote(carried()))
            yield shown(len(ALL))


def measured(names):
    """As a function that another process can be sent."""

    def measure(run):
        from selfilter_ray.distributed.metrics import join_on_ray
        from selfilter_ray.telemetry.declared import ALL
        from selfilter_ray.telemetry.meter import meter

        if run is not None:
            join_on_ray(run, "task")
        for name in names:
            metric = ALL[name]
            labels = dict.fromkeys(metric.labels, "x")
            (meter.add if metric.kind == "counter" else meter.set)(metric, 3.0, **labels)

    return measure


def shown(enough):
    """Labels and value by name, once the agent knows so many."""
    port = ray.nodes()[0]["MetricsExportPort"]
    until = time.monotonic() + PATIENCE_SECONDS
    found = {}
    while time.monotonic() < until and len(found) < enough:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.startswith("ray_selfilter_"):
                    found[sample.name.removeprefix("ray_")] = sample.labels, sample.value
        time.sleep(0.2)
    return found


def test_rays_agent_exports_every_declared_metric_under_its_name(exported):
    assert set(exported) == set(ALL)


def test_each_has_its_declared_labels_and_its_value(exported):
    for name, (labels, value) in exported.items():
        assert set(ALL[name].all_labels) <= set(labels), name
        assert labels["run"] == "r1"
        assert value == (1.0 if labels.get("name") == "mine" else 3.0), name


def test_the_labels_of_a_run_are_none_of_rays_own(exported):
    own = {label for metric in ALL.values() for label in metric.all_labels}
    rays = {label for name, (labels, _) in exported.items() for label in labels} - own
    assert {"SessionName", "WorkerId"} <= rays
