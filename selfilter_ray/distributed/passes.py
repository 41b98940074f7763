"""A pass over the pool on Ray Data: shards go to a pool of actors, files come out.

Every pass works the same way, and differs only in what makes a table of a shard's samples. A shard
that is complete is never made again (``features/shards.py``), so a pass that was stopped goes on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
import ray
import torch
from ray.data import ActorPoolStrategy

from selfilter_ray.config import RayConfig
from selfilter_ray.distributed.metrics import join_on_ray
from selfilter_ray.distributed.runtime import gpus_each, require
from selfilter_ray.errors import ArtifactError, ConfigError, DataError, SelfilterError, StorageError
from selfilter_ray.features.shards import Shard, ShardRecord, finish_shard
from selfilter_ray.samples.files import read_sample_range
from selfilter_ray.samples.witness import check_witness, witness
from selfilter_ray.storage.shared import Shared, everywhere, fetch, here, publish
from selfilter_ray.telemetry.run import Run, carried
from selfilter_ray.telemetry.shards import ShardWatch, making_shard

ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, ArtifactError, StorageError)}


class ShardMaker(Protocol):
    """Holds a model; makes a table of the samples of one shard. It knows nothing of Ray."""

    def __call__(self, samples: pa.Table) -> pa.Table:
        """A row for each row of ``samples``, in their order: what fails is a row that says so."""
        ...

    def weights_hash(self) -> str:
        """SHA-256 over all weights, for the completion record."""
        ...


class ActorSettings(Protocol):
    """What a pass's config section says of its actors."""

    @property
    def actors(self) -> int | tuple[int, int]: ...
    @property
    def cpus_per_actor(self) -> int: ...
    @property
    def gpus_per_actor(self) -> float | None: ...


@dataclass(frozen=True)
class Pass:
    """What to do with every shard.

    Attributes:
        section: the config section, for messages.
        build: called once in each actor with ``device`` ("cpu" or "cuda") and the arguments; gives
            the maker. A class whose constructor takes those will do.
        arguments: settings and plain data: they travel to the actors. A path in the run's folder
            is one there, too.
        columns: of ``samples/``, what the maker reads.
        calls_per_actor: shards in an actor at once. More than one overlaps decoding with the model,
            and needs a maker that several threads may call.
    """

    section: str
    build: Callable[..., ShardMaker]
    arguments: Mapping[str, Any]
    columns: Sequence[str]
    calls_per_actor: int = 1


def make_shards(
    work: Pass,
    actors: ActorSettings,
    ray_config: RayConfig,
    shards: Sequence[Shard],
    samples: Path,
    folder: Path,
    key: str,
    progress: Callable[[int], None],
) -> None:
    """Make the given shards, in any order, on as many actors as the settings say.

    Args:
        work: what to do.
        actors: how many, and the CPUs and GPUs of each.
        ray_config: of the instance that is up.
        shards: what is still to be made.
        samples, folder: where to read and to write: on a disk that every node reaches, or in the
            working copy of a run folder by URI, which is pushed before and pulled after.
        key: goes into each completion record.
        progress: told the rows of each finished shard.

    Raises:
        SelfilterError: that building a maker, or making a shard, raised.
        ConfigError: when a local instance can never offer the actors.
        StorageError: when the store of a run folder by URI does not answer.
    """
    if not shards:
        return
    gpus, cpus = gpus_each(actors.gpus_per_actor), actors.cpus_per_actor
    pool = actors.actors
    lowest, highest = pool if isinstance(pool, tuple) else (pool, pool)
    require(ray_config, highest, cpus, gpus, f"{work.section}.actors x cpus_per_actor")
    publish(folder)
    sent = {name: everywhere(value) for name, value in work.arguments.items()}
    places = (Shared.of(samples), Shared.of(folder))
    seen = witness(samples, shards[0].start, shards[0].stop)
    rows = [{"number": s.number, "start": s.start, "stop": s.stop} for s in shards]
    done = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
        ShardActor,  # type: ignore[arg-type]
        fn_constructor_args=(replace(work, arguments=sent), cpus, *places, key, carried(), seen),
        compute=ActorPoolStrategy(
            min_size=min(lowest, len(rows)),
            max_size=min(highest, len(rows)),
            max_concurrent_calls_per_actor=work.calls_per_actor,
            enable_true_multi_threading=True,
        ),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    watch = ShardWatch(work.section, len(rows), highest * work.calls_per_actor)
    for row in done.iter_rows():
        if row["problem"]:
            raise ERRORS.get(row["kind"], SelfilterError)(row["problem"])
        watch.made(int(row["rows"]), float(row["seconds"]))
        progress(int(row["rows"]))
    fetch(folder)


class ShardActor:
    """Holds a maker; makes one shard a call.

    An error meant for the user travels as a row: raised, it would reach the driver as the death of
    an actor, and Ray would try again.
    """

    def __init__(
        self,
        work: Pass,
        cpus: int,
        samples: Shared,
        folder: Shared,
        key: str,
        run: Run | None = None,
        seen: str | None = None,
    ) -> None:
        join_on_ray(run, work.section)
        self.section = work.section
        torch.set_num_threads(cpus)
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        self.columns, self.key, self.folder = work.columns, key, folder
        self.problem: SelfilterError | None = None
        device = "cuda" if torch.cuda.is_available() and ray.get_gpu_ids() else "cpu"
        try:
            check_witness(seen)
            self.samples = samples.here()
            arguments = {name: here(value) for name, value in work.arguments.items()}
            self.maker = work.build(device=device, **arguments)
            self.model = self.maker.weights_hash()
        except SelfilterError as error:
            self.problem = error

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        shard = Shard(int(row["number"]), int(row["start"]), int(row["stop"]))
        try:
            if self.problem is not None:
                raise self.problem
            began = time.monotonic()
            with making_shard(self.section, shard.number, shard.stop - shard.start):
                self._make(shard)
        except SelfilterError as error:
            return {"rows": 0, "seconds": 0.0, "problem": str(error), "kind": type(error).__name__}
        seconds = time.monotonic() - began
        return {"rows": shard.stop - shard.start, "seconds": seconds, "problem": "", "kind": ""}

    def _make(self, shard: Shard) -> None:
        began = time.monotonic()
        table = self.maker(
            read_sample_range(self.samples, shard.start, shard.stop, list(self.columns))
        )
        record = ShardRecord(self.key, table.num_rows, time.monotonic() - began, self.model)
        with self.folder.to_fill() as folder:
            finish_shard(folder, shard, table, record)
