"""Stage 2 over features that no single machine has to hold: one Ray actor a part, one coordinator.

The coordinator keeps a few numbers a sample and asks all actors at once; see
``select.neighbours.sharded``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray

from selfilter_ray.features.shards import load_shards
from selfilter_ray.select.contract import Pool, Selection
from selfilter_ray.select.diverse import base_difficulty
from selfilter_ray.select.greedy import pick_greedily
from selfilter_ray.select.neighbours.backends import BackendName
from selfilter_ray.select.neighbours.search import product_margin
from selfilter_ray.select.neighbours.shard import FeatureShard
from selfilter_ray.select.neighbours.sharded import ShardedSearch
from selfilter_ray.select.selfilter import selection_of
from selfilter_ray.select.settings import SelfilterSettings
from selfilter_ray.select.sites import Sites
from selfilter_ray.storage.shared import Shared

GPU_BACKENDS = ("torch", "faiss-gpu")
LARGE = 100_000  # bytes; what is smaller travels inside a call


class ShardActor:
    """Loads its feature files and answers for them."""

    def __init__(self, files: list[Shared], backend: BackendName) -> None:
        features = load_shards([file.here() for file in files])
        self._ids = features.ids
        self._width = features.features_ND.shape[1]
        self._shard = FeatureShard(features.features_ND, backend)

    def contents(self) -> tuple[list[str], list[bytes], int]:
        """Ids, digests of the rows, and D."""
        return self._ids.tolist(), self._shard.digests(), self._width

    def call(self, method: str, *arguments: Any) -> Any:
        """A method of the shard."""
        return getattr(self._shard, method)(*arguments)


def select_sharded(
    files: Sequence[Path],
    pool: Pool,
    budget: int,
    settings: SelfilterSettings,
    progress: Callable[[int], None] = lambda picks: None,
) -> Selection:
    """Self-Filter's method with the features in ``settings.shards`` actors.

    Args:
        files: of the feature shards, on a disk of every node or in a run folder by URI.
        pool: without features; needs ``difficulty``.
        progress: told the number of picks made, once in a while.

    Returns:
        The same picks as on one machine.
    """
    base_N = base_difficulty(
        pool.columns["difficulty"],
        budget,
        settings.gamma,
        settings.k_nearest,
        settings.difficulty,
    )
    backend = settings.backend
    actors = _actors(files, settings.shards, backend)
    try:
        contents = ray.get([actor.contents.remote() for actor in actors])
        shard_N, row_N, digests = _placed(pool.ids, contents)
        sites = Sites.of(digests)

        def call(calls: Sequence[tuple[int, str, tuple[Any, ...]]]) -> list[Any]:
            send = _Sender()
            return ray.get(
                [actors[n].call.remote(method, *map(send, given)) for n, method, given in calls]
            )

        margin = product_margin(contents[0][2])
        search = ShardedSearch(call, shard_N, row_N, sites, margin)
        picks = pick_greedily(
            search, sites, base_N, budget, settings.gamma, settings.k_nearest, progress
        )
    finally:
        for actor in actors:
            ray.kill(actor)
    return selection_of(picks)


class _Sender:
    """Puts what several actors get into the object store once, not once an actor."""

    def __init__(self) -> None:
        self._sent: dict[int, Any] = {}

    def __call__(self, value: Any) -> Any:
        if not (isinstance(value, np.ndarray) and value.nbytes > LARGE):
            return value
        if id(value) not in self._sent:
            self._sent[id(value)] = ray.put(value)
        return self._sent[id(value)]


def _actors(files: Sequence[Path], shards: int, backend: BackendName) -> list[Any]:
    """One actor a part of the files; they share the machine's cores, and GPUs where needed."""
    split = np.array_split(np.array(files, object), shards)
    parts = [[Shared.of(file) for file in part] for part in split if len(part)]
    there = float(ray.cluster_resources().get("GPU", 0.0)) if backend in GPU_BACKENDS else 0.0
    gpus = min(1.0, there / len(parts))
    actor: Any = ray.remote(num_cpus=min(1.0, _cores() / len(parts)), num_gpus=gpus)(ShardActor)
    return [actor.remote(part, backend) for part in parts]


def _cores() -> float:
    return float(ray.cluster_resources().get("CPU", 1.0))


def _placed(
    ids: np.ndarray, contents: Sequence[tuple[list[str], list[bytes], int]]
) -> tuple[np.ndarray, np.ndarray, list[bytes]]:
    """Shard, row and digest of every sample, in the order of the ids."""
    found = np.concatenate([np.array(own, dtype=object) for own, _, _ in contents])
    shard = np.concatenate([np.full(len(own), n) for n, (own, _, _) in enumerate(contents)])
    row = np.concatenate([np.arange(len(own)) for own, _, _ in contents])
    digests = [digest for _, own, _ in contents for digest in own]
    order = np.argsort(found, kind="stable")
    if not np.array_equal(found[order], ids):
        raise ValueError("the shards do not hold the samples that have difficulties")
    return shard[order], row[order], [digests[place] for place in order]
