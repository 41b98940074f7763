"""`selfilter-ray compare`, stored: what each method chose, in figures, and what it cost.

    python -m benchmarks.compare NAME CONFIG [--set a.b=c ...] [--made]

``--made`` takes the comparison that the run's folder already holds.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks.store import store_result
from selfilter_ray.compare.files import read_comparison
from selfilter_ray.compare.result import Comparison
from selfilter_ray.config import load_config
from selfilter_ray.pipeline import Pipeline
from selfilter_ray.run_folder import STAGES
from selfilter_ray.terminal import Terminal


def main() -> None:
    arguments = _arguments()
    pipeline = Pipeline(load_config(arguments.config, arguments.set), Terminal(), comparing=True)
    if not arguments.made:
        pipeline.run(STAGES[: STAGES.index("select")])
        pipeline.compare()
    comparison = read_comparison(pipeline.folder.path)
    store_result("compare", _summary(comparison), f"compare_{arguments.name}")


def _summary(comparison: Comparison) -> dict[str, Any]:
    whole = comparison.to_json()
    methods = [
        {name: method[name] for name in ("label", "seconds", "cost", "same_picks", "metrics")}
        for method in whole["methods"]
    ]
    kept = {name: whole[name] for name in ("budget", "seeds", "overlap", "failures")}
    return kept | {"methods": methods}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name")
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--made", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
