"""Stage 1's loop on one process: what learns, what is left behind, and going on after a stop."""

from __future__ import annotations

import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from stage1_pool import (
    ROWS,
    TEXT_ONLY,
    TINY_VLM,
    TWO_PICTURES,
    logged,
    make_config,
    make_pool,
    never,
    score_weights,
)
from transformers import LlavaForConditionalGeneration

from selfilter_ray.errors import ArtifactError
from selfilter_ray.stage1.engine import deepspeed_config, prepare_accelerator
from selfilter_ray.stage1.rows import write_rows
from selfilter_ray.stage1.score_net import ScoreNet, load_score_net
from selfilter_ray.stage1.stored import StoredLosses, train_from_losses
from selfilter_ray.stage1.trainer import NotFiniteError, Paths, StoppedError, Trainer

__all__ = ["TINY_VLM"]


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    """Everything runs in one process group: DeepSpeed keeps a handle on the first it sees."""
    folder = tmp_path_factory.mktemp("pool")
    prepare_accelerator()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # as Ray Train sets it
        store = dist.FileStore(str(folder / "store"), 1)
        dist.init_process_group("gloo", store=store, rank=0, world_size=1)
        yield make_pool(folder)
        dist.destroy_process_group()
    torch.set_num_threads(threads)


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
    assert (tmp_path / "vlm" / "processor_config.json").exists()

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
    assert [[m.get(key) for key in kept] for m in logged(rest)] == [
        [m.get(key) for key in kept] for m in logged(whole)
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


def test_a_damaged_checkpoint_is_named(pool, tmp_path):
    trainer = pool.trainer(tmp_path / "out")
    folder = tmp_path / "checkpoint"
    trainer.save_checkpoint(folder)
    (state,) = folder.glob("state-*")
    whole = state.read_bytes()
    state.write_bytes(whole[:-100])
    with pytest.raises(ArtifactError, match=r"checkpoint in .* cannot be used.*--redo"):
        trainer.load_checkpoint(folder)
    state.write_bytes(whole)
    (folder / "checkpoint.json").unlink()
    with pytest.raises(ArtifactError, match="cannot be used"):
        trainer.load_checkpoint(folder)


def test_a_checkpoint_of_another_model_is_refused(pool, tmp_path):
    pool.trainer(tmp_path / "a", trainable={"projector": False}).save_checkpoint(tmp_path / "c")
    with pytest.raises(ArtifactError, match=r"0 of .* values of .*multi_modal_projector"):
        pool.trainer(tmp_path / "b").load_checkpoint(tmp_path / "c")


def test_a_run_that_is_asked_to_stop_saves_a_checkpoint_and_can_go_on(pool, tmp_path):
    whole, part = tmp_path / "whole", tmp_path / "part"
    pool.trainer(whole).run(never)
    trainer = pool.trainer(part, checkpoint_steps=100)

    def save(metrics):
        assert metrics["step"] == 3
        trainer.save_checkpoint(tmp_path / "checkpoint")

    write = trainer.log.write

    def write_and_ask(metrics):
        write(metrics)
        if metrics["step"] == 2:
            (part / "stop").touch()

    trainer.log.write = write_and_ask
    with pytest.raises(StoppedError, match=r"after step 3 of 12\..*same command continues"):
        trainer.run(save)
    assert len(logged(part)) == 3
    assert not (part / "score_net.safetensors").exists()
    (part / "stop").unlink()
    resumed = pool.trainer(part)
    resumed.load_checkpoint(tmp_path / "checkpoint")
    resumed.run(never)
    assert torch.equal(score_weights(part), score_weights(whole))


def test_a_notice_saves_a_checkpoint_at_once_and_training_goes_on(pool, tmp_path, monkeypatch):
    monkeypatch.setattr("selfilter_ray.stage1.agreement.LOOK_SECONDS", 0.0)
    answers = iter([False, True, False])
    saved = []
    summary = pool.trainer(tmp_path, epochs=2).run(
        lambda metrics: saved.append(metrics["step"]), lambda: next(answers, False)
    )
    assert saved == [2]
    assert summary["steps"] == 6


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
        flipped = {name: torch.flip(value, [1]) for name, value in batch.pictures.items()}
        other = batch._replace(pictures=flipped)
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


FROZEN = {"language_model": "frozen", "projector": False}


@pytest.mark.parametrize(
    "settings",
    [
        {"loss_reduction": "mean"},
        {"workers": 2, "batch_size": 2, "gradient_accumulation": 2},
        {"workers": 2, "batch_size": 2, "weight_scope": "global", "gradient_clipping": 0.01},
    ],
    ids=["one", "two", "global"],
)
def test_with_a_frozen_vlm_stored_losses_train_the_same_score_net(settings, pool, tmp_path):
    trainer = pool.trainer(tmp_path, trainable=FROZEN, **settings)
    trainer.run(never)
    seen = trainer.statistics
    (tmp_path / "stored").mkdir()
    summary = train_from_losses(
        trainer.config,
        trainer.features,
        None,
        StoredLosses(seen.loss_sum_M, seen.tokens_M),
        tmp_path / "stored",
        lambda steps: None,
    )
    stored, live = logged(tmp_path / "stored"), logged(tmp_path)
    assert summary["steps"] == len(stored) == len(live)
    for name in live[0].keys() - {"seconds", "samples_per_second"}:
        assert [m[name] for m in stored] == pytest.approx([m[name] for m in live], rel=1e-3), name
    torch.testing.assert_close(
        score_weights(tmp_path / "stored"), score_weights(tmp_path), rtol=1e-3, atol=1e-5
    )
