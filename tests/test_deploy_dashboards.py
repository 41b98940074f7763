"""Dashboards and alerts show metrics that there are: names and labels of each PromQL expression.

What there is comes from a real service's /metrics, from the declared metrics of runs (that a run
writes them all is shown in test_metrics_telemetry.py), from an ingestion's registry, and from Ray.
"""

import json
import re

import pytest
import yaml
from http_service import sample, samples, service_in
from manifests import DEPLOY
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from selfilter_ray.service.ingest.kafka_metrics import IngestMetrics
from selfilter_ray.telemetry.declared import ALL

promql = pytest.importorskip("promql_parser", reason="needs promql-parser (extra dev)")

DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RULES = DEPLOY / "prometheus" / "rules.yaml"
OF_PROMETHEUS = {"job", "instance"}
UP = {"up": OF_PROMETHEUS}


def of_text(text):
    """Labels of each metric, by the names that its samples have."""
    found = {}
    for family in text_string_to_metric_families(text):
        for one in family.samples:
            found.setdefault(one.name, set()).update(one.labels)
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """What a service exports that has seen all kinds of samples, a snapshot, and two ingresses."""
    keys = {"ingress": 2, "online": {"budget": 1}}
    with service_in(tmp_path_factory.mktemp("service"), **keys) as service:
        service.post("/v1/select", json=samples(*range(6)))
        wrong = sample("wrong")
        wrong["features"]["image_embedding"] = [0.0] * 3
        service.post("/v1/select", json={"samples": [sample("c", 1), wrong]})
        conflict = service.post("/v1/select", json={"samples": [sample(0, 77)]})
        assert conflict.status_code == 409
        service.stream(b'{"id": 1}\n')
        assert service.post("/v1/admin/snapshot").status_code == 200
        return of_text(service.get("/metrics").text)


@pytest.fixture(scope="module")
def there(served):
    """Labels by name of every metric that can be shown."""
    ingest = IngestMetrics(0.0)
    ingest.count(1, 1)
    ingest.show({("pool", 0): 3})
    ingested = of_text(generate_latest(ingest.registry).decode())
    runs = {name: set(metric.all_labels) for name, metric in ALL.items()}
    return served | ingested | runs | of_ray() | UP


def of_ray():
    """What Ray's agents export of their nodes, by Ray's own table."""
    agent = pytest.importorskip("ray.dashboard.modules.reporter.reporter_agent")
    return {f"ray_{name}": set(gauge.view.columns) for name, gauge in agent.METRICS_GAUGES.items()}


def expressions():
    """(where, text) of every expression, with a dashboard's variables filled in."""
    for file in DASHBOARDS:
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                text = target["expr"].replace("$run", ".+")
                yield f"{file.stem}: {panel['title']}", text
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield f"rules: {rule['alert']}", rule["expr"]


def used(text):
    """(name, labels) of every selector, and the labels that the expression groups by."""
    selectors, grouped = [], set()
    for node in nodes(promql.parse(text)):
        if isinstance(node, promql.VectorSelector):
            matchers = [*node.matchers.matchers]
            names = {m.name for m in matchers} - {"__name__"}
            selectors.append((node.name, names))
        elif isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            grouped |= set(node.modifier.labels)
    return selectors, grouped


def nodes(node):
    """An expression and all within it."""
    yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "param"):
        inner = getattr(node, name, None)
        if isinstance(inner, promql.Expr):
            yield from nodes(inner)
    for inner in getattr(node, "args", None) or ():
        yield from nodes(inner)


EXPRESSIONS = list(expressions())


@pytest.mark.parametrize(("where", "text"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_every_expression_names_metrics_and_labels_that_there_are(where, text, there):
    selectors, grouped = used(text)
    assert selectors, "it looks at nothing"
    labels = set(OF_PROMETHEUS)
    for name, asked in selectors:
        assert name in there, f"{name} is exported by nothing"
        assert asked <= there[name] | OF_PROMETHEUS, f"{name} has no label {asked - there[name]}"
        labels |= there[name]
    assert grouped <= labels, f"no metric of it has {grouped - labels}"


def test_every_metric_of_ours_is_on_a_dashboard(there):
    """Shown by nobody, it would be measured for nothing."""
    shown = {name for _, text in EXPRESSIONS for name, _ in used(text)[0]}
    ours = {name for name in there if name.startswith("selfilter_")}
    base = {re.sub("_(bucket|sum|count|created)$", "", name) for name in ours}
    assert {name for name in base if not any(s.startswith(name) for s in shown)} == set()


def test_an_expression_with_a_wrong_name_or_label_would_be_found(there):
    for text in ("sum by (rout) (selfilter_samples_total)", "selfilter_kept{rout='a'}",
                 "rate(selfilter_nothing[5m])"):  # fmt: skip
        with pytest.raises(AssertionError):
            test_every_expression_names_metrics_and_labels_that_there_are("a", text, there)


def test_counters_are_looked_at_by_their_rate_and_gauges_are_not():
    counts = re.compile(r"_(total|bucket|count|sum)$")
    for where, text in EXPRESSIONS:
        for node in nodes(promql.parse(text)):
            if isinstance(node, promql.Call) and node.func.name in ("rate", "increase"):
                name = node.args[0].vector_selector.name
                assert counts.search(name), f"{where}: {name}"


def test_dashboards_load_and_each_panel_says_what_it_shows():
    uids = set()
    for file in DASHBOARDS:
        board = json.loads(file.read_text())
        uids.add(board["uid"])
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids))
        for panel in board["panels"]:
            assert panel["title"] and panel["description"], file
            place = panel["gridPos"]
            assert place["x"] + place["w"] <= 24
            assert {t["datasource"]["uid"] for t in panel["targets"]} == {"prometheus"}
    assert uids == {"selfilter-service", "selfilter-pipeline"}


def test_every_alert_is_explained_in_the_runbook():
    runbook = (DEPLOY.parent / "docs" / "runbook.md").read_text()
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert rule["labels"]["severity"] in ("critical", "warning", "info")
            assert rule["annotations"]["summary"]
            assert f"`{rule['alert']}`" in runbook, rule["alert"]


@pytest.mark.parametrize("name", ["prometheus.yaml", "kubernetes.yaml", "hosts.yaml"])
def test_scrape_files_name_jobs_that_the_expressions_know(name):
    tree = yaml.safe_load((DEPLOY / "prometheus" / name).read_text())
    jobs = {job["job_name"] for job in tree["scrape_configs"]}
    assert jobs <= {
        "selfilter-service", "selfilter-ray", "selfilter-ingest", "node", "prometheus"
    }  # fmt: skip
    for job in tree["scrape_configs"]:
        if job["job_name"] == "selfilter-ray":
            (rule,) = job["metric_relabel_configs"]
            given = "ray_selfilter_stage_running"
            assert re.fullmatch(rule["regex"], given)[1] == "selfilter_stage_running"
            assert not re.fullmatch(rule["regex"], "ray_node_mem_used")
            assert (rule["target_label"], rule["replacement"]) == ("__name__", "$1")
