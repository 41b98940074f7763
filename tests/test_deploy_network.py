"""Who may talk to whom in the cluster: nothing by default, and what is open is really there."""

import pytest
import yaml
from manifests import DEPLOY, KUBERNETES, built, clusters, groups, of_kind, pod_templates

# Fixed by Ray and KubeRay: the dashboard, and the agents' metrics.
DASHBOARD, METRICS, SERVE = 8265, 8080, 8000


@pytest.fixture(scope="module")
def objects():
    return built(KUBERNETES / "overlays/cpu") + built(KUBERNETES / "job")


@pytest.fixture(scope="module")
def policies(objects):
    return {p["metadata"]["name"]: p["spec"] for p in of_kind(objects, "NetworkPolicy")}


@pytest.fixture(scope="module")
def pods(objects):
    """Labels and ports of each pod, by where it is."""
    return {
        where: (
            template["metadata"]["labels"],
            {port["containerPort"] for c in template["spec"]["containers"]
             for port in c.get("ports", ())},
        )
        for where, template in pod_templates(objects)
    }  # fmt: skip


def chosen(selector, pods):
    """Where the pods are that a selector chooses."""
    found = set()
    for where, (labels, _) in pods.items():
        fits = selector.get("matchLabels", {}).items() <= labels.items()
        for wish in selector.get("matchExpressions", ()):
            assert wish["operator"] == "In"
            fits = fits and labels.get(wish["key"]) in wish["values"]
        if fits:
            found.add(where)
    return found


def peers(rules, side):
    """(peer, ports) of each rule; no ports are all of them."""
    for rule in rules:
        ports = {port["port"] for port in rule.get("ports", ())}
        for peer in rule.get(side, [None]):
            yield peer, ports


def allowed(policies, pods, source, target, port):
    """Whether one pod may connect to a port of another: by its egress and the other's ingress."""
    out = into = False
    for spec in policies.values():
        if source in chosen(spec["podSelector"], pods):
            for peer, ports in peers(spec.get("egress", ()), "to"):
                inside = peer is not None and "namespaceSelector" not in peer
                reached = inside and target in chosen(peer["podSelector"], pods)
                out |= reached and (not ports or port in ports)
        if target in chosen(spec["podSelector"], pods):
            for peer, ports in peers(spec.get("ingress", ()), "from"):
                inside = peer is not None and "namespaceSelector" not in peer
                reached = inside and source in chosen(peer["podSelector"], pods)
                into |= reached and (not ports or port in ports)
    return out and into


def from_outside(policies, pods, target):
    """(namespace's labels, ports) that may reach a pod from other namespaces."""
    found = set()
    for spec in policies.values():
        if target in chosen(spec["podSelector"], pods):
            for peer, ports in peers(spec.get("ingress", ()), "from"):
                assert peer is not None, "a rule without a peer is open to the world"
                if "namespaceSelector" in peer:
                    (label,) = peer["namespaceSelector"]["matchLabels"].items()
                    found |= {("=".join(label), port) for port in ports}
    return found


def test_nothing_is_allowed_but_what_is_named(policies):
    deny = policies["deny-all"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    for spec in policies.values():
        said = {kind.lower() for kind in spec["policyTypes"]}
        assert {"ingress", "egress"} & set(spec) <= said


def test_every_policy_is_about_pods_that_are_there(policies, pods):
    for name, spec in policies.items():
        assert spec["podSelector"] == {} or chosen(spec["podSelector"], pods), name


HEAD, WORKER = "RayService/head", "RayService/replicas"
RUNS, RUNS_WORKER = "RayCluster/head", "RayCluster/workers"
REDIS, DATABASE = "StatefulSet/selfilter-redis", "StatefulSet/selfilter-postgresql"
SUBMITTER = "RayJob/selfilter-first"


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (WORKER, HEAD, 6379), (HEAD, WORKER, 34567), (WORKER, WORKER, 34567),
        (RUNS_WORKER, RUNS, 6379), (RUNS, RUNS_WORKER, 34567),
        (HEAD, REDIS, 6379), (RUNS, REDIS, 6379),
        (WORKER, DATABASE, 5432), (SUBMITTER, RUNS, DASHBOARD),
    ],
)  # fmt: skip
def test_what_has_to_talk_may(policies, pods, source, target, port):
    assert allowed(policies, pods, source, target, port)


