"""The service on two hosts that carry its replicas, beside a head that carries none.

In turn: the host of the scorer is killed, the host of the writer loses its power, the head is
killed and started again. Clients send all the while; at the end everything that was acknowledged
is held against the log. The state lies in PostgreSQL, the head's in Redis, the run and snapshots in
an object store; no disk is shared.
"""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from network import SWITCH, Network
from object_store import ObjectStore
from postgresql_server import PostgresqlServer
from ray_cluster import RayCluster
from redis_server import RedisServer
from service import Service, new_key
from service_run import make_service_run
from waiting import wait_until

pytestmark = pytest.mark.timeout(1800)

CPUS = 2.0
BACK_SECONDS = 400
STEADY_SECONDS = 5
HEADLESS_SECONDS = 60  # Serve looks after its replicas from the head; without it nobody does


@pytest.fixture(scope="module")
def hosts(tmp_path_factory):
    """A cluster of a head and two hosts, and what lies beside it."""
    folder = tmp_path_factory.mktemp("serve")
    with Network(folder / "disks") as network:
        store = ObjectStore(network.switch, SWITCH, folder / "store.log")
        redis = RedisServer(network.switch, SWITCH, folder / "redis.log")
        database = PostgresqlServer(network.switch, SWITCH, folder / "postgresql.log")
        head, *others = (network.add(name) for name in ("head", "first", "second"))
        key, line = new_key()
        variables = store.environment | {"SELFILTER_KEYS": line}
        cluster = RayCluster(network, head, 0, variables, redis.head_settings())
        cluster.join(*others, cpus=CPUS)
        cluster.wait_for_nodes(3)
        yield SimpleNamespace(
            network=network,
            cluster=cluster,
            store=store,
            database=database,
            key=key,
            folder=folder,
        )


@pytest.fixture(scope="module")
def service(hosts):
    make_service_run(hosts.network.switch.disk / "tmp" / "run")
    settings = {
        "run_dir": hosts.store.put("/tmp/run", "served"),
        "state": hosts.database.url,
        "online": {"rate": 0.15},
        "ingress": 2,
        "snapshots": {"decisions": 500, "keep": 2},
        "keys": {"environment": "SELFILTER_KEYS"},
    }
    return Service(hosts.cluster, hosts.network.switch, hosts.key, settings)


@pytest.fixture(scope="module")
def load(hosts, service):
    """A client that asks the head's proxy, from the beginning to the end."""
    return service.load(hosts.cluster.head, log=hosts.folder / "load.log")


@pytest.fixture(scope="module")
def other_load(hosts, service):
    """A client that asks the proxy of a host that carries replicas."""
    log = hosts.folder / "other_load.log"
    return service.load(service.machine_of("ingress"), log=log, number=1)


@pytest.mark.parametrize("command", ["status", "job list", "job submit -- echo hello", "start"])
def test_a_host_with_another_token_is_refused(hosts, command):
    arguments = command.split()
    if command in ("status", "start"):
        arguments.append(f"--address={hosts.cluster.address}")
    if command == "start":
        arguments.append(f"--node-ip-address={SWITCH}")
    other = {"RAY_AUTH_TOKEN": "0" * 64}
    refused = hosts.cluster.ray(hosts.network.switch, *arguments, env=other, check=False)
    assert refused.returncode
    assert "AuthenticationError" in refused.stderr or "InvalidAuthToken" in refused.stderr


@pytest.mark.parametrize("token", [None, "0" * 64])
def test_the_dashboard_gives_nothing_away_without_the_token(hosts, token):
    for path in ("/api/jobs/", "/api/serve/applications/", "/nodes?view=summary"):
        assert asked_status(hosts, path, hosts.cluster.token) == "200"
        assert asked_status(hosts, path, token) in ("401", "403")


def asked_status(hosts, path: str, token: str | None) -> str:
    """HTTP status of the dashboard's answer to the second host."""
    code = (
        "import sys, urllib.request as u, urllib.error as e\n"
        "r = u.Request(sys.argv[1], headers=dict([sys.argv[2:]] if sys.argv[2:] else []))\n"
        "try: print(u.urlopen(r).status)\n"
        "except e.HTTPError as error: print(error.code)"
    )
    header = ["Authorization", f"Bearer {token}"] if token else []
    second = hosts.network.machines["second"]
    url = hosts.cluster.dashboard + path
    return second.run(["python3", "-c", code, url, *header]).stdout.strip()


def test_replicas_are_on_both_hosts_and_none_on_the_head(service, load):
    time.sleep(STEADY_SECONDS)
    places = service.places()
    assert set(places["ingress"]) == {"first", "second"}
    assert all("head" not in replicas for replicas in places.values())


def disturbed(service, load, machine, disturb) -> dict[str, float]:
    """Do something to a host; how long until the service was whole, and the longest pause."""
    load.settle(BACK_SECONDS)
    load.begin()
    began = time.monotonic()
    disturb(machine)
    wait_until(lambda: service.is_whole(machine), "all replicas elsewhere", BACK_SECONDS, every=1)
    whole = time.monotonic() - began
    time.sleep(STEADY_SECONDS)
    return {"replicas_back_seconds": round(whole, 1), "longest_pause": load.pauses()[0]}


def test_the_host_of_the_scorer_is_killed(hosts, service, load, figures):
    machine = service.machine_of("scorer")
    figures["host_of_scorer_killed"] = disturbed(service, load, machine, lambda m: m.kill())
    hosts.network.boot(machine)
    hosts.cluster.join(machine, cpus=CPUS)
    hosts.cluster.wait_for_nodes(3)


def test_the_host_of_the_writer_loses_its_power(hosts, service, load, figures):
    machine = service.machine_of("writer")
    figures["host_of_writer_lost"] = disturbed(service, load, machine, hosts.network.lose)
    hosts.network.boot(machine)
    hosts.cluster.join(machine, cpus=CPUS)
    hosts.cluster.wait_for_nodes(3)


def test_the_head_is_killed_and_started_again(hosts, service, load, other_load, figures):
    head = hosts.cluster.head
    before = {name: service.replicas(name) for name in ("ingress", "scorer", "writer")}
    for one in (load, other_load):
        one.settle(BACK_SECONDS)
    for one in (load, other_load):
        one.begin()
    began = time.monotonic()
    head.kill()
    time.sleep(HEADLESS_SECONDS)
    without_head = other_load.pauses()[0]
    hosts.network.boot(head)
    hosts.cluster.start_head()
    started = time.monotonic() - began
    wait_until(lambda: service.is_ready(head), "the head's proxy", BACK_SECONDS, every=0.5)
    ready = time.monotonic() - began
    wait_until(service.is_whole, "what the head knows of replicas", BACK_SECONDS, every=1)
    time.sleep(STEADY_SECONDS)
    after = {name: service.replicas(name) for name in before}
    figures["head_killed"] = {
        "seconds_without_a_head": HEADLESS_SECONDS,
        "longest_pause_at_another_host_without_a_head": without_head,
        "head_started_after_seconds": round(started, 1),
        "head_answers_after_seconds": round(ready, 1),
        "longest_pause_at_the_head": load.pauses()[0],
        "longest_pause_at_another_host": other_load.pauses()[0],
        "same_replicas": after == before,
    }


def test_no_decision_was_lost(service, load, other_load, figures):
    loads = (load, other_load)
    acknowledged = [one.stop()[0] for one in loads]
    service.shut_down()
    checked = [one.check()[0] for one in loads]
    assert [one["acknowledged"] for one in checked] == acknowledged
    assert all(count > 100 for count in acknowledged)
    figures["decisions"] = checked
