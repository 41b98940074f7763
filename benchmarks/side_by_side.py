"""Two pieces of work in turn in one process: their times and their memory."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

MIB = 2**20
Work = Callable[[], None]


def time_compared(ours: Work, plain: Work, device: torch.device, rounds: int) -> dict[str, Any]:
    """Median seconds of both, after one round that does not count."""
    seconds = [(_seconds(ours, device), _seconds(plain, device)) for _ in range(rounds + 1)][1:]
    return {
        "seconds": round(median(own for own, _ in seconds), 4),
        "plain_seconds": round(median(other for _, other in seconds), 4),
        "time_ratio": round(median(own / other for own, other in seconds), 3),
    }


def memory_compared(
    ours: Work, plain: Work, device: torch.device, before: Work, held: int = 0
) -> dict[str, float]:
    """Peaks of both, each after ``before``; ``held`` bytes are there all the time."""
    peaks = []
    for work in (ours, plain):
        before()
        peaks.append(held + peak_bytes(work, device))
    return {
        "peak_mib": round(peaks[0] / MIB, 1),
        "plain_peak_mib": round(peaks[1] / MIB, 1),
        "memory_ratio": round(peaks[0] / peaks[1], 3),
    }


def _seconds(work: Work, device: torch.device) -> float:
    _finished(device)
    began = time.perf_counter()
    work()
    _finished(device)
    return time.perf_counter() - began


def _finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(work: Work, device: torch.device) -> int:
    """The most that ``work`` takes beyond what was there when it began.

    Bytes of torch's allocator: what tensors and operators take, and no more.

    On a CPU every allocation is read from the profiler, so ``work`` runs slower than else.
    """
    gc.collect()
    if device.type == "cuda":
        return _on_gpu(work, device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    if not changes:
        raise RuntimeError("the profiler saw no allocation: its events have another name now.")
    level = peak = 0
    for _, change in changes:
        level += change
        peak = max(peak, level)
    return peak


def _on_gpu(work: Work, device: torch.device) -> int:
    _finished(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    work()
    _finished(device)
    return torch.cuda.max_memory_allocated(device) - before
