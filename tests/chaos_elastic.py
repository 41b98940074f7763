"""A node that is taken away, and a stop, on a real Ray cluster of two nodes.

One run goes through all of it: two workers, a notice of preemption and its checkpoint, one worker
that goes on, SIGTERM to the driver.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from stage1_pool import logged, make_config, make_pool

from selfilter_ray.stage1.agreement import StoppedError
from selfilter_ray.stage1.checkpoint import META
from selfilter_ray.stage1.engine import prepare_accelerator
from selfilter_ray.stage1.rows import Paths

pytestmark = pytest.mark.ray

PATIENCE_SECONDS = 500
SETTINGS = {
    "workers": [1, 2],
    "batch_size": 2,
    "epochs": 5000,
    "learning_rate": 1e-4,
    "warmup_ratio": 0.0,
    "checkpoint_steps": 10**6,
}
STEPS_BEFORE, STEPS_AFTER = 10, 10
TOLERANCE = 1e-3  # of the largest weight: sums over ranks have another order


class EnoughError(Exception):
    """The undisturbed run has come as far as the other."""


@pytest.fixture(scope="module")
def nodes():
    """A Ray cluster of two nodes with a CPU each; the second one, and a way to address it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TRAIN_V2_ENABLED", "1")
        patch.setenv("RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S", "0.5")
        import ray
        from ray.cluster_utils import Cluster

        if ray.is_initialized():
            ray.shutdown()
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
        second = cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster, second
        ray.shutdown()
        cluster.shutdown()


def take_away(cluster, node) -> None:
    """What a cloud does with a spot machine: a notice, and some seconds later its end."""
    from ray._raylet import GcsClient
    from ray.core.generated import autoscaler_pb2

    accepted, why = GcsClient(address=cluster.gcs_address).drain_node(
        node.node_id,
        autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION"),
        "the machine is needed elsewhere",
        int((time.time() + PATIENCE_SECONDS) * 1000),
    )
    assert accepted, why


def steps_of(output: Path) -> int:
    file = output / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def log_file(output: Path) -> int:
    """Another number when the log was cut back, as a resume does."""
    return (output / "metrics.jsonl").stat().st_ino


def registered(checkpoints: Path) -> list[Path]:
    """The checkpoints that Ray Train knows, the newest last."""
    file = checkpoints / "run" / "checkpoint_manager_snapshot.json"
    known = file.read_text() if file.exists() else ""
    places = sorted(meta.parent for meta in checkpoints.glob(f"*/*/{META}"))
    return [place for place in places if place.name in known]


def wait_for(condition, over: threading.Event) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert not over.is_set(), "training ended"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.05)


def disturb(cluster, node, output: Path, seen: dict, over: threading.Event) -> None:
    """Take a node away in mid-run, wait until training has gone on without it, stop it."""
    checkpoints = output / "checkpoints"
    try:
        wait_for(lambda: steps_of(output) >= STEPS_BEFORE, over)
        assert not registered(checkpoints)
        take_away(cluster, node)
        wait_for(lambda: registered(checkpoints), over)
        (first,) = registered(checkpoints)
        assert len(list(first.glob("state-*-of-00002-*"))) == 2
        noticed_at = steps_of(output)
        wait_for(lambda: steps_of(output) > noticed_at, over)  # it goes on while the node is there
        cluster.remove_node(node, allow_graceful=False)
        before = log_file(output)
        wait_for(lambda: log_file(output) != before, over)
        resumed_at = steps_of(output)
        assert resumed_at >= STEPS_BEFORE
        wait_for(lambda: steps_of(output) >= resumed_at + STEPS_AFTER, over)
    except BaseException as error:
        seen["error"] = error
    finally:
        if not over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_node_that_goes_leaves_a_checkpoint_and_one_worker_goes_on_until_stopped(
    nodes, tmp_path_factory
):
    from selfilter_ray.distributed.train import train_on_ray

    folder = tmp_path_factory.mktemp("elastic")
    (folder / "pool").mkdir()
    pool = make_pool(folder / "pool")
    output = folder / "out"
    (output / "checkpoints").mkdir(parents=True)
    paths = Paths(pool.folder / "samples", pool.folder / "features", output, pool.model)
    config = make_config(**SETTINGS)
    seen: dict = {}
    over = threading.Event()
    disturber = threading.Thread(target=disturb, args=(*nodes, output, seen, over))
    disturber.start()
    try:
        with pytest.raises(StoppedError, match="The same command continues"):
            train_on_ray(config, paths, output / "checkpoints", "run")
    finally:
        over.set()
        disturber.join()
    if "error" in seen:
        raise seen["error"]
    newest = registered(output / "checkpoints")[-1]
    assert len(list(newest.glob("state-*-of-00001-*"))) == 1
    steps = steps_of(output)
    assert [line["step"] for line in logged(output)] == list(range(1, steps + 1))
    assert_as_undisturbed(pool, folder / "undisturbed", newest, logged(output))


def assert_as_undisturbed(pool, output: Path, checkpoint: Path, lines) -> None:
    """The checkpoint is that of a run on one rank that nothing happened to."""
    prepare_accelerator()
    steps = len(lines)
    expected = output / "checkpoint"
    output.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        store = dist.FileStore(str(output / "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        trainer = pool.trainer(output, **SETTINGS | {"checkpoint_steps": steps})

        def save(metrics) -> None:
            trainer.save_checkpoint(expected)
            raise EnoughError

        with pytest.raises(EnoughError):
            trainer.run(save)
        dist.destroy_process_group()
    (one,), (other,) = (sorted(place.glob("state-*")) for place in (expected, checkpoint))
    weights, again = load_file(one), load_file(other)
    assert weights.keys() == again.keys()
    for name, value in weights.items():
        slack = TOLERANCE * value.abs().max().item()
        torch.testing.assert_close(again[name], value, rtol=TOLERANCE, atol=slack)
    losses = [line["loss"] for line in logged(output)][:steps]
    assert [line["loss"] for line in lines] == pytest.approx(losses, rel=1e-3)
