"""Stage 1 on Ray Train: worker groups of any size, restarts, checkpoints in the run's folder."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray.train
import torch
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer, get_device

from selfilter_ray import atomic
from selfilter_ray.config import Config
from selfilter_ray.distributed.metrics import join_on_ray
from selfilter_ray.distributed.runtime import gpus_each, require
from selfilter_ray.distributed.stopping import until_done_or_stopped
from selfilter_ray.errors import ArtifactError, ConfigError, DataError, SelfilterError, StorageError
from selfilter_ray.stage1.agreement import STOP_FILE
from selfilter_ray.stage1.engine import prepare_accelerator
from selfilter_ray.stage1.loggers import METRICS, check_loggers
from selfilter_ray.stage1.outputs import VLM
from selfilter_ray.stage1.trainer import Paths, StoppedError, Trainer
from selfilter_ray.storage.connection import filesystem
from selfilter_ray.storage.courier import Courier, relayed
from selfilter_ray.storage.objects import delete, exists, read_bytes, write_bytes
from selfilter_ray.storage.places import Uri
from selfilter_ray.storage.shared import Shared, everywhere, here
from selfilter_ray.telemetry.run import carried
from selfilter_ray.telemetry.training import saving_checkpoint
from selfilter_ray.training import INITIAL_VLM

CHECKPOINTS_KEPT = 2
CONTROLLER_FAILURES = 3
OUTCOME = "outcome.json"
ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, ArtifactError, StoppedError)}
MOST_OUTCOME = 2**20  # bytes


def train_on_ray(config: Config, paths: Paths, storage: Path, name: str) -> dict[str, Any]:
    """Run Stage 1 to its end, going on from the newest checkpoint when there is one.

    Args:
        storage: folder for checkpoints: on a disk that every node reaches, or in a working copy.
        name: of the run below it; the same name continues.

    Returns:
        The summary of ``Trainer.run``.

    Raises:
        StoppedError: when SIGINT or SIGTERM asked this process to stop; a checkpoint is there.
        SelfilterError: when training failed, with what to do.
    """
    train = config.train
    check_loggers(train.loggers)
    gpus = gpus_each(train.gpus_per_worker)
    fewest = train.min_workers or train.workers
    require(config.ray, fewest, train.cpus_per_worker, gpus, "train.workers x cpus_per_worker")
    resources = {"CPU": float(train.cpus_per_worker)} | ({"GPU": gpus} if gpus else {})
    backend = train.backend
    if backend == "auto":
        backend = "nccl" if gpus else "gloo"
    trainer = TorchTrainer(
        _worker,
        train_loop_config={
            "config": config.model_dump(mode="json"),
            "paths": {key: everywhere(value) for key, value in asdict(paths).items()},
            "run": carried(),
        },
        scaling_config=ScalingConfig(
            num_workers=_worker_range(fewest, train.workers),  # type: ignore[arg-type]
            use_gpu=gpus > 0,
            resources_per_worker=resources,
        ),
        torch_config=TorchConfig(backend=backend),
        run_config=RunConfig(
            name=name,
            **_storage(storage),
            failure_config=FailureConfig(
                max_failures=train.max_failures,
                controller_failure_limit=CONTROLLER_FAILURES,  # type: ignore[call-arg]
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=CHECKPOINTS_KEPT),
        ),
    )
    outcome = _courier(Shared.of(paths.output)).place_of(OUTCOME)
    delete(outcome)
    stop = paths.output / STOP_FILE
    try:
        with relayed(stop):
            until_done_or_stopped(trainer.fit, stop)
    except ray.train.TrainingFailedError as error:
        if not exists(outcome):
            _raise_storage_error(error)
            raise
    summary: dict[str, Any] = json.loads(read_bytes(outcome, MOST_OUTCOME))
    if "failed" in summary:
        kind = ERRORS.get(summary["kind"], SelfilterError)
        raise kind(f"Stage 1 stopped: {summary['failed']} Checkpoints are kept.")
    return summary


def _worker(settings: dict[str, Any]) -> None:
    """What every rank does.

    An error that the user has to mend is left in the outcome before it ends the worker group: the
    group that Ray Train then starts finds it there and gives up. A stop that was asked for is known
    to all ranks, so they simply end.
    """
    join_on_ray(settings["run"], "train")
    config = Config.model_validate(settings["config"])
    courier = _courier(settings["paths"]["output"])
    outcome = courier.place_of(OUTCOME)
    if exists(outcome):
        return
    prepare_accelerator()
    torch.set_num_threads(config.train.cpus_per_worker)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    first = ray.train.get_context().get_world_rank() == 0
    with courier.folder(carries=first, leave=(VLM, INITIAL_VLM)) as folder:
        try:
            # Ray Train hands back the metrics of the last checkpoint, not of the last report.
            summary = _trained(config, _paths_here(settings["paths"], folder), courier)
        except StoppedError as stopped:
            summary = _failure(stopped)
        except StorageError:
            raise  # which may pass: the next worker group tries again
        except SelfilterError as error:
            write_bytes(outcome, json.dumps(_failure(error)).encode())
            raise
        if first:
            atomic.write_json(folder / OUTCOME, summary)
            courier.deliver()


def _paths_here(paths: dict[str, Any], output: Path) -> Paths:
    """What the driver's paths are on this host."""
    model = str(here(paths["model"]))
    others = {name: here(value) for name, value in paths.items() if name != "model"}
    places = {name: value and Path(value) for name, value in others.items() if name != "output"}
    return Paths(**places, model=model, output=output)


