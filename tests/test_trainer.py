"""Stage 1's loop on one process: what learns, what is left behind, and going on after a stop."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from PIL import Image
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration

from selfilter_ray.config import Config
from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.features.extract import fixed_size_list
from selfilter_ray.features.shards import Shard, ShardRecord, finish_shard
from selfilter_ray.samples.files import table_of, write_samples
from selfilter_ray.samples.record import ASSISTANT, USER, Sample, Turn
from selfilter_ray.stage1.engine import deepspeed_config, prepare_accelerator
from selfilter_ray.stage1.rows import write_rows
from selfilter_ray.stage1.score_net import ScoreNet, load_score_net
from selfilter_ray.stage1.trainer import NotFiniteError, Paths, Trainer
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


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Everything runs in one process group: DeepSpeed keeps a handle on the first it sees."""
    folder = tmp_path_factory.mktemp("pool")
    samples = [make_sample(folder, row) for row in range(ROWS)]
    write_samples(folder / "samples", table_of(samples))
    features_ND = np.random.default_rng(0).normal(size=(ROWS, 5)).astype(np.float32)
    write_features(folder / "features", samples, features_ND)
    features_ND[TEXT_ONLY, 1] = np.nan
    write_features(folder / "poisoned", samples, features_ND)
    texts = [turn.text for sample in samples for turn in sample.turns]
    model = prepare_vlm(make_config().train.vlm, folder / "vlm", texts, seed=0)
    prepare_accelerator()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # as Ray Train sets it
        store = dist.FileStore(str(folder / "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        yield Pool(folder, model)
        dist.destroy_process_group()
    torch.set_num_threads(threads)


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


def test_the_vlm_learns_and_the_score_net_with_it(pool, tmp_path):
    summary = pool.trainer(tmp_path, epochs=25).run(never)
    metrics = logged(tmp_path)
    first, last = metrics[:3], metrics[-3:]
    assert summary["steps"] == len(metrics) == 75
    assert [line["step"] for line in metrics] == list(range(1, 76))
    assert sum(m["plain_loss"] for m in last) < 0.6 * sum(m["plain_loss"] for m in first)
    assert first[0]["score_std"] == 0.0
    assert last[0]["score_std"] > 0.01
    assert [m["samples"] for m in first] == [4, 4, 2]
    assert metrics[-1]["epoch"] == 25.0


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_finished_run_leaves_whole_outputs(zero_stage, pool, tmp_path):
    trainer = pool.trainer(tmp_path, epochs=2, loss_reduction="mean", zero_stage=zero_stage)
    trainer.run(never)
    net, metadata = load_score_net(tmp_path / "score_net.safetensors")
    trained = trainer.engine.module
    assert net.linear.weight.shape == (1, 5)
    assert torch.equal(net.linear.weight, trained.score_net.linear.weight)
    assert metadata == {
        "loss_reduction": "mean",
        "weight_scope": "device",
        "inputs": "clip",
        "scaling": None,
    }

    reloaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "vlm").state_dict()
    weights = trained.vlm.state_dict()
    assert reloaded.keys() == weights.keys()
    assert all(torch.equal(reloaded[name], weights[name]) for name in weights)
    assert (tmp_path / "vlm" / "tokenizer.json").exists()
    assert (tmp_path / "vlm" / "preprocessor_config.json").exists()

    statistics = pq.read_table(tmp_path / "sample_statistics.parquet").to_pydict()
    assert statistics["id"] == [f"{row:02d}" for row in range(ROWS)]
    assert min(statistics["answer_tokens"]) > 5
    assert all(math.isfinite(loss) for loss in statistics["train_loss"])


def test_save_vlm_off_leaves_the_score_net_alone(pool, tmp_path):
    pool.trainer(tmp_path, epochs=1, save_vlm=False).run(never)
    assert (tmp_path / "score_net.safetensors").exists()
    assert not (tmp_path / "vlm").exists()


PARTS = {
    "language model": "model.language_model.",
    "head": "lm_head.",
    "projector": "model.multi_modal_projector.",
    "vision tower": "model.vision_tower.",
}


@pytest.mark.parametrize(
    ("trainable", "learning"),
    [
        ({}, {"language model", "head", "projector"}),
        ({"projector": False}, {"language model", "head"}),
        ({"vision_tower": True}, {"language model", "head", "projector", "vision tower"}),
        ({"language_model": "frozen"}, {"projector"}),
        (
            {"language_model": "frozen", "projector": False, "vision_tower": True},
            {"vision tower"},
        ),
        ({"language_model": "frozen", "projector": False}, set()),
    ],
)
def test_only_the_parts_that_are_to_learn_change(trainable, learning, pool, tmp_path):
    trainer = pool.trainer(tmp_path, epochs=1, trainable=trainable)
    trainer.run(never)
    before, after = pool.initial(), trainer.engine.module.vlm.state_dict()
    changed = {
        part
        for part, prefix in PARTS.items()
        if any(not torch.equal(before[name], after[name]) for name in before if prefix in name)
    }
    assert changed == learning
    assert score_weights(tmp_path).abs().max() > 0


def test_lora_changes_adapters_and_projector_and_both_can_be_loaded_again(pool, tmp_path):
    from peft import PeftModel

    trainer = pool.trainer(tmp_path, epochs=2, trainable={"language_model": "lora"})
    trainer.run(never)
    before, trained = pool.initial(), trainer.engine.module.vlm
    for name, value in trained.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if plain in before:
            assert torch.equal(value, before[plain]) != ("multi_modal_projector" in name), name
        else:
            assert "lora_" in name
            assert "language_model" in name
            assert value.any()

    base = LlavaForConditionalGeneration.from_pretrained(pool.model)
    reloaded = PeftModel.from_pretrained(base, tmp_path / "vlm")
    beside = load_file(tmp_path / "vlm" / "beside_adapters.safetensors")
    unknown = reloaded.load_state_dict(beside, strict=False).unexpected_keys
    assert beside
    assert not unknown
    weights = reloaded.state_dict()
    for name, value in trained.state_dict().items():
        assert torch.equal(weights[name], value), name


RESUMED = {
    "plain": {},
    "accumulation": {"gradient_accumulation": 2},
    "zero 0": {"zero_stage": 0},
    "zero 1": {"zero_stage": 1},
    "zero 3": {"zero_stage": 3},
    "bf16": {"bf16": True, "gradient_checkpointing": True},
    "dropout": {"trainable": {"language_model": "lora"}, "lora": {"dropout": 0.4}},
    "loader": {"loader_workers": 1},
}


@pytest.mark.parametrize("settings", RESUMED.values(), ids=RESUMED)
def test_a_run_that_was_stopped_ends_as_one_that_was_not(settings, pool, tmp_path):
    whole, checkpoint, rest = (tmp_path / name for name in ("whole", "checkpoint", "rest"))
    saved = []
    trainer = pool.trainer(whole, checkpoint_steps=4, **settings)

    def save(metrics):
        if not saved:
            trainer.save_checkpoint(checkpoint)
        saved.append(metrics["step"])

    trainer.run(save)
    steps = len(logged(whole))
    assert saved == list(range(4, steps, 4))

    resumed = pool.trainer(rest, checkpoint_steps=100, **settings)
    shutil.copy(whole / "metrics.jsonl", rest)  # it had gone on after the checkpoint
    resumed.load_checkpoint(checkpoint)
    assert len(logged(rest)) == 4
    resumed.run(never)

    kept = ("step", "loss", "plain_loss", "score_std", "gradient_norm", "learning_rate", "tokens")
    assert [[m[key] for key in kept] for m in logged(rest)] == [
        [m[key] for key in kept] for m in logged(whole)
    ]
    assert torch.equal(score_weights(rest), score_weights(whole))
    for file in (whole / "vlm").glob("*.safetensors"):
        weights, again = load_file(file), load_file(rest / "vlm" / file.name)
        assert all(torch.equal(weights[name], again[name]) for name in weights)
    statistics = "sample_statistics.parquet"
    assert pq.read_table(rest / statistics).equals(pq.read_table(whole / statistics))


def test_another_seed_ends_elsewhere(pool, tmp_path):
    for seed in (0, 1):
        paths = Paths(
            pool.folder / "samples", pool.folder / "features", tmp_path / str(seed), pool.model
        )
        config = make_config(epochs=1).model_copy(update={"seed": seed})
        trainer = Trainer(config, paths, torch.device("cpu"))
        trainer.start_log()
        trainer.run(never)
    assert not torch.equal(score_weights(tmp_path / "0"), score_weights(tmp_path / "1"))


def test_a_checkpoint_of_another_number_of_workers_is_refused(pool, tmp_path):
    trainer = pool.trainer(tmp_path / "out")
    trainer.save_checkpoint(tmp_path / "checkpoint")
    file = tmp_path / "checkpoint" / "rank-0.pt"
    torch.save(torch.load(file) | {"ranks": 2}, file)
    with pytest.raises(ConfigError, match="not written by 1 workers"):
        trainer.load_checkpoint(tmp_path / "checkpoint")
    file.unlink()
    with pytest.raises(ConfigError, match=r"train\.workers"):
        trainer.load_checkpoint(tmp_path / "checkpoint")


@pytest.mark.parametrize("settings", [{"features": "poisoned"}, {"learning_rate": 1e25}])
def test_a_loss_that_is_no_number_stops_the_run_before_it_leaves_anything(settings, pool, tmp_path):
    trainer = pool.trainer(tmp_path, epochs=10, gradient_clipping=0.0, **settings)
    with pytest.raises(NotFiniteError, match=r"train\.learning_rate"):
        trainer.run(never)
    assert not (tmp_path / "score_net.safetensors").exists()
    assert all(math.isfinite(line["loss"]) for line in logged(tmp_path))


BF16 = {"bf16": True, "gradient_checkpointing": True, "gradient_accumulation": 2}


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_bfloat16_keeps_the_score_net_in_float32(zero_stage, pool, tmp_path):
    summary = pool.trainer(tmp_path, zero_stage=zero_stage, **BF16).run(never)
    weights = score_weights(tmp_path)
    assert summary["steps"] == 6
    assert weights.dtype == torch.float32
    assert not torch.equal(weights, weights.bfloat16().float())
    reloaded = LlavaForConditionalGeneration.from_pretrained(tmp_path / "vlm", dtype="auto")
    assert reloaded.dtype == torch.bfloat16


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_adapters_learn_in_bfloat16(zero_stage, pool, tmp_path):
    settings = {"trainable": {"language_model": "lora"}, "zero_stage": zero_stage, **BF16}
    pool.trainer(tmp_path, **settings).run(never)
    adapters = load_file(tmp_path / "vlm" / "adapter_model.safetensors")
    assert adapters
    assert all(value.any() for value in adapters.values())


def test_the_other_samples_of_a_batch_do_not_change_a_sample_s_loss(pool, tmp_path):
    trainer = pool.trainer(tmp_path)
    model, data = trainer.engine.module, trainer.data
    rows = [7, TEXT_ONLY, 0, TWO_PICTURES, 9]
    with torch.no_grad():
        together = model(data.collate([data[row] for row in rows]))
        alone = [model(data.collate([data[row]])) for row in rows]
    assert together.tokens_B.tolist() == [single.tokens_B.item() for single in alone]
    for place, single in enumerate(alone):
        assert together.loss_sum_B[place].item() == pytest.approx(
            single.loss_sum_B.item(), rel=1e-4
        )


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "trainable", [{}, {"vision_tower": True}, {"language_model": "lora", "vision_tower": True}]
)
def test_a_batch_without_pictures_runs_the_modules_in_the_order_of_one_with(
    trainable, checkpointing, pool, tmp_path
):
    settings = {"trainable": trainable, "gradient_checkpointing": checkpointing, "zero_stage": 0}
    trainer = pool.trainer(tmp_path, **settings)
    model, data = trainer.engine.module, trainer.data
    used, learnt = [], []
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda module, _, name=name: used.append(name))
    for name, value in model.named_parameters():
        if value.requires_grad:
            value.register_post_accumulate_grad_hook(lambda _, name=name: learnt.append(name))
    orders = []
    for row in (0, TEXT_ONLY):
        model(data.collate([data[row]])).loss.backward()
        orders.append((list(used), list(learnt)))
        used.clear()
        learnt.clear()
    assert orders[0] == orders[1]
    assert "score_net.linear.weight" in orders[0][1]


