"""How long Stage 2 takes, and what it holds, at sizes that were not run: from measured rates.

Reads every result of ``benchmarks.select``. The rate is the slowest of theirs, everything included;
the searches a pick are the most of theirs. A plan assumes that shards add up, which the products do
and the coordinator's part does not.

    python -m benchmarks.select_plan
"""

from __future__ import annotations

import json
from typing import Any

from benchmarks.store import RESULTS, store_result

CORES = 2  # of the machine that was measured
RATIO = 0.15
COORDINATOR_BYTES = 300
SIZES = [
    (158_000, 1536, 2),
    (665_000, 1536, 32),
    (1_000_000, 512, 2),
    (10_000_000, 1536, 512),
    (100_000_000, 1536, 8192),
]


def plan_from_results(samples: int, features: int, cores: int) -> dict[str, float | int]:
    """The plan of one size, from the stored results of ``benchmarks.select``."""
    runs = _runs()
    rate = min(run["gflops"] for run in runs) * 1e9 / CORES
    searches = max(run["searches"] / run["budget"] for run in runs)
    return _plan(samples, features, cores, rate, searches)


def main() -> None:
    runs = _runs()
    slowest = min(runs, key=lambda run: run["gflops"])
    rate = slowest["gflops"] * 1e9 / CORES
    searches = max(run["searches"] / run["budget"] for run in runs)
    plan = [_plan(samples, features, cores, rate, searches) for samples, features, cores in SIZES]
    store_result(
        "select_plan",
        {
            "operations_per_second_and_core": rate,
            "searches_per_pick": round(searches, 3),
            "from": slowest["command"],
            "plan": plan,
        },
    )


def _runs() -> list[dict[str, Any]]:
    results = (json.loads(file.read_text()) for file in sorted(RESULTS.glob("select_*.json")))
    return [
        result["measured"] | {"command": result["command"]}
        for result in results
        if "gflops" in result["measured"]
    ]


def _plan(
    samples: int, features: int, cores: int, rate: float, searches: float
) -> dict[str, float | int]:
    budget = round(RATIO * samples)
    operations = 2.0 * budget * searches * samples * features
    return {
        "samples": samples,
        "features": features,
        "budget": budget,
        "cores": cores,
        "hours": round(operations / (rate * cores) / 3600, 2),
        "core_hours": round(operations / rate / 3600, 1),
        "features_gib": round(4 * samples * features / 2**30, 1),
        "coordinator_gib": round(COORDINATOR_BYTES * samples / 2**30, 2),
    }


if __name__ == "__main__":
    main()
