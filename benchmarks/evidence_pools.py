"""Write one of the pools with known truth, and print its description.

    python -m benchmarks.evidence_pools NAME OUT [--rows N] [--seed S] [--held-out N]

NAME is plain, wrong-answers, near-duplicates, trivial, long-answers or mismatched-captions.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from selfilter_ray.errors import SelfilterError
from selfilter_ray.known_truth.pools import POOLS
from selfilter_ray.known_truth.write import HELD_OUT_ROWS, write_pool


def main() -> None:
    arguments = _arguments()
    try:
        written = write_pool(
            arguments.name, arguments.out, arguments.rows, arguments.seed, arguments.held_out
        )
    except SelfilterError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
    print(json.dumps(written.description, indent=2))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence_pools")
    parser.add_argument("name", choices=[pool.name for pool in POOLS])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, help="of the pool; all that the data has by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", type=int, default=HELD_OUT_ROWS, help="at most so many")
    return parser.parse_args()


if __name__ == "__main__":
    main()