def test_a_picture_changes_its_sample_s_loss(pool, tmp_path):
    trainer = pool.trainer(tmp_path)
    batch = trainer.data.collate([trainer.data[0]])
    with torch.no_grad():
        seen = trainer.engine.module(batch).loss_sum_B.item()
        other = batch._replace(pixels_PCHW=torch.flip(batch.pixels_PCHW, [1]))
        assert trainer.engine.module(other).loss_sum_B.item() != seen


def test_every_zero_stage_learns_the_same(pool, tmp_path):
    learned = {}
    for stage in (3, 0, 1, 2):
        output = tmp_path / str(stage)
        pool.trainer(output, zero_stage=stage, epochs=3).run(never)
        vlm = load_file(output / "vlm" / "model.safetensors")
        learned[stage] = {"score net": score_weights(output), **vlm}
    for stage in (1, 2, 3):
        assert learned[stage].keys() == learned[0].keys()
        for name, expected in learned[0].items():
            slack = 1e-4 * expected.abs().max().item()
            torch.testing.assert_close(learned[stage][name], expected, rtol=1e-3, atol=slack)


def test_learning_rate_warms_up_and_falls_along_a_cosine(pool, tmp_path):
    pool.trainer(tmp_path, warmup_ratio=0.25, learning_rate=0.01).run(never)
    warmup = [0.0025, 0.005, 0.0075]
    cosine = [0.005 * (1 + math.cos(math.pi * step / 9)) for step in range(9)]
    assert [m["learning_rate"] for m in logged(tmp_path)] == pytest.approx(warmup + cosine)


