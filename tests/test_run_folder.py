"""A run's folder is held by one process, its files are whole, and finished work is recognised."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from run_folders import INPUTS, OUTPUTS

from selfilter_ray import atomic
from selfilter_ray.config import DataConfig, FeaturizeConfig, TrainConfig, load_config
from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.run_folder import FORMAT, STAGES, RunFolder, stage_key
from selfilter_ray.stages import StageKeys
from selfilter_ray.wanted import wanted_by

LATER = {stage: set(STAGES[number:]) for number, stage in enumerate(STAGES)}


def files_in(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


# Atomic writes


def test_a_file_is_replaced_as_a_whole(tmp_path):
    file = tmp_path / "new" / "folder" / "a.json"
    atomic.write_json(file, {"ü": [1, Path("/p")]})
    assert file.read_text(encoding="utf-8") == '{\n  "ü": [\n    1,\n    "/p"\n  ]\n}\n'
    atomic.write_text(file, "short")
    assert file.read_text() == "short"
    assert files_in(file.parent) == {"a.json"}


def test_a_table_is_written_whole(tmp_path):
    table = pa.table({"a": [1, 2]})
    atomic.write_table(tmp_path / "a.parquet", table)
    assert pq.read_table(tmp_path / "a.parquet").equals(table)
    assert files_in(tmp_path) == {"a.parquet"}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("old", [None, "old"])
def test_a_writer_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, error, old):
    file = tmp_path / "a.txt"
    if old is not None:
        file.write_text(old)

    def write(temporary: Path) -> None:
        temporary.write_text("half of")
        raise error

    with pytest.raises(error):
        atomic.write_with(file, write)
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == (
        {} if old is None else {"a.txt": "old"}
    )


def test_a_writer_that_writes_nothing_leaves_the_old_file(tmp_path):
    file = tmp_path / "a.txt"
    file.write_text("old")
    with pytest.raises(FileNotFoundError):
        atomic.write_with(file, lambda temporary: None)
    assert file.read_text() == "old"


def test_the_old_file_stands_until_the_new_one_is_on_the_disk(tmp_path, monkeypatch):
    file = tmp_path / "a.txt"
    file.write_text("old")
    steps: list[str] = []
    replace, sync = os.replace, os.fsync

    def note_sync(descriptor: int) -> None:
        steps.append("sync " + file.read_text())
        sync(descriptor)

    def note_replace(source: Path, target: Path) -> None:
        steps.append("replace")
        assert source.parent == target.parent  # a rename, not a copy
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_replace)
    atomic.write_text(file, "new")
    assert steps == ["sync old", "replace", "sync new"]


def test_two_writers_of_one_file_do_not_share_a_temporary_name(tmp_path):
    with atomic.replacing(tmp_path / "a") as one, atomic.replacing(tmp_path / "a") as two:
        assert one != two
        one.write_text("1")
        two.write_text("2")
    assert (tmp_path / "a").read_text() == "1"  # the outer one ends last
    assert files_in(tmp_path) == {"a"}


# The lock

HOLD = """
import sys
from selfilter_ray.errors import ConfigError
from selfilter_ray.run_folder import RunFolder
try:
    with RunFolder(sys.argv[1]).locked():
        print("held")
except ConfigError as error:
    print(error)
