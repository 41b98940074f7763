"""A whole run of a config in a fresh folder: seconds and rows of every stage.

python -m benchmarks.end_to_end NAME CONFIG [--set KEY=VALUE ...]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

from benchmarks.store import store_result
from selfilter_ray.config import load_config
from selfilter_ray.pipeline import run
from selfilter_ray.terminal import Terminal


def main() -> None:
    parser = argparse.ArgumentParser(description="A whole run of a config, timed.")
    parser.add_argument("name")
    parser.add_argument("config")
    parser.add_argument("--set", action="append", default=[])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        overrides = [*arguments.set, f"run_dir={Path(folder) / 'run'}"]
        began = time.monotonic()
        manifest = run(load_config(arguments.config, overrides), terminal=Terminal())
        seconds = time.monotonic() - began
    stages = manifest["stages"]
    store_result(
        "end_to_end",
        {
            "seconds": round(seconds, 1),
            "stages": {
                name: {"rows": record["rows"], "seconds": round(record["seconds"], 1)}
                for name, record in stages.items()
            },
            "counts": manifest["counts"],
            "correlations": stages["train"]["correlations"],
            "picks": stages["select"]["rows"],
        },
        variant=arguments.name,
    )


if __name__ == "__main__":
    main()