def test_gradient_accumulation_is_one_step_with_the_mean_of_its_batches(pool, tmp_path):
    settings = {"epochs": 1, "gradient_clipping": 0.0, "warmup_ratio": 0.0}
    pool.trainer(tmp_path / "two", batch_size=5, gradient_accumulation=2, **settings).run(never)
    metrics = logged(tmp_path / "two")
    pool.trainer(tmp_path / "one", batch_size=5, learning_rate=1e-30, **settings).run(never)
    singles = logged(tmp_path / "one")
    assert len(metrics) == 1
    assert metrics[0]["loss"] == pytest.approx(sum(m["loss"] for m in singles) / 2, rel=1e-5)
    assert metrics[0]["samples"] == ROWS


def test_deepspeed_settings_are_laid_over_those_of_the_config():
    config = make_config(
        zero_stage=1, deepspeed={"zero_optimization": {"overlap_comm": True}, "prescale": 1}
    )
    settings = deepspeed_config(config.train)
    assert settings["zero_optimization"] == {"stage": 1, "overlap_comm": True}
    assert settings["prescale"] == 1
    assert settings["train_micro_batch_size_per_gpu"] == 4


# Part of the pool, and other objectives


SOME = np.array(["08", "01", "05", "03", "02"], dtype=object)  # any order


