"""What an online decision costs beside many kept samples, and what they take in memory.

A state of so many kept samples in rate mode is restored from arrays, as from a snapshot; then
micro-batches and single samples are decided on. Each figure is the median of several.

    python -m benchmarks.online_speed [--kept 1000000] [--features 512] [--batch 64] [--rounds 7]
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from statistics import median
from typing import Any

import numpy as np

from benchmarks.store import store_result
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.online.settings import OnlineSettings
from selfilter_ray.online.state import State

CLUSTERS = 5_000


def main() -> None:
    arguments = _arguments()
    kept, features = arguments.kept, arguments.features
    random = np.random.default_rng(0)
    centres = random.standard_normal((CLUSTERS, features), dtype=np.float32)
    state = _state(kept, features, centres, random)
    began = time.perf_counter()
    selector = OnlineSelector.restore(state)
    restored = time.perf_counter() - began
    del state
    measured: dict[str, Any] = {
        "kept": kept,
        "features": features,
        "load_before": round(os.getloadavg()[0], 1),
        "restore_seconds": round(restored, 1),
        "vectors_gib": round(kept * features * 4 / 2**30, 2),
        "resident_gib": round(_resident(), 2),
        "digest_seconds": round(_seconds(selector.digest), 1),
    }
    for size in (arguments.batch, 1):
        measured[f"batch_{size}"] = _decide(selector, size, arguments.rounds, centres, random)
    measured["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    store_result("online_speed", measured)


def _state(kept: int, features: int, centres: np.ndarray, random: np.random.Generator) -> State:
    """As exported by a selector that has admitted so many of ten times as many."""
    settings = OnlineSettings(rate=0.1)
    header = OnlineSelector(settings, features).export().header
    header |= {"sequence": 10 * kept, "seen": 10 * kept, "admitted": kept}
    difficulty = random.exponential(size=kept)
    arrays = {
        "features_KD": _rows(kept, centres, random),
        "sequence_K": np.arange(kept) * 10,
        "difficulty_K": difficulty,
        "weight_K": difficulty,
        "recent_W": random.normal(size=settings.window),
    }
    return State(header, [f"kept-{number:08d}" for number in range(kept)], arrays)


def _rows(count: int, centres: np.ndarray, random: np.random.Generator) -> np.ndarray:
    rows = np.empty((count, centres.shape[1]), np.float32)
    for start in range(0, count, 16_384):
        part = rows[start : start + 16_384]
        part[:] = centres[random.integers(0, len(centres), len(part))]
        part += 0.5 * random.standard_normal(part.shape, dtype=np.float32)
    return rows


def _decide(
    selector: OnlineSelector,
    size: int,
    rounds: int,
    centres: np.ndarray,
    random: np.random.Generator,
) -> dict[str, float]:
    wall, cpu = [], []
    for turn in range(rounds):
        rows = _rows(size, centres, random)
        ids = [f"{size}-{turn}-{number}" for number in range(size)]
        difficulty = random.exponential(size=size)
        began, began_cpu = time.perf_counter(), time.process_time()
        selector.decide(ids, difficulty, rows)
        wall.append(time.perf_counter() - began)
        cpu.append(time.process_time() - began_cpu)
    return {
        "seconds": round(median(wall), 4),
        "least_seconds": round(min(wall), 4),
        "cpu_seconds": round(median(cpu), 4),
        "samples_a_second": round(size / median(wall), 1),
    }


def _resident() -> float:
    """GiB that this process has in memory now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**30


def _seconds(work: Any) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kept", type=int, default=1_000_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=7)
    return parser.parse_args()


if __name__ == "__main__":
    main()
