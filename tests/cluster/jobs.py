"""Runs of the pipeline as jobs, submitted from a machine that is no part of the cluster."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml
from machine import Machine
from programs import BIN, REPOSITORY
from ray_cluster import RayCluster, logs

JOB_SECONDS = 1500
POOL_FILE = "pool.json"
RECORDS = 600
SHARD_ROWS = 20
# The quickstart's models, in many small shards and few epochs. Larger pictures make a shard take
# longer than a host needs to get ready: otherwise one host could make them all.
SETTINGS = {
    "featurize.shard_rows": SHARD_ROWS,
    "featurize.embedder": {"name": "bundled", "image_size": 512},
    "featurize.batch_size": 10,
    "featurize.actors": 2,
    "featurize.cpus_per_actor": 1,
    "train.epochs": 8,
    "train.checkpoint_steps": 20,
}


def make_pool(folder: Path) -> None:
    """The first records of the quickstart's pool, with their images beside them."""
    from selfilter_ray.bundled.easy_vqa import packaged_dataset

    whole = packaged_dataset("easy-vqa/train")
    records = json.loads(whole.read_text(encoding="utf-8"))[:RECORDS]
    (folder / "train").mkdir(parents=True)
    (folder / POOL_FILE).write_text(json.dumps(records))
    for image in {record["image"] for record in records}:
        shutil.copyfile(whole.parent / image, folder / image)


def config_of(pool: str, run_dir: str, **more: Any) -> dict[str, Any]:
    """The quickstart's config, as small as these tests need it."""
    tree: dict[str, Any] = yaml.safe_load((REPOSITORY / "configs/quickstart.yaml").read_text())
    tree["data"] = {"inputs": [f"{pool}/{POOL_FILE}"]}
    for key, value in (SETTINGS | more).items():
        section, _, name = key.partition(".")
        tree[section][name] = value
    return tree | {"run_dir": run_dir}


def submitted(
    cluster: RayCluster, laptop: Machine, config: dict[str, Any], log: Path
) -> subprocess.Popen[str]:
    """``selfilter-ray submit`` under way; its exit code is the job's."""
    cluster.give_token(laptop)
    (laptop.disk / "tmp" / "config.yaml").write_text(yaml.safe_dump(config))
    command = [str(BIN / "selfilter-ray"), "submit", "/tmp/config.yaml"]
    options = ["--address", cluster.dashboard, "--python", str(BIN / "python")]
    return laptop.popen([*command, *options], log, cluster.environment)


def ended(job: subprocess.Popen[str], log: Path) -> None:
    """Wait for the end of a job that must succeed."""
    code = job.wait(JOB_SECONDS)
    assert code == 0, log.read_text()[-6000:]


def lines(machine: Machine, message: str) -> list[dict[str, Any]]:
    """What the product's processes on a machine have logged under a message, by time, all runs."""
    found = []
    for file in logs(machine).glob("worker-*.err"):
        for line in file.read_text(errors="replace").splitlines():
            if line.startswith("{") and f'"{message}"' in line:
                found.append(json.loads(line))
    return sorted(found, key=lambda line: str(line["time"]))


def shards_made(machine: Machine) -> set[tuple[str, int]]:
    """Run and number of every shard of features that a machine has made, by its own log."""
    made = lines(machine, "shard finished")
    return {(one["run"], one["shard"]) for one in made if one["stage"] == "featurize"}


def training_workers(machine: Machine) -> int:
    """Processes of Ray Train that train on a machine now."""
    found = machine.run(["pgrep", "--full", "--count", "^ray::RayTrainWorker"], check=False)
    return int(found.stdout)
