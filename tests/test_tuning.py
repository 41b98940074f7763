"""Plain tuning on records of a run: on which, under which settings, and what it keeps."""

from __future__ import annotations

import json
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_folders import finish_stages, write_features

from selfilter_ray import provenance
from selfilter_ray.cli import main
from selfilter_ray.config import load_config, plain_training
from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.pipeline import Pipeline
from selfilter_ray.run_folder import STAGES, RunFolder
from selfilter_ray.samples.inputs import input_files
from selfilter_ray.stages import StageKeys
from selfilter_ray.terminal import Terminal
from selfilter_ray.tuning import tuning_set
from selfilter_ray.wanted import wanted_by

IDS = [f"r{row:02d}" for row in range(20)]
CHOSEN = ["r03", "r01", "r07"]


# Under which settings


def test_tuning_takes_from_training_what_it_is_not_told():
    small, large = ({"kind": "pretrained", "path": name} for name in ("small", "large"))
    config = load_config(
        {
            "run_dir": "r",
            "data": {"inputs": ["a.json"]},
            "train": {"vlm": small, "losses": "stored", "epochs": 2, "score_net_hidden": [4]},
            "tune": {"vlm": large, "learning_rate": 1e-5, "trainable": {"language_model": "lora"}},
        }
    )
    tuning = config.tuning()
    assert (tuning.vlm.path, config.train.vlm.path) == ("large", "small")
    assert (tuning.epochs, tuning.learning_rate) == (2, 1e-5)
    assert tuning.trainable.language_model == "lora"
    assert (tuning.objective, tuning.losses, tuning.score_net_hidden) == ("plain", "live", ())
    assert plain_training(config.train, config.seed_model).epochs == 1


@pytest.mark.parametrize(
    ("tune", "named"),
    [
        ({"epoch": 1}, "tune.epoch: unknown key. Did you mean epochs?"),
        ({"epochs": 0}, "tune.epochs"),
        ({"prompt": "nonsense"}, "tune.prompt"),
        ({"deepspeed": {"optimizer": {}}}, "deepspeed.optimizer is made from other settings"),
        ({"vlm": {"kind": "pretrained", "pth": "x"}}, "tune.vlm.pth"),
    ],
)
def test_a_wrong_setting_of_tuning_is_named(tune, named):
    with pytest.raises(ConfigError) as caught:
        load_config({"run_dir": "r", "data": {"inputs": ["a.json"]}, "tune": tune})
    assert named in str(caught.value)


# On which records


@pytest.fixture
def file(tmp_path):
    """The config of a run that has selected three records of twenty."""
    (tmp_path / "pool.json").write_text("[]")
    settings = {
        "run_dir": str(tmp_path / "run"),
        "data": {"inputs": [str(tmp_path / "pool.json")]},
        "select": {"budget": 3},
    }
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(settings))
    config, folder = load_config(settings), RunFolder(tmp_path / "run")
    inputs = provenance.describe_inputs(input_files(config.data), ())
    keys = StageKeys(config, inputs, folder, wanted_by([config.select], config))
    ones = np.ones((20, 2), np.float32)
    write_features(folder.features, keys["featurize"], IDS, ones, [None] * 20)
    pq.write_table(pa.table({"id": CHOSEN}), folder.path / "selection.parquet")
    out = {"out": 20, "rows": 20}
    finish_stages(folder, keys, *keys.needed(STAGES), read=out, featurize=out)
    return file


def begun(file, *overrides):
    pipeline = Pipeline(load_config(file, overrides), Terminal(quiet=True))
    pipeline.keys = pipeline._begin(())
    return pipeline


def test_tuning_is_on_the_selection_the_pool_the_seed_set_or_given_ids(file, tmp_path):
    pipeline = begun(file)
    chosen = tuning_set(pipeline, "selection", None)
    assert (chosen.name, chosen.ids.tolist()) == ("selection", sorted(CHOSEN))
    assert chosen.made_from == {"select": pipeline.keys["select"]}
    pool = tuning_set(pipeline, "pool", None)
    assert (pool.ids.tolist(), list(pool.made_from)) == (IDS, ["featurize"])
    assert len(tuning_set(pipeline, "seed", None).ids) == 1  # a twentieth
    (tmp_path / "ids").write_text("r05\r\nr02\n\n")
    assert tuning_set(pipeline, "selection", tmp_path / "ids").ids.tolist() == ["r02", "r05"]
    assert tuning_set(pipeline, "selection", ["r09"]).ids.tolist() == ["r09"]


