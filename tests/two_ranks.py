"""Two real gloo processes for tests. Imports little: each process starts by importing this."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def on_two_ranks(work: Callable[[int], Any], folder: Path) -> list[Any]:
    """What ``work(rank)`` returns on each of two ranks of a process group.

    Args:
        work: a function of a module that imports quickly.
        folder: for the meeting point and the results.
    """
    mp.spawn(_one_rank, (work, folder), nprocs=2)
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(2)]


def _one_rank(rank: int, work: Callable[[int], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / "store"), 2)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2)
    torch.save(work(rank), folder / f"rank-{rank}.pt")
    dist.destroy_process_group()


def merged_statistics(rank: int) -> dict[str, torch.Tensor]:
    """Row 0 is seen by both ranks, 1 and 2 by one of them, 3 by none."""
    from selfilter_ray.stage1.statistics import SampleStatistics

    statistics = SampleStatistics.empty(4)
    if rank == 0:
        statistics.record(7, torch.tensor([0, 1]), torch.tensor([1.5, 2.5]), torch.tensor([3, 4]))
    else:
        statistics.record(2, torch.tensor([0]), torch.tensor([99.0]), torch.tensor([98]))
        statistics.record(0, torch.tensor([2]), torch.tensor([0.0]), torch.tensor([0]))
    return vars(statistics.merged("cpu"))