@pytest.fixture
def some_rows(tmp_path):
    """A file that names five of the ten samples, in two clusters."""
    write_rows(tmp_path / "rows.parquet", SOME, np.array([4, 0, 4, 0, 0]))
    return tmp_path / "rows.parquet"


def test_training_on_part_of_the_pool_sees_that_part_alone(pool, some_rows, tmp_path):
    trainer = pool.trainer(tmp_path, rows=some_rows, epochs=2)
    assert trainer.data.features.ids.tolist() == sorted(SOME)
    assert trainer.engine.module.cluster_M.tolist() == [0, 0, 0, 4, 4]
    whole = pool.trainer(tmp_path / "whole").data
    for place, id in enumerate(sorted(SOME)):
        example, same = trainer.data[place], whole[int(id)]
        assert example.row == place
        assert example.input_ids == same.input_ids
        assert torch.equal(example.features_D, same.features_D)
    trainer.run(never)
    assert [line["samples"] for line in logged(tmp_path)] == [4, 1, 4, 1]
    statistics = pq.read_table(tmp_path / "sample_statistics.parquet").to_pydict()
    assert statistics["id"] == sorted(SOME)
    assert all(math.isfinite(loss) for loss in statistics["train_loss"])


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_plain_tuning_is_by_the_mean_token_loss_and_leaves_a_vlm_alone(zero_stage, pool, tmp_path):
    settings = {"objective": "plain", "loss_reduction": "mean", "score_net_init": "uniform"}
    trainer = pool.trainer(tmp_path, epochs=2, zero_stage=zero_stage, **settings)
    trainer.run(never)
    for line in logged(tmp_path):
        assert line["loss"] == pytest.approx(line["plain_loss"], rel=1e-5)
        assert line["score_std"] == 0.0
    assert {path.name for path in tmp_path.iterdir()} == {"metrics.jsonl", "vlm"}
    before = pool.initial()
    after = LlavaForConditionalGeneration.from_pretrained(tmp_path / "vlm").state_dict()
    assert any(not torch.equal(before[name], after[name]) for name in before)


def test_plain_tuning_weighs_every_answer_token_alike(pool, tmp_path):
    trainer = pool.trainer(tmp_path, objective="plain", zero_stage=0)
    model, data = trainer.engine.module, trainer.data
    with torch.no_grad():
        losses = model(data.collate([data[row] for row in (9, 0, 4)]))
    expected = losses.loss_sum_B.sum() / losses.tokens_B.sum()
    assert losses.loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert not any(value.requires_grad for value in model.score_net.parameters())


COIDO = {"objective": "coido", "score_net_hidden": (4, 3), "score_net_init": "uniform"}


