"""What a training worker writes reaches the store while it trains; the wish to stop reaches it."""

from __future__ import annotations

import time

import pytest

from selfilter_ray.run_folder import RunFolder
from selfilter_ray.storage import below, courier, exists, read_bytes
from selfilter_ray.storage.courier import Courier, relayed
from selfilter_ray.storage.shared import Shared, begun, everywhere, fetch, here, publish

PATIENCE_SECONDS = 30


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(courier, "CARRY_SECONDS", 0.02)
    monkeypatch.setattr(courier, "RELAY_SECONDS", 0.02)


@pytest.fixture
def place(tmp_path):
    return f"file://{tmp_path}/a run"


def until(condition):
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def of(place):
    return Courier(Shared(place, "stage1"), "metrics.jsonl", "stop")


def text(place, name):
    return read_bytes(below(place, name), 10**6).decode()


def test_the_log_is_carried_while_it_grows_and_the_rest_when_it_is_delivered(place):
    worker = of(place)
    with worker.folder(carries=True, leave=()) as folder:
        assert folder.name == "stage1"
        (folder / "metrics.jsonl").write_text("1\n")
        (folder / "score_net.safetensors").write_text("net")
        until(lambda: exists(below(place, "stage1/metrics.jsonl")))
        assert not exists(below(place, "stage1/score_net.safetensors"))
        with open(folder / "metrics.jsonl", "a") as lines:
            lines.write("2\n")
        until(lambda: text(place, "stage1/metrics.jsonl") == "1\n2\n")
        (folder / "vlm").mkdir()
        (folder / "vlm" / "model").write_text("weights")
        (folder / "outcome.json").write_text("{}")
        (folder / "checkpoints" / "unsent").write_text("Ray Train sends them itself")
        worker.deliver()
    for name in ("score_net.safetensors", "vlm/model", "outcome.json"):
        assert exists(below(place, f"stage1/{name}"))
    assert begun(RunFolder(place).checkpoints) == set()


def test_a_worker_elsewhere_goes_on_with_the_log_and_leaves_what_it_does_not_need(
    place, tmp_path, monkeypatch
):
    with of(place).folder(carries=True, leave=()) as folder:
        (folder / "metrics.jsonl").write_text("1\n2\n")
        (folder / "vlm").mkdir()
        (folder / "vlm" / "model").write_text("weights")
        until(lambda: exists(below(place, "stage1/metrics.jsonl")))
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "other host"))
    with of(place).folder(carries=True, leave=("vlm",)) as folder:
        assert (folder / "metrics.jsonl").read_text() == "1\n2\n"
        assert not (folder / "vlm").exists()
    with of(place).folder(carries=False, leave=()) as folder:
        assert not (folder / "metrics.jsonl").exists()


def test_the_wish_to_stop_reaches_a_worker_and_is_gone_afterwards(place):
    folder = RunFolder(place)
    folder.stage1.mkdir(parents=True)
    stop = folder.stage1 / "stop"
    with of(place).folder(carries=True, leave=()) as worker, relayed(stop):
        assert not (worker / "stop").exists()
        stop.touch()
        until((worker / "stop").exists)
    assert not exists(below(place, "stage1/stop"))


def test_on_a_shared_disk_a_worker_writes_into_the_run_folder_and_nothing_is_carried(tmp_path):
    worker = Courier(Shared.of(tmp_path / "stage1"), "metrics.jsonl", "stop")
    with worker.folder(carries=True, leave=()) as folder, relayed(tmp_path / "stop"):
        assert folder == tmp_path / "stage1"
        worker.deliver()
    assert worker.place_of("outcome.json") == str(tmp_path / "stage1" / "outcome.json")
    assert not (tmp_path / "cache").exists()


def test_paths_of_the_driver_become_paths_of_each_host_and_other_values_stay(
    place, tmp_path, monkeypatch
):
    folder = RunFolder(place)
    model = folder.measured / "initial_vlm"
    model.mkdir(parents=True)
    (model / "config.json").write_text("{}")
    publish(model)
    values = [str(model), "llava-hf/llava-1.5-7b-hf", 3, None, str(tmp_path / "weights")]
    sent = [everywhere(value) for value in values]
    assert sent[1:] == values[1:]
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "other host"))
    got = [here(value) for value in sent]
    assert got[1:] == values[1:]
    assert got[0] != values[0]
    assert got[0].endswith("/a run/measured/initial_vlm")
    with open(f"{got[0]}/config.json") as config:
        assert config.read() == "{}"


def test_the_driver_fetches_what_workers_left_but_for_weights(place):
    worker = of(place)
    with worker.folder(carries=True, leave=()) as folder:
        (folder / "score_net.safetensors").write_text("net")
        (folder / "vlm").mkdir()
        (folder / "vlm" / "model").write_text("weights")
        worker.deliver()
    driver = RunFolder(place)
    fetch(driver.stage1)
    assert driver.score_net.read_text() == "net"
    assert not (driver.stage1 / "vlm").exists()
    publish(driver.path)
    assert exists(below(place, "stage1/vlm/model"))
