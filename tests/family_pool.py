"""A few samples that try a family: no picture, one, two; one round and several; any size.

Imports little: processes on ranks start by importing this.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tiny_vlms import save_tiny

from selfilter_ray.config import LimitsConfig, TrainConfig
from selfilter_ray.features.shards import Features
from selfilter_ray.samples.files import table_of
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn
from selfilter_ray.stage1.data import Stage1Data
from selfilter_ray.stage1.families.load import load_model
from selfilter_ray.stage1.model import Batch, Stage1Model
from selfilter_ray.stage1.score_net import ScoreNet

SIZES = {"wide": (40, 24), "tall": (30, 90), "large": (70, 66)}
SAMPLES: dict[str, list[tuple[str, str]]] = {
    "0-text": [("How many birds are there?", "There are two birds.")],
    "1-one": [("<image>\nWhat is in the picture?", "A red circle.")],
    "2-two": [
        ("<image>\nWhat is in the first image?", "A blue box."),
        ("<image>\nAnd in the second?", "It is a green table, and it is small."),
    ],
    "3-rounds": [
        ("<image>\nWhat is left?", "One bird."),
        ("And right?", "The red box and the second bird."),
        ("Say it again.", "Yes: one bird is left, the red box is right."),
    ],
    "4-text": [("What is the second?", "The first is above, the second below."), ("And?", "No.")],
}
PICTURES: dict[str, tuple[str, ...]] = {
    "1-one": ("wide",),
    "2-two": ("tall", "wide"),
    "3-rounds": ("large",),
}
TEXT, ONE, TWO, ROUNDS, MORE_TEXT = range(5)
TRAIN = {
    "vlm": {"kind": "pretrained", "path": "unused"},
    "batch_size": 4,
    "learning_rate": 1e-2,
    "bf16": False,
    "gradient_checkpointing": False,
    "loss_reduction": "mean",
}


def turns_of(name: str) -> tuple[Turn, ...]:
    return tuple(
        Turn(role, text)
        for question, answer in SAMPLES[name]
        for role, text in ((USER, question), (ASSISTANT, answer))
    )


def images_of(name: str, folder: Path) -> list[Image.Image]:
    return [Image.open(folder / f"{kind}.png") for kind in PICTURES.get(name, ())]


def write_pictures(folder: Path) -> None:
    """Noise, so that every patch of a picture differs."""
    random = np.random.default_rng(0)
    for kind, (width, height) in SIZES.items():
        pixels = random.integers(0, 256, (height, width, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{kind}.png")


@dataclass(frozen=True)
class TinyStage1:
    """One family's folder, its data, and a fresh model whenever one is wanted."""

    name: str
    folder: Path
    data: Stage1Data

    def vlm(self) -> Any:
        return load_model(str(self.folder), torch.float32)

    def model(self, **train: Any) -> Stage1Model:
        torch.manual_seed(0)
        config = TrainConfig.model_validate(TRAIN | train)
        return Stage1Model(self.vlm(), ScoreNet(3), config)

    def batch(self, *rows: int) -> Batch:
        return self.data.collate([self.data[row] for row in rows])


def tiny_stage1(name: str, pictures: Path, folder: Path) -> TinyStage1:
    """Build a family's tiny model and its data over the samples above."""
    return opened(name, pictures, save_tiny(name, folder))


def opened(name: str, pictures: Path, folder: Path) -> TinyStage1:
    """As ``tiny_stage1``, of a folder that it wrote."""
    samples = [
        Sample(
            id,
            "",
            turns_of(id),
            tuple(str(pictures / f"{kind}.png") for kind in PICTURES.get(id, ())),
            "",
            "",
        )
        for id in SAMPLES
    ]
    features = Features(
        np.array(list(SAMPLES), dtype=object),
        np.random.default_rng(1).normal(size=(len(SAMPLES), 3)).astype(np.float32),
        np.zeros(len(SAMPLES), np.float32),
    )
    config = TrainConfig.model_validate(TRAIN)
    data = Stage1Data(table_of(samples), features, str(folder), config, LimitsConfig())
    return TinyStage1(name, folder, data)