def test_the_selection_must_be_that_of_the_settings(file):
    with pytest.raises(ConfigError, match="tuning on the selection needs select to be finished"):
        tuning_set(begun(file, "select.budget=4"), "selection", None)
    tuning_set(begun(file, "select.budget=4"), "pool", None)
    with pytest.raises(ConfigError, match="tuning needs featurize to be finished"):
        tuning_set(begun(file, "featurize.batch_size=1"), "pool", None)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (None, "cannot be read .*one id a line, such as .*selected.ids"),
        (b"", "holds no id"),
        (b"\n\n", "holds no id"),
        (b"r01\nr02\nr01\n", "holds 'r01' more than once"),
        (b"r01\nr99\nx\n", "2 of 3 ids are no usable records of .*, 'r99' first"),
        (b'[\n{"id": "r01"}\n]\n', "3 of 3 ids are no usable"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_ids_that_cannot_be_used_are_one_sentence_and_exit_3(
    file, tmp_path, content, named, monkeypatch, capsys
):
    if content is not None:
        (tmp_path / "ids").write_bytes(content)
    with pytest.raises(DataError, match=named):
        tuning_set(begun(file), "selection", tmp_path / "ids")
    code, error = command(monkeypatch, capsys, file, "--ids", str(tmp_path / "ids"))
    assert (code, error.count("\n")) == (3, 1)


def command(monkeypatch, capsys, file, *arguments, objective=("--objective", "plain")):
    """Exit code and standard error of ``train``."""
    line = ["selfilter-ray", "train", str(file), *objective, *arguments]
    monkeypatch.setattr(sys, "argv", line)
    with pytest.raises(SystemExit) as ended:
        main()
    return ended.value.code, capsys.readouterr().err


def test_tuning_options_without_tuning_are_wrong_usage(file, monkeypatch, capsys):
    for options in (("--on", "pool"), ("--ids", "x")):
        code, error = command(monkeypatch, capsys, file, *options, objective=())
        assert (code, "--objective plain" in error) == (2, True)
    code, error = command(monkeypatch, capsys, file, "--on", "pool", "--ids", "x")
    assert (code, "give one of them" in error) == (2, True)
    assert command(monkeypatch, capsys, file, "--on", "nothing")[0] == 2
    assert command(monkeypatch, capsys, file, objective=("--objective", "x"))[0] == 2


# What is kept


def test_settings_of_tuning_change_no_stage(file):
    before, after = begun(file), begun(file, "tune.epochs=9", "tune.vlm.kind=scratch")
    assert all(before.keys[stage] == after.keys[stage] for stage in STAGES)


def leave_tuned(pipeline, **record):
    (pipeline.folder.tuned / "vlm").mkdir(parents=True)
    (pipeline.folder.tuned / "done.json").write_text(json.dumps({"key": "other", **record}))


def test_a_model_tuned_otherwise_is_not_thrown_away_unasked(file):
    pipeline = begun(file)
    leave_tuned(pipeline)
    with pytest.raises(ConfigError, match=r"under other settings or on other records.*--redo"):
        pipeline.tune()
    assert (pipeline.folder.tuned / "done.json").exists()


def test_an_unfinished_tuning_of_other_settings_is_kept(file):
    pipeline = begun(file)
    (pipeline.folder.tuned / "checkpoints" / "other" / "checkpoint_0").mkdir(parents=True)
    with pytest.raises(ConfigError, match="an unfinished tuning under other settings"):
        pipeline.tune()


def test_another_selection_takes_the_tuned_model_out_of_the_manifest(file):
    pipeline = begun(file)
    manifest = pipeline.folder.manifest()
    manifest["tuned"] = {"key": "k", "made_from": {"select": pipeline.keys["select"]}}
    pipeline.folder.save_manifest(manifest)
    finish_stages(pipeline.folder, pipeline.keys, "report")
    assert "tuned" in pipeline.folder.manifest()
    other = begun(file, "select.budget=5")
    finish_stages(other.folder, other.keys, "select")
    assert "tuned" not in other.folder.manifest()
