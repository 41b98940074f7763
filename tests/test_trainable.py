"""Which parameters learn, beside what test_families.py shows of every family."""

from __future__ import annotations

import pytest
import torch
from measured_pool import TRAIN, make_config
from pydantic import ValidationError
from transformers import LlamaConfig

from selfilter_ray.config import PretrainedVlm, TrainConfig
from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.stage1.families.contract import Parts
from selfilter_ray.stage1.families.llava import Llava
from selfilter_ray.stage1.families.load import load_model
from selfilter_ray.stage1.trainable import lora_targets, with_trainable_parts
from selfilter_ray.stage1.vlm import prepare_vlm

ROW = [
    {"language_model": language, "projector": projector, "vision_tower": vision}
    for language in ("auto", "frozen")
    for projector in (True, False)
    for vision in (True, False)
]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return prepare_vlm(TrainConfig(**TRAIN).vlm, tmp_path_factory.mktemp("vlm"), ["A text."], 0)


def load(model):
    return load_model(model, torch.float32)


@pytest.mark.parametrize("chosen", ROW, ids=lambda row: "-".join(map(str, row.values())))
def test_each_part_learns_or_not_as_the_config_says(model, chosen):
    vlm = with_trainable_parts(load(model), make_config(trainable=chosen).train)
    wanted = {
        "model.language_model.": chosen["language_model"] == "auto",
        "lm_head.": chosen["language_model"] == "auto",
        "model.multi_modal_projector.": chosen["projector"],
        "model.vision_tower.": chosen["vision_tower"],
    }
    for name, value in vlm.named_parameters():
        (learns,) = (learns for part, learns in wanted.items() if name.startswith(part))
        assert value.requires_grad == learns, name


def test_the_identity_of_a_one_layer_projector_never_learns(model):
    vlm = load(model)
    vlm.config.projector_hidden_act = "linear"
    vlm = with_trainable_parts(vlm, make_config().train)
    learning = {name for name, value in vlm.named_parameters() if value.requires_grad}
    assert not any("linear_2" in name for name in learning)
    assert any("linear_1" in name for name in learning)


def test_a_model_whose_parts_are_elsewhere_is_refused(model, monkeypatch):
    parts = Parts("model.language_model", "lm_head", ("model.connector",))
    monkeypatch.setattr(Llava, "parts", classmethod(lambda cls, model: parts))
    with pytest.raises(ConfigError, match=r"has no model\.connector"):
        with_trainable_parts(load(model), make_config().train)


def test_adapters_lie_on_every_linear_layer_of_the_language_model_and_no_other(model):
    vlm = load(model)
    linear = {
        name
        for name, module in vlm.named_modules()
        if isinstance(module, torch.nn.Linear) and name.startswith("model.language_model.")
    }
    assert set(lora_targets(vlm, Llava.parts(vlm))) == linear
    with pytest.raises(ConfigError, match="no layer of"):
        lora_targets(vlm, Parts("model.multi_modal_projector", "lm_head"))


def test_four_bits_want_adapters_and_a_gpu(model):
    with pytest.raises(ValidationError, match=r"needs trainable\.language_model: lora"):
        make_config(lora={"quantize": "nf4"})
    assert make_config(lora={"quantize": "nf4"}, trainable={"language_model": "lora"})
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="needs a GPU"):
            load_model(model, torch.float32, "nf4")


def test_a_model_that_lacks_weights_is_not_trained_on_random_ones(model, tmp_path):
    vlm = load(model)
    state = {name: value for name, value in vlm.state_dict().items() if "linear_1.bias" not in name}
    vlm.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(ArtifactError, match="lacks 1 weights"):
        load(tmp_path)


def test_what_no_rank_could_load_is_refused_before_training(tmp_path):
    with pytest.raises(ConfigError, match="cannot be loaded"):
        prepare_vlm(PretrainedVlm(path=str(tmp_path / "none")), tmp_path, [], 0)
    LlamaConfig().save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="models of type llama are not supported"):
        prepare_vlm(PretrainedVlm(path=str(tmp_path)), tmp_path, [], 0)


def test_a_model_that_is_there_is_taken_where_it_is(model, tmp_path):
    assert prepare_vlm(PretrainedVlm(path=model), tmp_path / "unused", [], 0) == model
    assert not (tmp_path / "unused").exists()
