"""The closed loop's cells on Ray: an actor a process, each with one cell at a time.

A cell that fails costs only itself. One that takes its process with it, for want of memory perhaps,
is tried once more in a new one: the host may have been the reason.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import ray
import torch
from ray.exceptions import RayError, RayTaskError

from selfilter_ray.compare.gathering import message_of
from selfilter_ray.compare.trained.cells import Cell
from selfilter_ray.compare.trained.loop import Keep
from selfilter_ray.compare.trained.tuner import Places, Tuner, Work, tuning_config
from selfilter_ray.config import Config
from selfilter_ray.distributed.metrics import join_on_ray
from selfilter_ray.distributed.runtime import gpus_each, require
from selfilter_ray.distributed.stopping import interrupted_by_sigterm
from selfilter_ray.errors import ConfigError, SelfilterError
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
    keep: Keep,
    tuner: type[Tuner] = Tuner,
) -> dict[str, str]:
    """Work cells off on ``compare.train.actors`` actors, on as many of them as there is room for.

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
        ConfigError: when a local instance can never offer the actors, or none can be started.
        KeyboardInterrupt: when SIGINT or SIGTERM asked this process to stop.
    """
    actors = config.compare.train.actors
    fewest, most = actors if isinstance(actors, tuple) else (actors, actors)
    hosts = _actors(config, places, fewest, most, tuner)
    try:
        with interrupted_by_sigterm():
            return _worked_off(hosts, [(cell, _work(cell, models, steps)) for cell in cells], keep)
    finally:
        hosts.close()


def tune_on_train(
    config: Config,
    folder: RunFolder,
    connect: Callable[[], None],
    cells: Sequence[Cell],
    models: Mapping[int, str],
    steps: Mapping[int, int | None],
    places: Places,
    keep: Keep,
) -> dict[str, str]:
    """Work cells off one after the other: each on Ray Train, then evaluated on an actor.

    A tuning that was interrupted goes on from its checkpoint.

    Args:
        folder, connect: of the run, as ``train_into`` takes them.
        cells, models, steps, places, keep: as ``tune_on_actors``.

    Raises:
        StoppedError: when SIGINT or SIGTERM asked this process to stop.
    """
    output = places.held_out.parent / "tuned"
    failed: dict[str, str] = {}
    for cell in cells:
        began = time.monotonic()
        work = _work(cell, models, steps)
        summary: dict[str, Any] = {}
        if cell.kind != "fresh":
            own = tuning_config(config, cell.seed, work.steps)
            samples = places.blind_samples if cell.kind == "blind" else None
            try:
                summary = train_into(
                    output, cell.key, own, folder, connect, _unseen, cell.ids, samples=samples
                )
            except StoppedError:
                raise
            except Exception as error:  # one cell's fault must not cost the others
                failed[cell.key] = message_of(error)
                remove(output)
                continue
            work = replace(work, tuned=everywhere(str(output / VLM)))
        seconds = time.monotonic() - began

        def keep_it(
            cell: Cell,
            result: dict[str, Any],
            seconds: float = seconds,
            summary: dict[str, Any] = summary,
        ) -> None:
            result["seconds"]["tune"] = seconds
            said = {"steps": int(summary.get("steps", 0)), "loss": summary.get("plain_loss")}
            keep(cell, result | said)

        # An actor of its own for each: Ray Train must have the GPUs for itself.
        hosts = _actors(config, places, 1, 1)
        try:
            failed |= _worked_off(hosts, [(cell, work)], keep_it)
        finally:
            hosts.close()
        remove(output)
    return failed


def _unseen(steps: int) -> None:
    """Steps of one cell are not shown."""


def _work(cell: Cell, models: Mapping[int, str], steps: Mapping[int, int | None]) -> Work:
    model = everywhere(models[cell.seed])
    return Work(cell.kind, cell.seed, steps.get(cell.budget), cell.ids, model)


def _worked_off(hosts: _Actors, jobs: Sequence[tuple[Cell, Work]], keep: Keep) -> dict[str, str]:
    """The messages of the cells that failed, by key."""
    waiting = deque((cell, work, 1) for cell, work in jobs)
    failed: dict[str, str] = {}
    while waiting or hosts.busy:
        hosts.grow(len(waiting))
        while waiting and hosts.idle:
            hosts.start(waiting.popleft())
        ended = hosts.wait()
        if ended is None:
            continue
        (cell, work, attempt), result = ended
        if isinstance(result, RayError):
            if attempt < TRIES:
                waiting.append((cell, work, attempt + 1))
            else:
                failed[cell.key] = f"the process that tuned it died twice: {_first_line(result)}"
        elif "failed" in result:
            failed[cell.key] = result["failed"]
        else:
            keep(cell, result)
    return failed


def _actors(
    config: Config, places: Places, fewest: int, most: int, tuner: type[Tuner] = Tuner
) -> _Actors:
    settings = config.compare.train
    gpus, cpus = gpus_each(settings.gpus_per_actor), settings.cpus_per_actor
    require(config.ray, fewest, cpus, gpus, "compare.train.actors x cpus_per_actor")
    publish(places.held_out)
    sent = {name: everywhere(path) for name, path in asdict(places).items()}
    actor = ray.remote(num_cpus=cpus, num_gpus=gpus)(_TunerActor)
    plain = config.model_dump(mode="json")
    return _Actors(lambda: actor.remote(tuner, plain, sent, cpus, carried()), most)


class _Actors:
    """As many actors as there is room for, up to ``most``, and what each of them is at.

    One that Ray cannot place yet waits without work; one that dies is replaced.
    """

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self._make, self._most = make, most
        self._starting: dict[Any, Any] = {}
        self._failures = 0
        self.idle: list[Any] = []
        self.busy: dict[Any, tuple[Any, tuple[Cell, Work, int]]] = {}

    def grow(self, waiting: int) -> None:
        """Begin to start actors for as many cells as wait."""
        there = len(self._starting) + len(self.idle)
        for _ in range(min(waiting - there, self._most - there - len(self.busy))):
            actor = self._make()
            self._starting[actor.ready.remote()] = actor

    def start(self, job: tuple[Cell, Work, int]) -> None:
        """Give an idle actor something to do."""
        actor = self.idle.pop()
        self.busy[actor.do.remote(job[1])] = (actor, job)

    def wait(self) -> tuple[tuple[Cell, Work, int], Any] | None:
        """Until a cell ends: what it was, and its result or Ray's error; None when an actor came.

        Raises:
            ConfigError: when one actor after the other cannot be started.
        """
        (done,), _ = ray.wait([*self._starting, *self.busy], num_returns=1)
        if done in self._starting:
            self._came(done, self._starting.pop(done))
            return None
        actor, job = self.busy.pop(done)
        try:
            result = ray.get(done)
        except RayTaskError as error:  # of the actor's own code, outside of the cell
            result = {"failed": _first_line(error), "spent": True}
        except RayError as error:
            return job, error
        if result.pop("spent", False):
            ray.kill(actor)
        else:
            self.idle.append(actor)
        return job, result

    def close(self) -> None:
        """End them all."""
        for actor in (*self._starting.values(), *self.idle, *(a for a, _ in self.busy.values())):
            ray.kill(actor)

    def _came(self, ready: Any, actor: Any) -> None:
        try:
            ray.get(ready)
        except RayError as error:
            self._failures += 1
            if self._failures > TRIES * self._most and not (self.idle or self.busy):
                raise ConfigError(
                    f"no process to tune models in could be started: {_first_line(error)}"
                ) from None
            return
        self._failures = 0
        self.idle.append(actor)


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
        self._make, self._config, self._places = tuner, config, places
        self._cpus, self._run = cpus, run
        self._tuner: Tuner | None = None

    def ready(self) -> None:
        """Answered once the actor is there."""

    def do(self, work: Work) -> dict[str, Any]:
        """The cell's result; or ``failed``, and ``spent`` where the process must not go on."""
        try:
            tuned = None if work.tuned is None else str(here(work.tuned))
            return self._here()(replace(work, model=str(here(work.model)), tuned=tuned))
        except SelfilterError as error:
            return {"failed": message_of(error)}
        except Exception as error:  # a GPU that failed once fails whatever comes after
            return {"failed": message_of(error), "spent": True}

    def _here(self) -> Tuner:
        if self._tuner is None:
            join_on_ray(self._run, "compare")
            device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
            own = Places(**{name: Path(here(place)) for name, place in self._places.items()})
            self._tuner = self._make(Config.model_validate(self._config), own, device, self._cpus)
        return self._tuner


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:500]