@pytest.mark.parametrize(
    ("source", "target", "port"),
    [
        (RUNS_WORKER, DATABASE, 5432), (RUNS_WORKER, WORKER, SERVE), (WORKER, RUNS, DASHBOARD),
        (SUBMITTER, REDIS, 6379), (SUBMITTER, HEAD, DASHBOARD), (SUBMITTER, RUNS, 6379),
        (REDIS, HEAD, 6379), (DATABASE, WORKER, SERVE), (WORKER, DATABASE, 22),
    ],
)  # fmt: skip
def test_what_has_no_business_with_each_other_may_not(policies, pods, source, target, port):
    assert not allowed(policies, pods, source, target, port)


def test_from_outside_come_callers_the_operator_and_the_scraper_only(policies, pods):
    ray = {
        ("kubernetes.io/metadata.name=kuberay-system", DASHBOARD),
        ("kubernetes.io/metadata.name=kuberay-system", SERVE),
        ("kubernetes.io/metadata.name=monitoring", METRICS),
        ("kubernetes.io/metadata.name=monitoring", SERVE),
    }
    caller = {("selfilter/client=true", SERVE)}
    for where in (HEAD, WORKER):
        assert from_outside(policies, pods, where) == ray | caller
    for where in (RUNS, RUNS_WORKER):
        assert from_outside(policies, pods, where) == ray
    for where in (REDIS, DATABASE, SUBMITTER):
        assert from_outside(policies, pods, where) == set()


def test_ports_are_those_of_containers_and_services(objects, pods):
    for service in of_kind(objects, "Service"):
        (where,) = chosen({"matchLabels": service["spec"]["selector"]}, pods)
        assert {port["port"] for port in service["spec"]["ports"]} == pods[where][1]
    for kind, cluster in clusters(objects).items():
        for group in groups(cluster):
            own = pods[f"{kind}/{group.get('groupName', 'head')}"][1]
            assert METRICS in own
            assert (SERVE in own) == (kind == "RayService")
    (service,) = of_kind(objects, "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    assert config["http_options"] == {"host": "0.0.0.0", "port": SERVE}


def scraped(name):
    return yaml.safe_load((DEPLOY / "prometheus" / name).read_text())["scrape_configs"]


def test_prometheus_scrapes_ports_that_it_may_reach(objects, policies, pods):
    jobs = {job["job_name"]: job for job in scraped("kubernetes.yaml")}
    (target,) = jobs["selfilter-service"]["static_configs"][0]["targets"]
    (service,) = of_kind(objects, "RayService")
    place = f"{service['metadata']['name']}-serve-svc.{service['metadata']['namespace']}"
    assert target == f"{place}:{SERVE}"
    kept = {
        rule["source_labels"][0]: rule["regex"]
        for rule in jobs["selfilter-ray"]["relabel_configs"] if rule.get("action") == "keep"
    }  # fmt: skip
    assert kept == {
        "__meta_kubernetes_pod_label_selfilter_part": "service|pipeline",
        "__meta_kubernetes_pod_container_port_number": str(METRICS),
    }
    names = jobs["selfilter-ray"]["kubernetes_sd_configs"][0]["namespaces"]["names"]
    assert names == [service["metadata"]["namespace"]]
    for where in (HEAD, WORKER, RUNS, RUNS_WORKER):
        reached = from_outside(policies, pods, where)
        assert ("kubernetes.io/metadata.name=monitoring", METRICS) in reached
