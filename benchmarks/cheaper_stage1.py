"""Cheaper Stage 1 against the whole one on the same pool: agreement and time.

Every variant is a run of its own on the same features. Agreement with the whole Stage 1: Spearman's
rank correlation of the difficulties, and the share of its selection that is chosen, too. Another
seed of the whole Stage 1 says how much two whole ones agree.

    python -m benchmarks.cheaper_stage1 [--config configs/easy_vqa.yaml] [--records N]
        [--set a.b=c ...] [--only NAME ...] [--folder runs/cheaper] [--features runs/easy_vqa]
        [--store cheaper_stage1]

``--records`` takes so many records of easy-vqa; ``--folder`` keeps the runs, and goes on with them;
``--features`` is a run with finished features of the same pool.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from benchmarks.store import store_result
from selfilter_ray.bundled.easy_vqa import packaged_dataset
from selfilter_ray.config import load_config
from selfilter_ray.distributed.runtime import connected
from selfilter_ray.pipeline import run
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.stage1.statistics import rank_correlation
from selfilter_ray.terminal import Terminal

FULL, FIFTH = "full", "pool_fraction 0.2"
SMALLER_VLM = [
    "train.vlm.vision={image_size: 32, patch_size: 16, hidden_size: 48, layers: 2, heads: 2}",
    "train.vlm.text={vocab_size: 400, hidden_size: 48, intermediate_size: 96, layers: 1, heads: 2}",
]
VARIANTS: dict[str, list[str]] = {
    FULL: [],
    "full, another seed": ["seed=1"],
    "pool_fraction 0.5": ["train.pool_fraction=0.5"],
    FIFTH: ["train.pool_fraction=0.2"],
    "smaller VLM": SMALLER_VLM,
    "stored losses": ["train.losses=stored"],
    # Of a VLM that has learned a little, as one that is taken from a hub has.
    "stored losses after pool_fraction 0.2": ["train.losses=stored"],
}


def main() -> None:
    arguments = _arguments()
    ray = load_config(arguments.config, ["run_dir=unused"]).ray
    with tempfile.TemporaryDirectory() as temporary, connected(ray):  # one Ray for all runs
        folder = Path(arguments.folder or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        overrides = [*arguments.set, *_pool(folder, arguments.records)]
        features = RunFolder(arguments.features or folder / "features")
        settings = [*overrides, f"run_dir={features.path}"]
        run(arguments.config, settings, ("read", "featurize"), terminal=Terminal())
        found = {}
        for name in [FULL, *(name for name in arguments.only if name != FULL)]:
            changes = [*overrides, *VARIANTS[name], *_learned(name, folder)]
            found[name] = _variant(arguments.config, changes, features, _place(folder, name))
    measured = {
        "records": len(found[FULL]["difficulty"]),
        "picks": len(found[FULL]["ids"]),
        "variants": [_against(found[FULL], variant) for variant in found.values()],
    }
    store_result("cheaper_stage1", measured, arguments.store)


def _pool(folder: Path, records: int | None) -> list[str]:
    """Overrides for part of easy-vqa, drawn once: ``data.limit`` would draw by the run's seed."""
    if records is None:
        return []
    source = packaged_dataset("easy-vqa/train")
    rows = json.loads(source.read_text(encoding="utf-8"))
    chosen = np.sort(np.random.default_rng(0).permutation(len(rows))[:records])
    file = folder / "pool.json"
    file.write_text(json.dumps([rows[row] for row in chosen]))
    return [f"data.inputs=[{file}]", f"data.image_root={source.parent}"]


def _place(folder: Path, name: str) -> RunFolder:
    return RunFolder(folder / name.replace(" ", "_").replace(",", ""))


def _learned(name: str, folder: Path) -> list[str]:
    """The VLM that an earlier variant left, for those that start from it."""
    if not name.endswith(f"after {FIFTH}"):
        return []
    vlm = _place(folder, FIFTH).stage1 / "vlm"
    return [f"train.vlm={{kind: pretrained, path: {vlm}}}"]


def _variant(
    config: str, overrides: list[str], features: RunFolder, folder: RunFolder
) -> dict[str, Any]:
    """One run on the shared features; what it found and how long Stage 1 took."""
    if not folder.path.exists():
        _share(features, folder)
    loaded = load_config(config, [*overrides, f"run_dir={folder.path}"])
    print(f"{folder.path.name}:", *overrides, flush=True)
    train = run(loaded, terminal=Terminal())["stages"]["train"]
    steps = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    scores = pq.read_table(folder.scores)
    return {
        "name": folder.path.name,
        "overrides": overrides,
        "seconds": train["seconds"],
        "seconds_in_steps": sum(step["seconds"] for step in steps),
        "seconds_of_the_pass": train.get("parts", {}).get("stored losses", 0.0),
        "trained_on": train["trained_on"],
        "steps": len(steps),
        "correlations": train["correlations"],
        "difficulty": scores["difficulty"].to_numpy(),
        "ids": set(folder.selected_ids.read_text().splitlines()),
    }


def _share(features: RunFolder, folder: RunFolder) -> None:
    """A folder in which read and featurize are finished, its files being those of another."""
    for part in (features.samples, features.features):
        shutil.copytree(part, folder.path / part.name, copy_function=os.link)
    shutil.copy(features.quarantine, folder.quarantine)
    manifest = features.manifest()
    stages = {stage: manifest["stages"][stage] for stage in ("read", "featurize")}
    folder.save_manifest(manifest | {"stages": stages})


def _against(full: dict[str, Any], variant: dict[str, Any]) -> dict[str, Any]:
    kept = variant.keys() - {"difficulty", "ids"}
    return {name: value for name, value in variant.items() if name in kept} | {
        "relative_seconds": variant["seconds"] / full["seconds"],
        "spearman": rank_correlation(full["difficulty"], variant["difficulty"]),
        "shared_picks": len(full["ids"] & variant["ids"]) / len(full["ids"]),
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="configs/easy_vqa.yaml")
    parser.add_argument("--records", type=int)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--folder")
    parser.add_argument("--features")
    parser.add_argument("--store", default="cheaper_stage1")
    return parser.parse_args()


if __name__ == "__main__":
    main()
