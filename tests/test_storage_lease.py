"""Who drives a run folder in a store: one at a time, and what a driver finds that comes back."""

from __future__ import annotations

import json
import threading

import pytest

from selfilter_ray.errors import ConfigError, StorageError
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.storage import Mirror, below, exists, lease, read_bytes, write_bytes
from selfilter_ray.storage.lease import Lease, driving
from selfilter_ray.storage.shared import publish


@pytest.fixture(autouse=True)
def quick(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.5)


@pytest.fixture
def place(tmp_path):
    return f"file://{tmp_path}/run"


def said(place):
    return json.loads(read_bytes(below(place, lease.FILE), 4096))


def leave_behind(place, **changes):
    """What a driver that was killed leaves."""
    found = {"holder": "h, process 1", "copy": "theirs", "session": "s", "beat": 3, "working": True}
    write_bytes(below(place, lease.FILE), json.dumps(found | changes).encode())


def test_a_second_driver_is_refused_while_the_first_lives_and_welcome_after(place):
    with driving(place, "mine") as same:
        assert not same
        with pytest.raises(ConfigError, match=r"another process \(.*process \d+\) is working in"):
            Lease(place, "theirs").take()
        assert said(place)["copy"] == "mine"
    assert not said(place)["working"]
    with driving(place, "theirs") as same:
        assert not same
    with driving(place, "theirs") as same:
        assert same


def test_the_silence_of_a_dead_driver_is_waited_for_and_then_it_is_replaced(place):
    leave_behind(place)
    with driving(place, "mine") as same:
        assert not same
        assert said(place)["copy"] == "mine"


def test_a_driver_that_was_killed_comes_back_to_its_own_copy_at_once(place, monkeypatch):
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 1e9)
    leave_behind(place, copy="mine")
    with driving(place, "mine") as same:
        assert same


def test_a_driver_that_was_replaced_publishes_nothing_more(place, tmp_path):
    folder = RunFolder(place)
    with pytest.raises(StorageError, match="another driver has taken over"), folder.locked():
        leave_behind(place)
        folder.save_manifest({"format": 1, "stages": {}})
    assert not exists(below(place, "manifest.json"))
    assert said(place)["copy"] == "theirs"


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff", b"{}"])
def test_a_damaged_lock_object_is_replaced(place, content):
    write_bytes(below(place, lease.FILE), content)
    with driving(place, "mine"):
        assert said(place)["working"]


def test_of_many_that_start_at_once_one_at_most_goes_on(place, monkeypatch):
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.3)
    held, inside, together = [], threading.Lock(), threading.Barrier(4)

    def start(name):
        mine = Lease(place, name)
        together.wait()
        try:
            mine.take()
        except ConfigError:
            return
        with inside:
            held.append(mine)

    threads = [threading.Thread(target=start, args=(f"copy {n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    owners = []
    for mine in held:
        try:
            mine.check()
            owners.append(mine)
        except StorageError:
            continue
    assert len(owners) == 1
    for mine in held:
        mine.release()


def test_two_drivers_of_one_host_do_not_share_a_working_copy(place):
    with (
        RunFolder(place).locked(),
        pytest.raises(ConfigError, match="another process is working in file://"),
        RunFolder(place).locked(),
    ):
        pass


def test_a_run_folder_by_uri_is_pulled_first_and_pushed_last(place, tmp_path, monkeypatch):
    folder = RunFolder(place)
    with folder.locked():
        folder.save_manifest({"format": 1, "stages": {}})
        (folder.path / "selected.ids").write_text("a\n")
        assert not exists(below(place, "selected.ids"))
    assert read_bytes(below(place, "selected.ids"), 9) == b"a\n"
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "other host"))
    elsewhere = RunFolder(place)
    assert elsewhere.path != folder.path
    with elsewhere.locked():
        assert (elsewhere.path / "selected.ids").read_text() == "a\n"
    assert str(elsewhere) == elsewhere.shown(elsewhere.path) == place
    assert elsewhere.shown(elsewhere.selected_ids) == f"{place}/selected.ids"
    assert elsewhere.path.name == "run"


def test_what_a_failed_stage_left_is_pushed_and_the_error_is_the_stages(place):
    folder = RunFolder(place)
    with pytest.raises(ZeroDivisionError), folder.locked():
        (folder.path / "answers.jsonl").write_text("paid for\n")
        raise ZeroDivisionError
    assert exists(below(place, "answers.jsonl"))


def test_left_overs_of_a_copy_are_dropped_when_another_host_drove_the_run_since(
    place, tmp_path, monkeypatch
):
    folder = RunFolder(place)
    with folder.locked():
        folder.save_manifest({"format": 1, "stages": {}})
    (folder.path / "left").write_text("of a driver that was killed")
    with folder.locked():
        assert (folder.path / "left").exists()
    (folder.path / "left").write_text("once more")
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "other host"))
    with RunFolder(place).locked():
        pass
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "cache"))
    with folder.locked():
        assert (folder.path / "left").read_text() == "of a driver that was killed"


def test_a_working_copy_without_anything_local_costs_no_push(place, monkeypatch):
    folder = RunFolder(place)
    with folder.locked():
        folder.save_manifest({"format": 1, "stages": {}})
        pushed = []
        monkeypatch.setattr(Mirror, "_upload", lambda *a: pushed.append(a))
        publish(folder.path)
        assert pushed == []
