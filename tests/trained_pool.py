"""A tiny run that is read, featurized and scored, with held-out records: for the closed loop."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager

import numpy as np
from PIL import Image
from stage1_pool import TINY_VLM, write_features

from selfilter_ray.compare.trained.tuner import Tuner
from selfilter_ray.config import Config
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import table_of, write_samples
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn
from selfilter_ray.select.contract import pool_of

ROWS, HELD = 40, 12
COLOURS = {"red": (230, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 230)}
METHODS = ["random", {"method": "el2n", "label": "hard"}, "prototypicality"]


def make_config(folder, **train) -> Config:
    section = {"held_out": [str(folder / "held_out.json")], "budgets": [6, 0.5], "steps": 15}
    return Config.model_validate(
        {
            "run_dir": str(folder / "run"),
            "data": {"inputs": [str(folder / "pool.json")]},
            "train": {
                "vlm": TINY_VLM,
                "prompt": "plain",
                "epochs": 2,
                "batch_size": 4,
                "learning_rate": 1e-2,
                "bf16": False,
                "gradient_checkpointing": False,
                "trainable": {"vision_tower": True},
            },
            "compare": {"methods": METHODS, "seeds": [0, 1], "train": section | train},
        }
    )


def record(folder, name):
    colour = list(COLOURS)[sum(name.encode()) % 3]
    file = folder / f"{name}.png"
    Image.new("RGB", (16, 16), COLOURS[colour]).save(file)
    return {
        "id": name,
        "image": file.name,
        "source": f"s{sum(name.encode()) % 2}",
        "question_type": "color",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat colour?"},
            {"from": "gpt", "value": colour},
        ],
    }


def make_run(folder):
    """The run's folder and its pool, as a selection method sees it; held-out records beside it."""
    held = [record(folder, f"h{row:02d}") for row in range(HELD)]
    (folder / "held_out.json").write_text(json.dumps(held))
    (folder / "pool.json").write_text("[]")
    run = RunFolder(folder / "run")
    records = [record(folder, f"p{row:02d}") for row in range(ROWS)]
    samples = [sample(folder, one) for one in records]
    write_samples(run.samples, table_of(samples))
    random = np.random.default_rng(0)
    features_ND = random.normal(size=(ROWS, 5)).astype(np.float32)
    write_features(run.features, samples, features_ND)
    columns = {"pre_el2n": random.normal(size=ROWS)}
    sources = [one["source"] for one in records]
    return run, pool_of([one.id for one in samples], sources, features_ND, columns)


def sample(folder, one):
    asked, answered = (turn["value"] for turn in one["conversations"])
    turns = (Turn(USER, asked), Turn(ASSISTANT, answered))
    return Sample(one["id"], one["source"], turns, (str(folder / one["image"]),), "", "{}")


_TUNERS = {}


def tuned(config, places, work):
    """What a tuner that this process keeps gives for a cell."""
    key = config.model_dump_json(), places
    if key not in _TUNERS:
        _TUNERS[key] = Tuner(config, places)
    return _TUNERS[key](work)


@contextmanager
def another_process():
    """Runs ``tuned``: DeepSpeed keeps a handle on the first process group that it sees."""
    spawned = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, spawned) as process:
        yield lambda *arguments: process.submit(tuned, *arguments).result()
