"""A small pool on disk with an untrained VLM, for the tests that run Stage 1's loop."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from transformers import LlavaForConditionalGeneration

from selfilter_ray.config import Config
from selfilter_ray.features.extract import fixed_size_list
from selfilter_ray.features.shards import Shard, ShardRecord, finish_shard
from selfilter_ray.samples.files import table_of, write_samples
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn
from selfilter_ray.stage1.score_net import load_score_net
from selfilter_ray.stage1.trainer import Paths, Trainer
from selfilter_ray.stage1.vlm import prepare_vlm

ROWS, TEXT_ONLY, TWO_PICTURES = 10, 3, 5
TINY_VLM = {
    "kind": "scratch",
    "vision": {"image_size": 16, "patch_size": 8, "hidden_size": 16, "layers": 2, "heads": 2},
    "text": {
        "vocab_size": 300,
        "hidden_size": 16,
        "intermediate_size": 32,
        "layers": 2,
        "heads": 2,
    },
}
TRAIN = {
    "vlm": TINY_VLM,
    "prompt": "plain",
    "epochs": 4,
    "batch_size": 4,
    "learning_rate": 1e-2,
    "bf16": False,
    "gradient_checkpointing": False,
    "loggers": [],
}

JUDGES = [
    {"base_url": "http://unused/v1", "model": "unused", "dimension": dimension}
    for dimension in ("quality", "accuracy")
]


def make_config(**train) -> Config:
    return Config.model_validate(
        {
            "run_dir": "unused",
            "data": {"inputs": ["unused"]},
            "ratings": {"judges": JUDGES},
            "train": TRAIN | train,
        }
    )


@dataclass(frozen=True)
class Pool:
    """A small pool on disk and the untrained VLM."""

    folder: Path
    model: str

    def trainer(
        self,
        output: Path,
        features: str = "features",
        ratings: Path | None = None,
        rows: Path | None = None,
        **train,
    ) -> Trainer:
        samples = self.folder / "samples"
        paths = Paths(samples, self.folder / features, output, self.model, ratings, rows)
        trainer = Trainer(make_config(**train), paths, torch.device("cpu"))
        trainer.start_log()
        return trainer

    def initial(self) -> dict[str, torch.Tensor]:
        return LlavaForConditionalGeneration.from_pretrained(self.model).state_dict()


def make_pool(folder: Path) -> Pool:
    """Ten samples, one without a picture and one with two; ``poisoned`` features hold a NaN."""
    samples = [make_sample(folder, row) for row in range(ROWS)]
    write_samples(folder / "samples", table_of(samples))
    features_ND = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)
    write_features(folder / "features", samples, features_ND)
    features_ND[TEXT_ONLY, 1] = np.nan
    write_features(folder / "poisoned", samples, features_ND)
    texts = [turn.text for sample in samples for turn in sample.turns]
    model = prepare_vlm(make_config().train.vlm, folder / "vlm", texts, seed=0)
    return Pool(folder, model)


def make_sample(folder, row):
    pictures = {TEXT_ONLY: 0, TWO_PICTURES: 2}.get(row, 1)
    names = tuple(str(folder / f"{row}-{number}.png") for number in range(pictures))
    for number, name in enumerate(names):
        Image.new("RGB", (24, 20), (25 * row, 255 - 25 * row, 99 * number)).save(name)
    question = Turn(USER, "<image>\n" * pictures + "What is it?")
    answer = Turn(ASSISTANT, f"Number {row} is {'very ' * row}red.")
    return Sample(f"{row:02d}", "", (question, answer), names, "", "")


def write_features(folder, samples, features_ND):
    rows = len(samples)
    table = pa.table(
        {
            "id": [sample.id for sample in samples],
            "locator": [""] * rows,
            "image_embedding": fixed_size_list(features_ND[:, :3]),
            "text_embedding": fixed_size_list(features_ND[:, 3:]),
            "scores": pa.StructArray.from_arrays([pa.nulls(rows, pa.float32())], ["clip_score"]),
            "status": ["ok"] * rows,
            "detail": [""] * rows,
        }
    )
    finish_shard(folder, Shard(0, 0, rows), table, ShardRecord("key", rows, 0.0, "model"))


def never(metrics):
    """No checkpoint is due in these runs."""
    raise AssertionError("a checkpoint was asked for")


def logged(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def score_weights(output):
    return load_score_net(output / "score_net.safetensors")[0].linear.weight
