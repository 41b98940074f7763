"""Stage 2's exact greedy at full size, against a plain reading of the release's loop, in one run.

The plain loop sorts all samples at every pick, gathers the remaining features, and takes the cosine
with each of them; a few of its picks are timed, and must be the same as ours. The selection runs in
a process of its own, so that its peak memory is its own.

    python -m benchmarks.select [--samples 158000] [--features 1536] [--budget 25000]
        [--plain-picks 5] [--backend exact] [--store select_158k]
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import time
from statistics import median
from typing import Any

import torch

from benchmarks.clip_like import clip_like
from benchmarks.store import store_result

GAMMA, K_NEAREST = 1.0, 10


def main() -> None:
    arguments = _arguments()
    with multiprocessing.get_context("spawn").Pool(1) as processes:
        ours = processes.apply(_ours, (vars(arguments),))
    measured: dict[str, Any] = {
        "samples": arguments.samples,
        "features": arguments.features,
        "budget": arguments.budget,
        "gamma": GAMMA,
        "k_nearest": K_NEAREST,
        "backend": arguments.backend,
        "threads": torch.get_num_threads(),
        **{name: value for name, value in ours.items() if name != "first"},
    }
    if arguments.plain_picks:
        seconds, picks = _plain(arguments.samples, arguments.features, arguments.plain_picks)
        assert picks == ours["first"][: len(picks)], "the plain loop picks others"
        measured["plain_seconds_a_pick"] = [round(value, 3) for value in seconds]
        measured["ratio"] = round(median(seconds) / ours["seconds_a_pick"], 1)
    store_result("select", measured, arguments.store)


def _ours(arguments: dict[str, Any]) -> dict[str, Any]:
    from selfilter_ray.select import select_diverse

    features_MD, difficulty_M = clip_like(arguments["samples"], arguments["features"])
    before = _peak()
    began = time.perf_counter()
    picks = select_diverse(
        features_MD,
        difficulty_M,
        arguments["budget"],
        GAMMA,
        K_NEAREST,
        backend=arguments["backend"],
    )
    seconds = time.perf_counter() - began
    return {
        "seconds": round(seconds, 2),
        "seconds_a_pick": seconds / arguments["budget"],
        "searches": picks.searched,
        "gflops": round(
            2e-9 * picks.searched * arguments["samples"] * arguments["features"] / seconds, 1
        ),
        "features_gib": round(features_MD.nbytes / 2**30, 2),
        "peak_gib": round(_peak(), 2),
        "peak_before_gib": round(before, 2),
        "recall": picks.recall,
        "first": picks.indices[:100].tolist(),
    }


def _plain(samples: int, features: int, picks: int) -> tuple[list[float], list[int]]:
    """Seconds of each pick, and the picks."""
    features_MD, difficulty_M = clip_like(samples, features)
    features_MD = torch.from_numpy(features_MD)
    difficulty = dict(enumerate((difficulty_M - difficulty_M.min()).tolist()))
    seconds, chosen = [], []
    for _ in range(picks):
        began = time.perf_counter()
        order = sorted(difficulty.items(), key=lambda item: item[1], reverse=True)
        pick, value = order[0]
        del difficulty[pick]
        remaining = [row for row, _ in order[1:]]
        cosine = torch.cosine_similarity(features_MD[pick][None], features_MD[remaining])
        nearest = torch.topk(cosine, K_NEAREST)
        for similarity, place in zip(*nearest, strict=True):
            difficulty[remaining[place]] -= GAMMA * value * float(similarity) ** 2
        chosen.append(pick)
        seconds.append(time.perf_counter() - began)
    return seconds, chosen


def _peak() -> float:
    """GiB that this process has had in memory at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=158_000)
    parser.add_argument("--features", type=int, default=1536)
    parser.add_argument("--budget", type=int, default=25_000)
    parser.add_argument("--plain-picks", type=int, default=5)
    parser.add_argument("--backend", default="exact")
    parser.add_argument("--store", default="select_158k")
    return parser.parse_args()


if __name__ == "__main__":
    main()
