"""A few samples of every kind and a very small VLM, for the tests of the scoring pass."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
from PIL import Image

from selfilter_ray.config import Config, LimitsConfig, TrainConfig
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import ASSISTANT, SYSTEM, USER, Sample, Turn
from selfilter_ray.stage1.vlm import prepare_vlm

VOCABULARY = 300
TRAIN = {
    "vlm": {
        "kind": "scratch",
        "vision": {"image_size": 16, "patch_size": 8, "hidden_size": 16, "layers": 2, "heads": 2},
        "text": {
            "vocab_size": VOCABULARY,
            "hidden_size": 16,
            "intermediate_size": 32,
            "layers": 2,
            "heads": 2,
        },
    },
    "prompt": "plain",
    "epochs": 1,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "bf16": False,
    "gradient_checkpointing": False,
}
LIMITS = LimitsConfig()


class MeasuredPool(NamedTuple):
    """Where they are."""

    folder: Path
    model: str
    samples: list[Sample]

    def table(self, *ids: str) -> pa.Table:
        """Those samples, or all."""
        chosen = {sample.id: sample for sample in self.samples}
        return table_of([chosen[id] for id in ids] if ids else self.samples)


def make_config(**train) -> Config:
    data = {"inputs": ["unused"]}
    return Config.model_validate({"run_dir": "unused", "data": data, "train": TRAIN | train})


def make_pool(folder: Path, seed: int = 0) -> MeasuredPool:
    """The samples' ids are their order."""
    turns = [
        ("a", ["<image>\nWhat is it?", "A red square."], 1),
        ("b", ["What is it?", "No picture, no answer."], 0),
        ("c", ["<image>\n<image>\nWhich is larger?", "The first one is larger."], 2),
        ("d", ["<image>\nWhat is it?", "A dot.", "Of what colour?", "Yellow, I am sure."], 1),
        ("e", ["<image>\nWhere?", "In the very first row, " * 5], 1),
        ("f", ["Look at it.\n<image>", "Yes."], 1),
        ("g", ["Sing!", "La.", "Again!", "La la."], 0),
        ("h", ["<image>\nWhat is it?", "Blue."], 1),
    ]
    samples = [_sample(folder, id, texts, pictures) for id, texts, pictures in turns]
    system = Turn(SYSTEM, "Be brief.")
    samples[-1] = Sample("h", "", (system, *samples[-1].turns), samples[-1].images, "", "")
    texts = [turn.text for sample in samples for turn in sample.turns]
    model = prepare_vlm(TrainConfig(**TRAIN).vlm, folder / "vlm", texts, seed)
    return MeasuredPool(folder, model, samples)


def _sample(folder: Path, id: str, texts: list[str], pictures: int) -> Sample:
    folder.mkdir(parents=True, exist_ok=True)
    names = tuple(str(folder / f"{id}-{number}.png") for number in range(pictures))
    for number, name in enumerate(names):
        Image.new("RGB", (24, 20), (30 * (ord(id) - 97), 255, 99 * number)).save(name)
    turns = tuple(Turn((USER, ASSISTANT)[n % 2], text) for n, text in enumerate(texts))
    return Sample(id, "", turns, names, f"pool.json#{id}", "")
