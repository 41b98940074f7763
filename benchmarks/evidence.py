"""What the selection methods teach, on pools with known truth: ``compare --train``, stored.

For each pool: write it, featurize it, train Stage 1, measure, select by every method, tune the same
start model on every choice, and evaluate it on held-out records. The start model is a LLaVA of
half a million parameters, aligned on captions of other pictures. What is finished is not made
again: after a stop, the same command goes on.

    python -m benchmarks.evidence [POOL ...] [--set a.b=c ...] [--variant NAME] [--small]

``--set`` is laid over configs/evidence.yaml; the result is then stored under ``NAME`` beside the
pool's own, and its run folder starts as a copy of the pool's, so that what is the same is not made
again. ``--small`` takes minutes: one pool of 1,500 records, five methods, two seeds.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.evidence_model import write_language_model, write_tower
from benchmarks.store import RESULTS, new_folder, store_result
from selfilter_ray import atomic
from selfilter_ray.compare.trained.files import TrainedFolder
from selfilter_ray.known_truth.write import WrittenPool, write_pool

CONFIG = "configs/evidence.yaml"
ROOT = Path("runs/evidence")
POOLS = ("plain", "wrong-answers", "near-duplicates", "trivial", "long-answers")
ROWS, HELD_OUT, START = 4_000, 1_500, 28_000
TAUGHT = "tower.json"
TOWER_STEPS, ALIGN_STEPS, ALIGN_QUESTIONS = 6_000, 300, 100
SMALL = {
    "compare.methods": "[random, selfilter, selfilter_grouped, mllm_selector, el2n]",
    "compare.seeds": "[0, 1]",
    "compare.train.budgets": "[0.15]",
    "compare.train.leaders": "null",
    "compare.train.steps": "100",
    "train.epochs": "1",
}


def main() -> None:
    arguments = _arguments()
    names = arguments.pools or (POOLS if not arguments.small else ("wrong-answers",))
    for name in names:
        _compare(name, arguments)


def _compare(name: str, arguments: argparse.Namespace) -> None:
    root = ROOT / "small" if arguments.small else ROOT
    rows, held_out, start = (1_500, 400, 1_000) if arguments.small else (ROWS, HELD_OUT, START)
    pool = write_pool(name, root / "pools" / name, rows, 0, held_out, start)
    model = _start_model(pool, root / "start", arguments.small)
    settings = {
        "run_dir": str(root / name),
        "data.inputs": f"[{pool.pool}]",
        "train.vlm.path": str(model),
        "compare.train.held_out": f"[{pool.held_out}]",
        "compare.train.truth": str(pool.truth),
        **(SMALL if arguments.small else {}),
    }
    if arguments.variant:
        settings["run_dir"] = _copied(root / name, root / f"{name}-{arguments.variant}")
    settings |= dict(item.split("=", 1) for item in arguments.set)
    _selfilter("compare", "--train", settings, redo=bool(arguments.variant))
    run = Path(settings["run_dir"])
    result = TrainedFolder(run).read().to_json()
    manifest = _json(run / "manifest.json")
    stored = {
        "pool": pool.description,
        "start": {
            "recipe": _json(root / "start" / "recipe.json"),
            "tower": _json(root / "start" / TAUGHT),
        },
        "config": manifest["config"],
        "stages": {stage: record["seconds"] for stage, record in manifest["stages"].items()},
        "trained": result,
    }
    if not arguments.small:
        (RESULTS / "evidence").mkdir(exist_ok=True)
        kept = f"evidence/{run.name}"
        store_result("evidence", stored, kept)


def _start_model(pool: WrittenPool, folder: Path, small: bool) -> Path:
    """The model that all tuning starts from, put together as LLaVA is: see docs/evidence.md."""
    tower, words = folder / "tower", folder / "language_model"
    tower_steps, align_steps = (300, 100) if small else (TOWER_STEPS, ALIGN_STEPS)
    recipe = {
        "start_rows": pool.description["start_rows"],
        "tower_steps": tower_steps,
        "align_steps": align_steps,
        "align_questions": ALIGN_QUESTIONS,
    }
    _check_recipe(folder, recipe)
    if not (tower.exists() and (folder / TAUGHT).exists()):
        atomic.write_json(folder / TAUGHT, write_tower(pool.captions, tower, tower_steps))
    if not words.exists():
        write_language_model(pool.start, words)
    inputs = folder.parent / "aligned_on.json"  # the same for every pool
    if not inputs.exists():
        records = json.loads(pool.start.read_text())
        warm = np.random.default_rng(0).permutation(len(records))[:ALIGN_QUESTIONS]
        chosen = json.loads(pool.captions.read_text()) + [records[row] for row in warm.tolist()]
        for record in chosen:
            record["image"] = str(pool.folder.relative_to(inputs.parent) / record["image"])
        atomic.write_json(inputs, chosen)
    settings = {
        "run_dir": str(folder),
        "data.inputs": f"[{inputs}]",
        "train.vlm": f"{{kind: assembled, vision: {tower}, language_model: {words}}}",
        "tune.steps": str(align_steps),
        "tune.batch_size": "64",
    }
    model = folder / "tuned" / "vlm"
    _selfilter("featurize", None, settings)
    _selfilter("train", ["--objective", "plain", "--on", "pool"], settings)
    return model


def _json(file: Path) -> Any:
    return json.loads(file.read_text())


def _check_recipe(folder: Path, recipe: dict[str, int]) -> None:
    """Runs that started from another model would be mixed with those to come."""
    file = folder / "recipe.json"
    if not file.exists():
        atomic.write_json(file, recipe)
    elif _json(file) != recipe:
        sys.exit(f"{folder} was made in another way: remove {folder.parent}, and run again.")


def _copied(source: Path, target: Path) -> str:
    """A run folder that begins with what another one has."""
    if not target.exists():
        with new_folder(target) as part:
            shutil.copytree(source, part, symlinks=True, dirs_exist_ok=True)
    return str(target)


def _selfilter(
    command: str, option: str | list[str] | None, settings: dict[str, str], redo: bool = False
) -> None:
    options = [option] if isinstance(option, str) else list(option or [])
    for name, value in settings.items():
        options += ["--set", f"{name}={value}"]
    tool = [sys.executable, "-m", "selfilter_ray.cli", command, CONFIG, *options]
    subprocess.run([*tool, *(["--redo"] if redo else [])], check=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evidence")
    parser.add_argument("pools", nargs="*", choices=[*POOLS, []], metavar="POOL")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--variant")
    parser.add_argument("--small", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
