"""How long ``selfilter-ray --help`` takes, against an interpreter that does nothing.

python -m benchmarks.help
"""

from __future__ import annotations

import subprocess
import sys
import time
from statistics import median

from benchmarks.store import store_result

ROUNDS = 7


def main() -> None:
    commands = {
        "help": [sys.executable, "-m", "selfilter_ray.cli", "--help"],
        "bare_python": [sys.executable, "-c", "pass"],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds[name].append(time.perf_counter() - began)
    middle = {name: median(values) for name, values in seconds.items()}
    ratio = middle["help"] / middle["bare_python"]
    store_result("help", {"seconds": middle, "help_to_bare_python": round(ratio, 2)})


if __name__ == "__main__":
    main()
