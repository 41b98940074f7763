"""The metrics of each step: ``metrics.jsonl``, and the trackers of ``train.loggers``.

After a resume no step is there twice: ``metrics.jsonl`` is cut back to the checkpoint, TensorBoard
is told from which step on older events are void, and MLflow and W&B are not told again of steps
that they know.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from selfilter_ray import atomic
from selfilter_ray.config import TrainConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.telemetry.training import TrainingWatch

METRICS = "metrics.jsonl"
PACKAGES = {"tensorboard": "tensorboardX", "mlflow": "mlflow", "wandb": "wandb"}
PROJECT = "selfilter_ray"
FLUSH_SECONDS = 10


class Tracker(Protocol):
    """Where metrics go beside ``metrics.jsonl``."""

    def log(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def check_loggers(names: Sequence[str]) -> None:
    """Refuse a tracker whose package is not there.

    Raises:
        ConfigError: naming the extra.
    """
    for name in names:
        if importlib.util.find_spec(PACKAGES[name]) is None:
            raise ConfigError(
                f"train.loggers: {name} needs the package {PACKAGES[name]}: "
                f"pip install 'selfilter-ray[{name}]', or take it off the list."
            )


class StepLog:
    """The log of one training. Only rank 0 is to have one.

    Args:
        folder: of the training's outputs.
    """

    def __init__(self, folder: Path, train: TrainConfig) -> None:
        check_loggers(train.loggers)
        self.folder, self.train = folder, train
        self.known = 0
        self.trackers: dict[str, Tracker] = {}
        self.watch = TrainingWatch(folder.name)

    def start(self, steps: int) -> None:
        """Go on after so many steps; what was logged of later ones is void.

        Raises:
            ConfigError: when a tracker cannot be reached.
        """
        file = self.folder / METRICS
        lines = file.read_text(encoding="utf-8").splitlines() if steps else []
        self.known = len(lines)
        self.watch.start(steps)
        atomic.write_text(file, "".join(line + "\n" for line in lines[:steps]))
        for name in self.train.loggers:
            try:
                self.trackers[name] = TRACKERS[name](self.folder, steps, self.train)
            except Exception as error:
                raise ConfigError(
                    f"train.loggers: {name} cannot be started: {error} Mend that, or take it off "
                    "the list."
                ) from error

    def write(self, metrics: Mapping[str, float]) -> None:
        """Take in the metrics of one step."""
        with open(self.folder / METRICS, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(dict(metrics)) + "\n")
        self.watch.step(metrics)
        step = int(metrics["step"])
        for name in list(self.trackers):
            if name == "tensorboard" or step > self.known:
                self._track(name, step, metrics)

    def close(self) -> None:
        for tracker in self.trackers.values():
            tracker.close()
        self.trackers.clear()
        self.watch.close()

    def _track(self, name: str, step: int, metrics: Mapping[str, float]) -> None:
        """A tracker that fails is given up: metrics.jsonl has it all, training must not end."""
        try:
            self.trackers[name].log(step, metrics)
        except Exception as error:
            logging.getLogger(__name__).warning(
                "%s takes no more metrics, from step %d on: %s", name, step, error
            )
            del self.trackers[name]


class TensorBoard:
    """Event files in ``tensorboard/``."""

    def __init__(self, folder: Path, steps: int, train: TrainConfig) -> None:
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        place = folder / "tensorboard"
        if steps == 0:
            shutil.rmtree(place, ignore_errors=True)
        self.writer = SummaryWriter(
            str(place),
            purge_step=steps + 1 if steps else None,
            flush_secs=FLUSH_SECONDS,
            filename_suffix=f".{steps}",  # the rest of the name is only the second
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            if name != "step":
                self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class MLflow:
    """One run on the tracking server that MLFLOW_TRACKING_URI names, MLflow's default otherwise."""

    def __init__(self, folder: Path, steps: int, train: TrainConfig) -> None:
        from mlflow import MlflowClient  # type: ignore[import-not-found]

        self.client = MlflowClient()
        file = folder / "mlflow_run"
        if steps == 0 or not file.exists():
            atomic.write_text(file, self._new_run(folder, train))
        self.run_id = file.read_text(encoding="utf-8")

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        from mlflow.entities import Metric  # type: ignore[import-not-found]

        now = int(time.time() * 1000)
        self.client.log_batch(
            self.run_id,
            metrics=[Metric(name, value, now, step) for name, value in metrics.items()],
        )

    def close(self) -> None:
        self.client.set_terminated(self.run_id)

    def _new_run(self, folder: Path, train: TrainConfig) -> str:
        from mlflow.entities import Param  # type: ignore[import-not-found]

        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
        experiment = self.client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else self.client.create_experiment(name)
        run_id: str = self.client.create_run(number, run_name=str(folder)).info.run_id
        settings = train.model_dump(mode="json").items()
        params = [Param(f"train.{key}", str(value)) for key, value in settings]
        self.client.log_batch(run_id, params=params)
        return run_id


class WeightsAndBiases:
    """One run of W&B, under its own environment variables (WANDB_MODE, WANDB_PROJECT)."""

    def __init__(self, folder: Path, steps: int, train: TrainConfig) -> None:
        import wandb  # type: ignore[import-not-found]

        file = folder / "wandb_run"
        if steps == 0 or not file.exists():
            atomic.write_text(file, secrets.token_hex(4))
        self.run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=file.read_text(encoding="utf-8"),
            resume="allow",
            dir=str(folder),
            config={"train": train.model_dump(mode="json")},
        )

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self.run.log(dict(metrics), step=step)

    def close(self) -> None:
        self.run.finish()


TRACKERS: dict[str, Callable[[Path, int, TrainConfig], Tracker]] = {
    "tensorboard": TensorBoard,
    "mlflow": MLflow,
    "wandb": WeightsAndBiases,
}
