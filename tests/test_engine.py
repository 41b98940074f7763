"""The example DeepSpeed files are accepted, and train; offload needs a compiler."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError
from world_sizes import one_step_each

from selfilter_ray.config import TrainConfig
from selfilter_ray.stage1.engine import deepspeed_config

FILES = sorted(Path("configs/deepspeed").glob("*.json"))


def test_all_example_files_are_there():
    names = {file.stem for file in FILES}
    assert names == {"zero1", "zero2", "zero3", "zero2_offload", "zero3_offload"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_file_is_as_good_as_the_mapping_in_it(file):
    config = TrainConfig(deepspeed=str(file))
    assert config == TrainConfig(deepspeed=json.loads(file.read_text()))
    settings = deepspeed_config(config)
    assert settings["zero_optimization"]["stage"] == int(file.stem[4])
    assert settings["gradient_clipping"] == 1.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is not JSON"),
        ("[]", "must hold a mapping"),
        ('{"optimizer": {"type": "Adam"}}', "made from other settings"),
        ('{"fp16": {"enabled": true}}', "use bf16"),
        ('{"bf16": {"enabled": false}}', "made from train.bf16"),
        ('{"zero_optimization": {"offload_param": {"device": "nvme"}}}', "use cpu"),
    ],
)
def test_a_file_that_cannot_be_is_refused_with_a_reason(content, message, tmp_path):
    file = tmp_path / "deepspeed.json"
    file.write_text(content)
    with pytest.raises(ValidationError, match=message):
        TrainConfig(deepspeed=str(file))


def test_what_a_file_leaves_to_others_is_left_out(tmp_path):
    file = tmp_path / "deepspeed.json"
    tree = {
        "train_batch_size": "auto",
        "optimizer": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {"stage": 3, "reduce_bucket_size": "auto"},
    }
    file.write_text(json.dumps(tree))
    config = TrainConfig(deepspeed=str(file))
    assert config.deepspeed == {"bf16": {}, "zero_optimization": {"stage": 3}}


def test_elastic_workers_keep_the_step_of_the_most():
    elastic = TrainConfig.model_validate({"workers": [1, 4], "gradient_accumulation": 2})
    assert (elastic.workers, elastic.min_workers) == (4, 1)
    fixed = TrainConfig(workers=4, gradient_accumulation=2)
    assert elastic.result_fields() == fixed.result_fields()
    assert [deepspeed_config(elastic, n)["gradient_accumulation_steps"] for n in (1, 2, 3, 4)] == [
        8,
        4,
        4,
        2,
    ]
    with pytest.raises(ValidationError, match="min <= max"):
        TrainConfig.model_validate({"workers": [5, 4]})


def test_every_example_file_trains_and_resumes(tmp_path):
    if shutil.which("g++") is None:
        pytest.skip("offload to the CPU compiles an operator: needs g++")
    distances = one_step_each(tmp_path, {file.stem: str(file) for file in FILES})
    assert distances.keys() == {file.stem for file in FILES}
    assert max(distances.values()) == 0.0