@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_coido_learns_its_uncertainties_and_an_mlp(zero_stage, pool, some_rows, tmp_path):
    settings = COIDO | {"zero_stage": zero_stage, "save_vlm": False}
    trainer = pool.trainer(tmp_path, rows=some_rows, epochs=4, **settings)
    before = {name: value.clone() for name, value in initial_net().state_dict().items()}
    trainer.run(never)
    net, metadata = load_score_net(tmp_path / "score_net.safetensors")
    assert [tuple(layer.weight.shape) for layer in net.hidden] == [(4, 5), (3, 4)]
    assert metadata["inputs"] == "clip"
    state = net.state_dict()
    assert any(not torch.equal(state[name], before[name]) for name in before)
    log_variance_2 = whole_parameter(trainer, "log_variance_2")
    assert log_variance_2.abs().min() > 1e-3
    assert not (tmp_path / "vlm").exists()
    assert len(logged(tmp_path)) == 8


def initial_net():
    """The score net of ``COIDO`` as a trainer begins with it."""
    torch.manual_seed(0)
    return ScoreNet(5, "uniform", (4, 3))


def whole_parameter(trainer, name):
    """A parameter, gathered where ZeRO-3 has cut it up."""
    import deepspeed

    parameter = dict(trainer.engine.module.named_parameters())[name]
    with deepspeed.zero.GatheredParameters([parameter]):
        return parameter.detach().clone()


def test_coido_s_loss_joins_the_weighted_loss_and_the_balance_of_its_batch(
    pool, some_rows, tmp_path
):
    trainer = pool.trainer(tmp_path, rows=some_rows, zero_stage=0, **COIDO)
    model, data = trainer.engine.module, trainer.data
    batch = data.collate([data[row] for row in range(5)])
    with torch.no_grad():
        found = model(batch)
        weights_B = torch.softmax(found.z_B, 0)
    importance = 5 * (weights_B * found.loss_sum_B).sum() / found.tokens_B.sum()
    means = (5 * weights_B[:3].mean(), 5 * weights_B[3:].mean())
    balance = ((means[0] - means[1]) / 2) ** 2
    assert found.loss.item() == pytest.approx(0.5 * (importance + balance).item(), rel=1e-5)


def test_a_stopped_coido_run_ends_as_one_that_was_not(pool, some_rows, tmp_path):
    whole, checkpoint, rest = (tmp_path / name for name in ("whole", "checkpoint", "rest"))
    trainer = pool.trainer(whole, rows=some_rows, checkpoint_steps=4, **COIDO)
    trainer.run(lambda metrics: trainer.save_checkpoint(checkpoint))
    resumed = pool.trainer(rest, rows=some_rows, checkpoint_steps=100, **COIDO)
    shutil.copy(whole / "metrics.jsonl", rest)
    resumed.load_checkpoint(checkpoint)
    resumed.run(never)
    one, other = (
        load_score_net(folder / "score_net.safetensors")[0].state_dict() for folder in (whole, rest)
    )
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize(("inputs", "size"), [("scores", 2), ("both", 7)])
def test_the_score_net_can_see_ratings(inputs, size, pool, some_rows, tmp_path):
    rated = np.arange(ROWS, dtype=np.float32)
    columns = {"judge_quality": rated, "judge_accuracy": rated % 3}
    ids = [f"{row:02d}" for row in range(ROWS)]
    pq.write_table(pa.table({"id": ids} | columns), tmp_path / "ratings.parquet")
    names = ["judge_accuracy", "judge_quality"]
    settings = {"inputs": inputs, "score_columns": names, "epochs": 2}
    ratings = tmp_path / "ratings.parquet"
    trainer = pool.trainer(tmp_path, ratings=ratings, rows=some_rows, **settings)
    seen_D = trainer.data[1].features_D  # sample 02
    assert seen_D[-2:].tolist() == pytest.approx([1.0, 2 * 2 / 9 - 1])  # scaled over all ten
    trainer.run(never)
    net, metadata = load_score_net(tmp_path / "score_net.safetensors")
    assert net.features == size
    assert metadata["inputs"] == inputs
    assert metadata["scaling"] == {
        "columns": names,
        "low": [0.0, 0.0],
        "high": [2.0, 9.0],
        "mean": [pytest.approx(0.9), 4.5],
    }


def test_ratings_that_are_missing_stop_a_run_before_it_starts(pool, tmp_path):
    settings = {"inputs": "scores", "score_columns": ["judge_quality"]}
    with pytest.raises(ArtifactError, match="run score"):
        pool.trainer(tmp_path, ratings=tmp_path / "none", **settings)