"""


def said_by_another_process(folder: Path) -> str:
    command = [sys.executable, "-c", HOLD, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_another_process_is_refused_while_the_folder_is_held_and_let_in_after(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        assert said_by_another_process(folder.path) == (
            f"another process is working in {folder.path}: wait for it."
        )
    assert said_by_another_process(folder.path) == "held"


def test_a_second_holder_in_one_process_is_refused_and_the_first_keeps_the_lock(tmp_path):
    with RunFolder(tmp_path).locked():
        for _ in range(2):
            with pytest.raises(ConfigError, match="another process"), RunFolder(tmp_path).locked():
                pass


def test_the_lock_is_given_back_when_the_work_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), RunFolder(tmp_path).locked():
        raise ZeroDivisionError
    with RunFolder(tmp_path).locked():
        pass


def test_an_error_of_the_work_is_not_taken_for_a_held_lock(tmp_path):
    with pytest.raises(BlockingIOError), RunFolder(tmp_path).locked():
        raise BlockingIOError("a pipe is full")


def test_a_lock_left_by_a_dead_process_holds_nobody_up(tmp_path):
    (tmp_path / ".lock").write_text("999999")
    with (
        RunFolder(tmp_path).locked(),
        open(tmp_path / ".lock") as lock,
        pytest.raises(BlockingIOError),
    ):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_folder_that_cannot_be_written_is_a_config_error(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "run", tmp_path / ("x" * 300)):
        with (
            pytest.raises(ConfigError, match=r"cannot be written.*Choose another"),
            RunFolder(place).locked(),
        ):
            pass


# The manifest


def test_a_folder_without_a_manifest_has_nothing_finished(tmp_path):
    folder = RunFolder(tmp_path / "none")
    assert folder.manifest() == {"format": FORMAT, "stages": {}}
    assert folder.finished("read") is None
    assert not folder.path.exists()


def test_a_manifest_comes_back_as_it_was_saved(tmp_path):
    folder = RunFolder(tmp_path)
    manifest = {"format": FORMAT, "stages": {"read": {"key": "k", "rows": 3}}, "name": "ü"}
    folder.save_manifest(manifest)
    assert folder.manifest() == manifest
    assert folder.finished("read") == folder.require("read") == {"key": "k", "rows": 3}
    with pytest.raises(ConfigError, match="no finished stage 'train'"):
        folder.require("train")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"format": 1, "stages": {}',
        b"\xff\xfe",
        b"[" * 100_000,
        b"[]",
        b"null",
        b'"text"',
        b"{}",
        b'{"format": 1}',
        b'{"format": 1, "stages": []}',
        b'{"format": 1, "stages": null}',
        b'{"stages": {}}',
        b'{"format": 1, "stages": {"read": "done"}}',
        b'{"format": 1, "stages": {"read": {}}}',
    ],
)
def test_a_damaged_manifest_is_an_artifact_error_that_says_what_to_do(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.manifest_file.write_bytes(content)
    with pytest.raises(ArtifactError, match="remove it to start over"):
        folder.manifest()


@pytest.mark.parametrize("stages", [{}, {"stages": {}}, {"stages": [1]}])
def test_a_manifest_of_a_newer_version_is_not_to_be_removed(tmp_path, stages):
    folder = RunFolder(tmp_path)
    folder.manifest_file.write_text(json.dumps({"format": FORMAT + 1, **stages}))
    with pytest.raises(ArtifactError, match=f"format {FORMAT + 1}, this version reads") as caught:
        folder.manifest()
    assert "remove" not in str(caught.value)


def test_a_manifest_that_is_a_folder_is_an_artifact_error(tmp_path):
    folder = RunFolder(tmp_path)
    folder.manifest_file.mkdir()
    with pytest.raises(ArtifactError, match="cannot be read"):
        folder.manifest()


def test_a_key_depends_on_what_is_said_not_on_the_order_of_the_settings():
    assert stage_key({"a": 1, "b": 2}) == stage_key({"b": 2, "a": 1})
    assert len({stage_key(*parts) for parts in [(), (1,), ("1",), ([1],), (1, 2), ([1, 2],)]}) == 6


# What a change of settings costs


def config(**sections: Any) -> Any:
    data = {"inputs": ["a.json"], **sections.pop("data", {})}
    return load_config({"run_dir": "r", "data": data, **sections})


def keys(folder: RunFolder, inputs: Any = INPUTS, **sections: Any) -> StageKeys:
    settings = config(**sections)
    return StageKeys(settings, inputs, folder, wanted_by([settings.select], settings))


def changed(folder: RunFolder, one: dict[str, Any], other: dict[str, Any]) -> set[str]:
    """The stages whose key differs between two sets of settings."""
    first, second = keys(folder, **one), keys(folder, **other)
    return {stage for stage in STAGES if first[stage] != second[stage]}


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


@pytest.mark.parametrize(
    ("sections", "first"),
    [
        ({"data": {"source_field": "dataset"}}, "read"),
        ({"data": {"image_root": "/images"}}, "read"),
        ({"data": {"limits": {"turns": 3}}}, "read"),
        ({"data": {"limit": 10}}, "read"),
        ({"featurize": {"embedder": {"name": "bundled"}}}, "featurize"),
        ({"featurize": {"embedder": {"name": "open_clip", "precision": "bf16"}}}, "featurize"),
        ({"featurize": {"shard_rows": 7}}, "featurize"),
        ({"train": {"epochs": 1}}, "train"),
        ({"train": {"learning_rate": 1e-3}}, "train"),
        ({"train": {"vlm": {"kind": "scratch", "text": {"layers": 3}}}}, "train"),
        ({"train": {"deepspeed": {"a": 1}}}, "train"),
        ({"train": {"pool_fraction": 0.5}}, "train"),
        ({"train": {"losses": "stored"}}, "train"),
        ({"seed": 1}, "train"),
        ({"select": {"ratio": 0.3}}, "select"),
        ({"select": {"budget": 3}}, "select"),
        ({"select": {"gamma": 0.5}}, "select"),
        ({"report": {"sheet_images": 3}}, "report"),
    ],
)
def test_a_changed_setting_reaches_its_stage_and_all_after_it(folder, sections, first):
    assert changed(folder, {}, sections) == LATER[first]


@pytest.mark.parametrize(
    ("measure", "reaching"),
    [
        ({"batch_size": 3}, "train"),
        ({"bf16": True}, "train"),
        ({"no_image": False, "no_question": False, "grand": False}, "score"),
        ({"actors": 2}, None),
    ],
)
def test_what_stored_losses_depend_on_reaches_stage_1(folder, measure, reaching):
    stored = {"train": {"losses": "stored"}}
    found = changed(folder, stored, stored | {"measure": measure})
    assert found == (LATER[reaching] if reaching else set())


def test_the_seed_decides_what_is_read_only_under_a_limit(folder):
    limit = {"data": {"limit": 10}}
    assert changed(folder, limit, {**limit, "seed": 1}) == LATER["read"]


@pytest.mark.parametrize(
    "sections",
    [
        {"data": {"check_threads": 1}},
        {"featurize": {"actors": 3, "decode_threads": 7}},
        {"featurize": {"actors": [1, 3], "prefetch_batches": 9}},
        {"train": {"checkpoint_steps": 1, "max_failures": 0, "loader_workers": 3}},
        {"train": {"min_workers": 1, "loggers": []}},
        {"ray": {"num_cpus": 3}},
        {"tune": {"epochs": 9, "vlm": {"kind": "pretrained", "path": "m"}}},
        {"run_dir": "elsewhere"},
    ],
)
def test_settings_that_only_change_the_speed_cost_nothing(folder, sections):
    assert changed(folder, {}, sections) == set()


def test_every_speed_setting_is_among_those_tried_above():
    tried = {"check_threads"}
    tried |= {"actors", "decode_threads", "prefetch_batches"}
    tried |= {"checkpoint_steps", "max_failures", "loader_workers", "min_workers", "loggers"}
    assert DataConfig.speed_only | FeaturizeConfig.speed_only | TrainConfig.speed_only == tried


def test_other_input_files_change_everything_but_moving_them_changes_nothing(folder):
    moved = [{"path": "/elsewhere/a.json", "sha256": "0" * 64}]
    edited = [{"path": "/pool/a.json", "sha256": "1" * 64}]
    base = keys(folder)
    assert all(keys(folder, moved)[stage] == base[stage] for stage in STAGES)
    assert all(keys(folder, edited)[stage] != base[stage] for stage in STAGES)


def test_what_a_killed_writer_left_is_swept_away_when_the_folder_is_taken(folder):
    (folder.features).mkdir(parents=True)
    (folder.features / ".shard-00000.parquet.12-ab.tmp").write_text("torn")
    (folder.features / "shard-00001.parquet").write_text("whole")
    with folder.locked():
        assert files_in(folder.features) == {"shard-00001.parquet"}


# What is finished


def finish(folder: RunFolder, wanted: StageKeys, *stages: str) -> None:
    """Finish stages as the pipeline does: their files first, then the manifest."""
    for stage in stages:
        for name in OUTPUTS[stage]:
            shard = {"key": wanted[stage], "rows": 3, "seconds": 1.0, "model": "m"}
            text = json.dumps(shard) if name.endswith(".done.json") else ""
            atomic.write_text(folder.path / name, text)
        record: dict[str, Any] = {"rows": 3, "out": 3, "models": {}}
        if stage == "read":
            record["counts"] = {"in": 3, "out": 3, "quarantined": {}}
        if stage == "score":
            record["columns"] = ["id", *wanted.wanted.columns]
        if stage == "featurize":
            record["models"] = {"embedder": "hash"}
        wanted.finish(stage, record, {"seed": 0})


def test_a_stage_is_finished_while_its_key_is_unchanged_and_its_files_are_there(folder):
    wanted = keys(folder)
    assert not any(wanted.is_finished(stage) for stage in STAGES)
    finish(folder, wanted, *STAGES)
    assert all(wanted.is_finished(stage) for stage in STAGES)
    other = keys(folder, select={"ratio": 0.5})
    assert [stage for stage in STAGES if not other.is_finished(stage)] == ["select", "report"]
    for stage, names in OUTPUTS.items():
        for name in names:
            (folder.path / name).rename(folder.path / "away")
            assert not wanted.is_finished(stage), name
            (folder.path / "away").rename(folder.path / name)


def test_the_manifest_lists_stages_in_their_order_with_settings_and_counts(folder):
    wanted = keys(folder, select={"ratio": 0.5})
    finish(folder, wanted, "read", "featurize", "train")
    finish(folder, wanted, "read")
    manifest = folder.manifest()
    assert list(manifest["stages"]) == ["read", "featurize", "train"]
    assert manifest["stages"]["train"]["settings"]["train"]["epochs"] == 3
    assert manifest["config"]["select"]["ratio"] == 0.5
    assert manifest["counts"] == {"in": 3, "out": 3, "quarantined": {}}
    assert manifest["models"] == {"embedder": "hash"}
    assert manifest["seed"] == 0


def test_a_stage_that_begins_again_is_not_finished_until_it_ends(folder):
    wanted = keys(folder)
    finish(folder, wanted, "read", "featurize")
    wanted.begin("featurize")
    assert not wanted.is_finished("featurize")
    assert wanted.is_finished("read")
    wanted.begin("train")  # never finished: nothing to take back
    finish(folder, wanted, "featurize")
    assert wanted.is_finished("featurize")


def test_what_was_made_from_other_settings_leaves_the_manifest(folder):
    finish(folder, keys(folder), *STAGES)
    finish(folder, keys(folder, select={"ratio": 0.5}), "select")
    assert list(folder.manifest()["stages"]) == list(STAGES[:-1])


def test_a_stage_needs_all_before_it_finished_with_these_settings(folder):
    wanted = keys(folder)
    wanted.require_before("read")
    with pytest.raises(ConfigError, match="train needs read"):
        wanted.require_before("train")
    finish(folder, wanted, "read")
    with pytest.raises(ConfigError, match="train needs featurize"):
        wanted.require_before("train")
    finish(folder, wanted, "featurize")
    wanted.require_before("train")
    with pytest.raises(ConfigError, match="train needs read"):
        keys(folder, data={"limit": 1}).require_before("train")


@pytest.mark.parametrize(
    ("sections", "stage", "difference"),
    [
        ({"train": {"epochs": 1}}, "train", r"\(train\.epochs: 3 -> 1\)"),  # and nothing else
        ({"train": {"score_net_hidden": [8]}}, "train", r"score_net_hidden: \[\] -> \[8\]"),
        ({"seed": 5}, "train", "seed: 0 -> 5"),
        ({"featurize": {"batch_size": 1}}, "featurize", r"featurize\.batch_size: 64 -> 1"),
        ({"featurize": {"embedder": {"name": "bundled"}}}, "featurize",
         r"featurize\.embedder\.name: open_clip -> bundled"),
        ({"data": {"limit": 9}}, "featurize", r"data\.limit: None -> 9"),
        ({"train": {"vlm": {"kind": "pretrained", "path": "m"}}}, "train",
         r"train\.vlm\.path: None -> m"),
    ],
)  # fmt: skip
def test_finished_work_of_other_settings_is_kept_naming_what_differs(
    folder, sections, stage, difference
):
    finish(folder, keys(folder), *STAGES)
    wanted = keys(folder, **sections)
    with pytest.raises(ConfigError, match=f"a finished {stage} of other settings.*{difference}"):
        wanted.refuse_loss(STAGES, redo=False)
    wanted.refuse_loss(STAGES, redo=True)
    wanted.refuse_loss(["read", "score", "select", "report"], redo=False)


def test_other_input_files_are_named_as_what_differs(folder):
    finish(folder, keys(folder), *STAGES)
    edited = [{"path": "/pool/a.json", "sha256": "1" * 64}]
    with pytest.raises(ConfigError, match="the input files have changed"):
        keys(folder, edited).refuse_loss(STAGES, redo=False)


def test_cheap_stages_and_unchanged_ones_are_done_again_without_asking(folder):
    keys(folder).refuse_loss(STAGES, redo=False)  # nothing is there yet
    finish(folder, keys(folder), *STAGES)
    keys(folder).refuse_loss(STAGES, redo=False)
    keys(folder, select={"ratio": 0.9}, report={"sheet_images": 1}).refuse_loss(STAGES, redo=False)


def test_reading_again_with_other_settings_does_not_free_the_features_to_be_lost(folder):
    finish(folder, keys(folder), *STAGES)
    wanted = keys(folder, data={"limit": 9})
    finish(folder, wanted, "read")
    with pytest.raises(ConfigError, match="featurize of other settings"):
        wanted.refuse_loss(STAGES, redo=False)


def test_unfinished_features_of_other_settings_are_kept(folder):
    shard = {"key": keys(folder)["featurize"], "rows": 3, "seconds": 1.0, "model": "m"}
    atomic.write_json(folder.features / "shard-00003.done.json", shard)
    keys(folder).refuse_loss(STAGES, redo=False)
    other = keys(folder, featurize={"batch_size": 1})
    with pytest.raises(ConfigError, match="an unfinished featurize of other settings"):
        other.refuse_loss(STAGES, redo=False)
    other.refuse_loss(STAGES, redo=True)
    other.refuse_loss(["read"], redo=False)


def test_checkpoints_of_other_settings_are_kept(folder):
    (folder.checkpoints / keys(folder)["train"] / "checkpoint_000000").mkdir(parents=True)
    keys(folder).refuse_loss(STAGES, redo=False)
    other = keys(folder, train={"epochs": 1})
    with pytest.raises(ConfigError, match="an unfinished train of other settings"):
        other.refuse_loss(STAGES, redo=False)
    other.refuse_loss(STAGES, redo=True)
    keys(folder, select={"ratio": 0.5}).refuse_loss(STAGES, redo=False)
