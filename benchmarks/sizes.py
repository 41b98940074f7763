"""What a run and the service take at sizes that were not run: from measured rates.

Stage 2, the service, and bytes are computed from results that are stored here, all of them measured
on two CPU cores. Featurizing and Stage 1 belong on GPUs, which nothing here was measured on: their
rates are given, best from a run of your own on a thousand records (its table of stages has rows/s).

    python -m benchmarks.sizes --featurize 200 --train 5 --run runs/demo
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.select_plan import plan_from_results
from benchmarks.store import RESULTS, store_result

RATIO = 0.15
FEATURES = 1536  # of CLIP ViT-L/14, image and text
GIB = 2**30
RECORD_BYTES = 300  # of a decision in the service's log, see docs/state.md
VALUE_BYTES = 4  # of a feature in memory and in the service's log
OPTIMIZER_BYTES = 12  # a trained weight in a checkpoint: itself and two moments, float32
CHECKPOINTS = 2


@dataclass(frozen=True)
class Size:
    """A pool and the machines that it is given."""

    samples: int
    cores: int
    gpus: int


SIZES = (
    Size(158_000, 32, 8),
    Size(665_000, 64, 8),
    Size(10_000_000, 512, 64),
    Size(100_000_000, 8192, 256),
)


def main() -> None:
    given = _arguments().parse_args()
    bytes_a_record = _bytes_a_record(given.run)
    rows = [_row(size, given, bytes_a_record) for size in SIZES]
    measured = {
        "given": {
            "featurize_per_second_and_gpu": given.featurize,
            "train_samples_per_second_and_gpu": given.train,
            "trained_parameters": given.parameters,
            "features": FEATURES,
            "ratio": RATIO,
        },
        "bytes_a_record": bytes_a_record,
        "sizes": rows,
    }
    store_result("sizes", measured)
    print(table(rows))


def _row(size: Size, given: argparse.Namespace, bytes_a_record: dict[str, float]) -> dict[str, Any]:
    samples, kept = size.samples, round(RATIO * size.samples)
    stage2 = plan_from_results(samples, FEATURES, size.cores)
    recovery, speed = _measured("online_recovery"), _measured("online_speed")
    replay = recovery["whole_log"]["replayed"] / recovery["whole_log"]["replay_seconds"]
    # A micro-batch looks at all kept samples: its cost is theirs, times their features.
    batch = speed["batch_64"]["cpu_seconds"] / (speed["kept"] * speed["features"])
    return {
        "samples": samples,
        "cores": size.cores,
        "gpus": size.gpus,
        "featurize_hours": _hours(samples, given.featurize * size.gpus),
        "featurize_hours_on_the_cores": _hours(samples, _featurize_a_core() * size.cores),
        "stage1_hours": _hours(samples, given.train * size.gpus),
        "stage2_hours": _rounded(stage2["core_hours"] / size.cores),
        "stage2_features_gib": stage2["features_gib"],
        "run_folder_gib": _gib(samples * sum(bytes_a_record.values())),
        "checkpoints_gib": _gib(CHECKPOINTS * OPTIMIZER_BYTES * given.parameters),
        "service_kept": kept,
        "service_memory_gib": _gib(kept * FEATURES * VALUE_BYTES),
        "service_log_gib": _gib(samples * RECORD_BYTES + kept * FEATURES * VALUE_BYTES),
        "service_replay_minutes": round(samples / replay / 60, 1),
        "service_cpu_ms_a_decision": round(1000 * batch * kept * FEATURES / 64, 1),
    }


def _featurize_a_core() -> float:
    """Records a second and core, of the small embedder of the benchmark."""
    rates = _measured("featurize")["records_per_second"]["pipeline"]
    return sorted(rates)[len(rates) // 2] / 2


def _bytes_a_record(run: Path) -> dict[str, float]:
    """What a finished run keeps of each record, its features taken to ``FEATURES``."""
    stages = json.loads((run / "manifest.json").read_text())["stages"]
    rows = stages["featurize"]["out"]
    first = next((run / "features").glob("shard-*.parquet"))
    import pyarrow.parquet as pq

    schema = pq.read_schema(first)
    widths = [field.type.list_size for field in schema if hasattr(field.type, "list_size")]
    features = _folder_bytes(run / "features") / rows
    return {
        "samples": round(_folder_bytes(run / "samples") / rows, 1),
        "features": round(features * FEATURES / sum(widths), 1),
        "scores": round((run / "scores.parquet").stat().st_size / rows, 1),
    }


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _measured(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / f"{name}.json").read_text())["measured"]


def _hours(samples: int, rate: float) -> float:
    return _rounded(samples / rate / 3600)


def _gib(count: float) -> float:
    return _rounded(count / GIB)


def _rounded(value: float) -> float:
    """To two digits: more would look measured."""
    if value == 0:
        return 0.0
    return round(value, 1 - math.floor(math.log10(value)))


def table(rows: list[dict[str, Any]]) -> str:
    """As Markdown: a line a quantity, a column a size."""
    lines = ["| | " + " | ".join(f"{row['samples']:,}" for row in rows) + " |"]
    lines.append("|---" * (len(rows) + 1) + "|")
    for name in rows[0]:
        if name != "samples":
            shown = " | ".join(f"{row[name]:,g}" for row in rows)
            lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    return "\n".join(lines)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--featurize", type=float, required=True, help="records a second and GPU")
    parser.add_argument("--train", type=float, required=True, help="samples a second and GPU")
    parser.add_argument("--parameters", type=float, default=6.8e9, help="weights that are trained")
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="a finished run")
    return parser


if __name__ == "__main__":
    main()
