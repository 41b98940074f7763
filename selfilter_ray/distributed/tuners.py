"""The closed loop's cells on Ray: an actor a process, each with one cell at a time.

A cell that fails costs only itself. One that takes its process with it, for want of memory perhaps,
is tried once more in a new one: the host may have been the reason.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError, RayTaskError

from selfilter_ray.compare.gathering import message_of
from selfilter_ray.compare.trained.cells import Cell
from selfilter_ray.compare.trained.tuner import Places, Tuner, Work, tuning_config
from selfilter_ray.config import Config
from selfilter_ray.distributed.metrics import join_on_ray
from selfilter_ray.distributed.runtime import gpus_each, require
from selfilter_ray.errors import SelfilterError
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.stage1.agreement import StoppedError
from selfilter_ray.stage1.outputs import VLM
from selfilter_ray.storage.shared import Shared, everywhere, here, publish, remove
from selfilter_ray.telemetry.run import Run, carried
from selfilter_ray.training import train_into

TRIES = 2  # of a cell whose process dies


def tune_on_actors(
    config: Config,
    cells: Sequence[Cell],
    models: Mapping[int, str],
    steps: Mapping[int, int | None],
    places: Places,
    keep: Callable[[Cell, dict[str, Any]], None],
    tuner: type[Tuner] = Tuner,
) -> dict[str, str]:
    """Work cells off on ``compare.train.actors`` actors.

    Args:
        cells: in the order in which they are begun.
        models: seed to what ``from_pretrained`` takes.
        steps: number of records to steps of the tuning; None leaves them to ``tune``.
        places: of the driver.
        keep: called with each result.
        tuner: what each actor holds.

    Returns:
        Key of a cell that failed to a message.

    Raises:
        ConfigError: when a local instance can never offer the actors.
    """
    many = config.compare.train.actors
    many = many[1] if isinstance(many, tuple) else many
    hosts = _actors(config, places, many, tuner)
    waiting = deque((cell, 1) for cell in cells)
    failed: dict[str, str] = {}
    while waiting or hosts.busy:
        while waiting and len(hosts.busy) < many:
            cell, attempt = waiting.popleft()
            hosts.start(_work(cell, models, steps), (cell, attempt))
        (cell, attempt), result = hosts.next()
        if isinstance(result, dict) and "failed" not in result:
            keep(cell, result)
        elif isinstance(result, RayActorError) and attempt < TRIES:
            waiting.append((cell, attempt + 1))
        else:
            failed[cell.key] = _message(result)
    return failed


def tune_on_train(
    config: Config,
    folder: RunFolder,
    connect: Callable[[], None],
    cells: Sequence[Cell],
    models: Mapping[int, str],
    steps: Mapping[int, int | None],
    places: Places,
    keep: Callable[[Cell, dict[str, Any]], None],
) -> dict[str, str]:
    """Work cells off one after the other: each on Ray Train, then evaluated on an actor.

    A tuning that was interrupted goes on from its checkpoint.

    Args:
        folder, connect: of the run, as ``train_into`` takes them.
        cells, models, steps, places, keep: as ``tune_on_actors``.
    """
    hosts = _actors(config, places, 1)
    failed: dict[str, str] = {}
    for cell in cells:
        began = time.monotonic()
        output = places.held_out.parent / "tuned"
        work, summary = _work(cell, models, steps), {}
        try:
            if cell.kind != "fresh":
                own = tuning_config(config, cell.seed, work.steps)
                samples = places.blind_samples if cell.kind == "blind" else None
                summary = train_into(
                    output, cell.key, own, folder, connect, _unseen, cell.ids, samples=samples
                )
                work = replace(work, tuned=everywhere(str(output / VLM)))
        except StoppedError:
            raise
        except SelfilterError as error:
            failed[cell.key] = message_of(error)
            continue
        seconds = time.monotonic() - began
        hosts.start(work, cell)
        _, result = hosts.next()
        if not isinstance(result, dict) or "failed" in result:
            failed[cell.key] = _message(result)
            continue
        result["seconds"]["tune"] = seconds
        done = {"steps": int(summary.get("steps", 0)), "loss": summary.get("plain_loss")}
        keep(cell, result | done)
        remove(output)
    return failed


def _unseen(steps: int) -> None:
    """Steps of one cell are not shown."""


def _work(cell: Cell, models: Mapping[int, str], steps: Mapping[int, int | None]) -> Work:
    model = everywhere(models[cell.seed])
    return Work(cell.kind, cell.seed, steps.get(cell.budget), cell.ids, model)


def _actors(config: Config, places: Places, many: int, tuner: type[Tuner] = Tuner) -> _Actors:
    settings = config.compare.train
    gpus, cpus = gpus_each(settings.gpus_per_actor), settings.cpus_per_actor
    require(config.ray, many, cpus, gpus, "compare.train.actors x cpus_per_actor")
    publish(places.held_out)
    sent = {name: everywhere(path) for name, path in asdict(places).items()}
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus)(_TunerActor)
    plain = config.model_dump(mode="json")
    return _Actors(lambda: actor.remote(tuner, plain, sent, cpus, carried()))


@dataclass
class _Actors:
    """Actors, and what each of them is at. One that died is replaced."""

    make: Callable[[], Any]

    def __post_init__(self) -> None:
        self.busy: dict[Any, tuple[Any, Any]] = {}
        self._idle: list[Any] = []

    def start(self, work: Work, what: Any) -> None:
        actor = self._idle.pop() if self._idle else self.make()
        self.busy[actor.do.remote(work)] = (actor, what)

    def next(self) -> tuple[Any, Any]:
        """Wait for one to end: what it was at, and its result or the exception."""
        (done,), _ = ray.wait(list(self.busy), num_returns=1)
        actor, what = self.busy.pop(done)
        try:
            result = ray.get(done)
        except RayActorError as error:
            return what, error
        except RayTaskError as error:
            result = error
        self._idle.append(actor)
        return what, result


class _TunerActor:
    """Holds a tuner. A cell that fails is a result that says so."""

    def __init__(
        self,
        tuner: type[Tuner],
        config: dict[str, Any],
        places: dict[str, Shared | Path],
        cpus: int,
        run: Run | None,
    ) -> None:
        join_on_ray(run, "compare")
        device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        own = Places(**{name: Path(here(place)) for name, place in places.items()})
        self.tuner = tuner(Config.model_validate(config), own, device, cpus)

    def do(self, work: Work) -> dict[str, Any]:
        try:
            tuned = None if work.tuned is None else str(here(work.tuned))
            return self.tuner(replace(work, model=str(here(work.model)), tuned=tuned))
        except Exception as error:  # one cell's fault must not cost the others
            return {"failed": message_of(error)}


def _message(result: Any) -> str:
    if isinstance(result, dict):
        return str(result["failed"])
    if isinstance(result, RayActorError):
        return "the process that tuned it died twice, for want of memory perhaps"
    return f"{type(result).__name__}: {result}".splitlines()[0]
