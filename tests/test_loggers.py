"""Where metrics go, and that a resume leaves no step twice."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event, SessionLog

from selfilter_ray.config import TrainConfig
from selfilter_ray.errors import ConfigError
from selfilter_ray.stage1.loggers import StepLog, check_loggers


def log(folder: Path, first: int, last: int, value: float, *names: str) -> None:
    """Steps ``first`` to ``last``, as a training that goes on after the one before."""
    steps = StepLog(folder, TrainConfig(loggers=names))
    steps.start(first - 1)
    for step in range(first, last + 1):
        steps.write({"step": step, "loss": value * step})
    steps.close()


def events(folder: Path) -> list[Event]:
    """All events of a TensorBoard folder, in the order in which they were written."""
    found = []
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            found.append(Event.FromString(data[12 : 12 + length]))
            data = data[12 + length + 4 :]
    return found


def shown(folder: Path) -> dict[int, float]:
    """What TensorBoard shows of the loss: a START event voids all steps from its own on."""
    steps: dict[int, float] = {}
    for event in events(folder):
        if event.session_log.status == SessionLog.START:
            steps = {step: value for step, value in steps.items() if step < event.step}
        for value in event.summary.value:
            assert value.tag == "loss"
            assert event.step not in steps
            steps[event.step] = value.simple_value
    return steps


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_tensorboard_shows_each_step_once_after_a_resume(tmp_path):
    log(tmp_path, 1, 5, 1.0, "tensorboard")
    log(tmp_path, 4, 6, 10.0, "tensorboard")
    expected = {1: 1.0, 2: 2.0, 3: 3.0, 4: 40.0, 5: 50.0, 6: 60.0}
    assert shown(tmp_path / "tensorboard") == expected
    assert {line["step"]: line["loss"] for line in lines(tmp_path)} == expected
    log(tmp_path, 1, 2, 7.0, "tensorboard")
    assert shown(tmp_path / "tensorboard") == {1: 7.0, 2: 14.0}


def test_mlflow_keeps_one_run_and_each_step_once(tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="needs the extra mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "store").as_uri())
    mlflow.set_tracking_uri((tmp_path / "store").as_uri())
    log(tmp_path, 1, 5, 1.0, "mlflow")
    log(tmp_path, 4, 6, 10.0, "mlflow")
    client = mlflow.MlflowClient()
    run_id = (tmp_path / "mlflow_run").read_text()
    history = client.get_metric_history(run_id, "loss")
    assert sorted((m.step, m.value) for m in history) == [
        (1, 1.0),
        (2, 2.0),
        (3, 3.0),
        (4, 4.0),
        (5, 5.0),
        (6, 60.0),
    ]
    run = client.get_run(run_id)
    assert run.data.params["train.epochs"] == "3"
    assert run.info.status == "FINISHED"


def test_wandb_writes_a_run_without_a_network(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs the extra wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    log(tmp_path, 1, 3, 1.0, "wandb")
    files = list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert len(files) == 1
    assert (tmp_path / "wandb_run").read_text() in files[0].name
    assert len(lines(tmp_path)) == 3


def test_a_tracker_that_fails_does_not_end_training(tmp_path, caplog):
    steps = StepLog(tmp_path, TrainConfig())
    steps.start(0)
    steps.write({"step": 1, "loss": 1.0})
    steps.write({"step": 2, "loss": "no number"})
    steps.write({"step": 3, "loss": 3.0})
    steps.close()
    assert "tensorboard takes no more metrics, from step 2 on" in caplog.text
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]


def test_a_missing_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"mlflow needs .* pip install 'selfilter-ray\[mlflow\]'"):
        check_loggers(["mlflow"])