def _courier(output: Shared | Path) -> Courier:
    shared = output if isinstance(output, Shared) else Shared.of(output)
    return Courier(shared, METRICS, STOP_FILE)


def _storage(folder: Path) -> dict[str, Any]:
    """Where Ray Train keeps checkpoints: arguments of ``RunConfig``."""
    uri = Shared.of(folder).uri
    if uri is None:
        return {"storage_path": str(folder)}
    parts = Uri.of(uri)
    return {"storage_path": parts.path, "storage_filesystem": filesystem(parts)}


def _raise_storage_error(error: ray.train.TrainingFailedError) -> None:
    """Say in a sentence that the store failed, where that ended the training."""
    failures = getattr(error, "worker_failures", {}).values()
    for failure in failures:
        cause = getattr(failure, "_base_exc", failure)
        if isinstance(cause, StorageError):
            raise StorageError(f"Stage 1 stopped: {cause} Checkpoints are kept.") from None


def _worker_range(fewest: int, most: int) -> int | tuple[int, int]:
    return (fewest, most) if fewest < most else most


def _failure(error: SelfilterError) -> dict[str, Any]:
    return {"failed": str(error), "kind": type(error).__name__}


def _trained(config: Config, paths: Paths, courier: Courier) -> dict[str, Any]:
    trainer = Trainer(config, paths, get_device())
    _continue(trainer)

    def save(metrics: dict[str, float]) -> None:
        with (
            saving_checkpoint(paths.output.name, trainer.position, trainer.rank),
            tempfile.TemporaryDirectory(dir=paths.output / "checkpoints") as folder,
        ):
            trainer.save_checkpoint(Path(folder))
            courier.deliver()  # a checkpoint must not know of more steps than the log
            ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))

    return trainer.run(save, _first_notice())


def _first_notice() -> Callable[[], bool]:
    """True once: when a node is about to be taken away. All ranks must call it equally often."""
    known: set[str] = set()

    def noticed() -> bool:
        info = ray.train.get_preemption_info()
        fresh = set() if info is None else set(info.preempted_node_ids) - known
        known.update(fresh)
        return bool(fresh)

    return noticed


def _continue(trainer: Trainer) -> None:
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        trainer.start_log()
        return
    with checkpoint.as_directory() as folder:
        trainer.load_checkpoint(Path(folder))
