"""The pipeline on two hosts that share nothing but an object store, one CPU each.

Jobs are submitted from a third machine. Undisturbed; with the second host killed while features are
made, and another one in its place; with the second host killed while Stage 1 trains.
"""

from __future__ import annotations

import json
import time
from types import SimpleNamespace

import pytest
import yaml
from jobs import (
    RECORDS,
    SHARD_ROWS,
    config_of,
    ended,
    lines,
    make_pool,
    shards_made,
    submitted,
    training_workers,
)
from network import SWITCH, Network
from object_store import ObjectStore
from programs import BIN
from ray_cluster import COMMON, RayCluster
from waiting import wait_until

pytestmark = pytest.mark.timeout(3600)

PATIENCE_SECONDS = 1500
RUN = "/home/user/run"
BUDGET = RECORDS * 15 // 100
# Of losses and picks, when one of two workers goes and the other trains on alone: the batches stay
# the same, but their sums have another order.
LOSS_TOLERANCE = 1e-3
SAME_PICKS = 0.95


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    with Network(tmp_path_factory.mktemp("run") / "disks") as network:
        yield network


@pytest.fixture(scope="module")
def alone(network):
    """``selected.ids`` and losses of the same run on one host and its disk."""
    machine = network.add("alone")
    make_pool(machine.disk / "tmp" / "pool")
    config = machine.disk / "tmp" / "config.yaml"
    config.write_text(yaml.safe_dump(config_of("/tmp/pool", RUN) | {"ray": {"num_cpus": 2}}))
    command = [str(BIN / "selfilter-ray"), "run", "/tmp/config.yaml"]
    machine.run(command, COMMON, seconds=PATIENCE_SECONDS)
    run = machine.disk / RUN.lstrip("/")
    machine.kill()
    losses = [json.loads(line)["loss"] for line in (run / "stage1/metrics.jsonl").open()]
    ids = (run / "selected.ids").read_text()
    return SimpleNamespace(ids=ids, losses=losses)


@pytest.fixture(scope="module")
def hosts(network, tmp_path_factory):
    """``first`` is the head and a host like ``second``; each has one CPU."""
    folder = tmp_path_factory.mktemp("logs")
    store = ObjectStore(network.switch, SWITCH, folder / "store.log")
    make_pool(network.switch.disk / "tmp" / "pool")
    first, second = network.add("first"), network.add("second")
    variables = store.environment | {"SELFILTER_LOG_FORMAT": "json"}
    cluster = RayCluster(network, first, 1, variables)
    cluster.join(second, cpus=1)
    cluster.wait_for_nodes(2)
    return SimpleNamespace(
        network=network,
        cluster=cluster,
        store=store,
        pool=store.put("/tmp/pool", "pool"),
        first=first,
        second=second,
        folder=folder,
    )


@pytest.fixture
def run(hosts, request):
    """Starts a run as a job of its own, and knows what was there before."""
    before = {machine.name: shards_made(machine) for machine in (hosts.first, hosts.second)}

    def start(name: str, **settings):
        config = config_of(hosts.pool, f"s3://runs/{name}", **settings)
        log = hosts.folder / f"{request.node.name}.log"
        job = submitted(hosts.cluster, hosts.network.switch, config, log)
        return SimpleNamespace(
            ended=lambda: ended(job, log),
            going=lambda: job.poll() is None or pytest.fail(log.read_text()[-6000:]),
            made=lambda machine: shards_made(machine) - before[machine.name],
            text=lambda file: hosts.store.text(f"{name}/{file}"),
            names=lambda folder: hosts.store.names(f"{name}/{folder}"),
        )

    return start


def back(hosts) -> float:
    """Put another machine in the second one's place; seconds that took."""
    began = time.monotonic()
    hosts.network.boot(hosts.second)
    hosts.cluster.join(hosts.second, cpus=1)
    hosts.cluster.wait_for_nodes(2)
    return round(time.monotonic() - began, 1)


def test_both_hosts_featurize_and_train_and_choose_what_one_host_chooses(
    hosts, run, alone, figures
):
    began = time.monotonic()
    job = run("undisturbed")
    machines = (hosts.first, hosts.second)
    wait_until(
        lambda: job.going() and all(training_workers(one) == 1 for one in machines),
        "a worker of Stage 1 on each host",
        PATIENCE_SECONDS,
        every=0.5,
    )
    job.ended()
    first, second = (job.made(machine) for machine in machines)
    assert first and second
    assert sorted(number for _, number in first | second) == list(range(RECORDS // SHARD_ROWS))
    assert job.text("selected.ids") == alone.ids
    assert len(alone.ids.split()) == BUDGET
    figures["undisturbed"] = {
        "shards_of_first": len(first),
        "shards_of_second": len(second),
        "seconds": round(time.monotonic() - began, 1),
    }


def test_a_host_killed_while_features_are_made_changes_nothing(hosts, run, alone, figures):
    began = time.monotonic()
    job = run("killed-in-featurize")
    wait_until(lambda: job.going() and job.made(hosts.second), "a shard", PATIENCE_SECONDS)
    before = len(job.made(hosts.second))
    hosts.second.kill()
    killed = time.monotonic() - began
    replaced = back(hosts)
    job.ended()
    assert job.text("selected.ids") == alone.ids
    figures["killed_in_featurize"] = {
        "killed_after_seconds": round(killed, 1),
        "shards_of_second_before": before,
        "shards_of_its_successor": len(job.made(hosts.second)),
        "successor_joined_seconds": replaced,
        "seconds": round(time.monotonic() - began, 1),
    }


def test_a_host_killed_while_stage_1_trains_leaves_the_other_training(hosts, run, alone, figures):
    began = time.monotonic()
    job = run("killed-in-stage-1", **{"train.workers": [1, 2]})
    wait_until(
        lambda: job.going() and training_workers(hosts.second) and checkpoints(job),
        "a checkpoint of two workers",
        PATIENCE_SECONDS,
    )
    hosts.second.kill()
    killed = time.monotonic() - began
    job.ended()
    own = json.loads(job.text("manifest.json"))["run_id"]
    starts = [one["step"] for one in lines(hosts.first, "training started") if one["run"] == own]
    losses = [json.loads(line)["loss"] for line in job.text("stage1/metrics.jsonl").splitlines()]
    assert losses == pytest.approx(alone.losses, rel=LOSS_TOLERANCE)
    picked, expected = (set(ids.split()) for ids in (job.text("selected.ids"), alone.ids))
    assert len(picked & expected) >= SAME_PICKS * BUDGET
    assert 0 < starts[-1] < len(losses)
    figures["killed_in_stage_1"] = {
        "killed_after_seconds": round(killed, 1),
        "went_on_from_step": starts[-1],
        "steps": len(losses),
        "same_picks": len(picked & expected) / BUDGET,
        "largest_relative_difference_of_a_loss": max(
            abs(one - other) / other for one, other in zip(losses, alone.losses, strict=True)
        ),
        "seconds": round(time.monotonic() - began, 1),
    }
    back(hosts)


def checkpoints(job) -> bool:
    """Whether two workers have left one that Ray Train knows."""
    names = job.names("stage1/checkpoints")
    known = any(name.endswith("checkpoint_manager_snapshot.json") for name in names)
    return known and any("-of-00002-" in name for name in names)
