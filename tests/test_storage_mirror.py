"""Mirrors against a real S3 server and a folder: what comes, what goes, and in which order."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import uuid
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from s3_server import s3_server

from selfilter_ray.storage import (
    Mirror,
    StorageError,
    TooLargeError,
    below,
    connection,
    exists,
    local_copy,
    read_bytes,
    write_bytes,
)
from selfilter_ray.storage import mirror as mirrors
from selfilter_ray.storage.copies import work_folder
from selfilter_ray.storage.objects import delete, list_files
from selfilter_ray.storage.places import Uri

pytest.importorskip("moto.server", reason="needs moto's S3 server (extra dev)")


@pytest.fixture(scope="module")
def server():
    with s3_server("bucket") as running:
        yield running


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(params=["s3", "file"])
def place(request, server, tmp_path):
    name = f"a run {uuid.uuid4().hex}"
    return f"s3://bucket/{name}" if request.param == "s3" else f"file://{tmp_path}/{name}"


def put(folder, **files):
    for name, text in files.items():
        file = folder / name.replace("__", "/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


def content(folder: Path):
    files = (file for file in folder.rglob("*") if file.is_file())
    return {
        file.relative_to(folder).as_posix(): file.read_text()
        for file in files
        if not file.name.startswith(".")
    }


def there(place):
    return {item.name for item in list_files(Uri.of(place))}


def test_what_is_pushed_comes_out_elsewhere_and_only_changes_travel(place, tmp_path, monkeypatch):
    here, other = tmp_path / "here", tmp_path / "other"
    put(here, **{"a": "1", "deep__b 100%?#\u00e9": "2", "manifest.json": "{}"})
    Mirror(place, here).push()
    Mirror(place, other).pull()
    assert content(other) == content(here)

    moved = []
    for name in ("upload", "download"):
        real = getattr(mirrors.transfer, name)
        monkeypatch.setattr(
            mirrors.transfer, name, lambda *a, real=real: (moved.append(a), real(*a))[1]
        )
    Mirror(place, here).push()
    Mirror(place, here).pull()
    Mirror(place, other).pull()
    assert moved == []
    put(here, a="3")
    Mirror(place, here).push()
    Mirror(place, other).pull()
    assert len(moved) == 2
    assert content(other)["a"] == "3"


def test_what_was_written_in_the_same_second_with_the_same_size_is_noticed(place, tmp_path):
    other = tmp_path / "other"
    for number in range(5):
        write_bytes(below(place, "a"), f"version {number}".encode())
        Mirror(place, other).pull()
        assert content(other) == {"a": f"version {number}"}


def test_what_is_removed_here_is_removed_there_and_on_other_hosts(place, tmp_path):
    here, other = tmp_path / "here", tmp_path / "other"
    put(here, a="1", deep__b="2", deep__c="3")
    Mirror(place, here).push()
    Mirror(place, other).pull()
    (here / "deep" / "b").unlink()
    Mirror(place, here).push()
    assert there(place) == {"a", "deep/c"}
    Mirror(place, other).pull()
    assert content(other) == {"a": "1", "deep/c": "3"}
    Mirror(place, here).remove("deep")
    assert there(place) == set(content(here)) == {"a"}


def test_a_copy_for_reading_becomes_what_lies_there_whatever_was_done_to_it(place, tmp_path):
    here = tmp_path / "here"
    put(here, a="1", b="2")
    Mirror(place, here).push()
    copy = local_copy(place)
    put(copy, a="edited", left="over")
    (copy / "b").unlink()
    assert content(local_copy(place)) == {"a": "1", "b": "2"}


def test_a_driver_that_comes_back_keeps_what_only_it_has_written_and_loses_nothing(place, tmp_path):
    here, other = tmp_path / "here", tmp_path / "other"
    put(here, a="1", b="2", c="3", d="4")
    Mirror(place, here).push()
    put(here, a="edited", new="x")
    (here / "b").unlink()
    Mirror(place, other).pull()
    put(other, c="theirs")
    (other / "d").unlink()
    Mirror(place, other).push()
    Mirror(place, here).pull(keep_edits=True)
    assert content(here) == {"a": "edited", "b": "2", "c": "theirs", "new": "x"}
    Mirror(place, here).push()
    assert there(place) == {"a", "b", "c", "new"}


def test_only_what_was_asked_for_comes(place, tmp_path):
    here = tmp_path / "here"
    put(here, **{"a__1": "1", "a__2": "2", "ab__3": "3", "c": "4", "stage1__vlm__w": "5"})
    Mirror(place, here).push()
    assert set(content(local_copy(place, ["a", "c", "none"]))) == {"a/1", "a/2", "c"}
    assert set(content(local_copy(place, ["stage1"], leave=("vlm",)))) == {"a/1", "a/2", "c"}
    assert "stage1/vlm/w" in content(local_copy(place, ["stage1/vlm"]))


def test_checkpoints_stored_images_and_hidden_files_are_not_copied(place, tmp_path):
    here = tmp_path / "here"
    put(here, **{"stage1__checkpoints__k__x": "", ".lock": "", "images__ab__c": ""})
    put(here, **{"samples__part": "kept", ".checkpoints__x": ""})
    Mirror(place, here).push()
    assert there(place) == {"samples/part"}


NAMES = [
    "manifest.json",
    "shard-0.parquet",
    "shard-0.done.json",
    "done.json",
    "z",
    "a/outcome.json",
]


def bring(place, here, other, pull):
    if pull:
        Mirror(place, other).pull()
    else:
        Mirror(place, here).push()


def rank(name):
    return 2 if name == "manifest.json" else int("json" in name)


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)
@given(
    names=st.sets(st.sampled_from(NAMES), min_size=1), stop=st.integers(0, 6), pull=st.booleans()
)
def test_a_copy_that_stops_anywhere_never_has_a_record_without_what_it_vouches_for(
    names, stop, pull, tmp_path, monkeypatch
):
    root = tmp_path / uuid.uuid4().hex
    here, other, place = root / "here", root / "other", f"file://{root}/there"
    put(here, **{name.replace("/", "__"): "old" for name in names})
    Mirror(place, here).push()
    Mirror(place, other).pull()
    put(here, **{name.replace("/", "__"): "newer" for name in names})
    if pull:
        Mirror(place, here).push()
    left = [stop]

    def failing(real):
        def call(*arguments):
            left[0] -= 1
            if left[0] < 0:
                raise StorageError("the network is gone")
            return real(*arguments)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(mirrors, "THREADS", 1)
        for name in ("upload", "download"):
            patch.setattr(mirrors.transfer, name, failing(getattr(mirrors.transfer, name)))
        with contextlib.suppress(StorageError):
            bring(place, here, other, pull)
    came = content(other) if pull else content(root / "there")
    fresh = {name for name, text in came.items() if text == "newer"}
    for record in fresh:
        assert {name for name in names if rank(name) < rank(record)} <= fresh
    if pull and fresh:
        assert not any(rank(name) and text == "old" for name, text in came.items())
    bring(place, here, other, pull)
    assert set(content(other if pull else root / "there").values()) == {"newer"}


@pytest.mark.parametrize("name", ["../out", "a/../../out", "a//b", "./a"])
def test_an_object_whose_name_is_no_path_never_leaves_the_copy(name, server, tmp_path):
    import boto3

    bucket = f"b{uuid.uuid4().hex}"
    server.make_bucket(bucket)
    client = boto3.client("s3", endpoint_url=server.url)
    client.put_object(Bucket=bucket, Key=f"run/{name}", Body=b"x")
    with pytest.raises(StorageError, match=r"no path|rename it"):
        Mirror(f"s3://{bucket}/run", tmp_path / "copy").pull()
    assert not (tmp_path / "out").exists()


def test_a_local_place_costs_nothing_and_is_its_own_copy(tmp_path, cache):
    mirror = Mirror(str(tmp_path / "run"), tmp_path / "copy")
    mirror.pull()
    mirror.push()
    assert local_copy(tmp_path / "run") == tmp_path / "run"
    assert not cache.exists()
    assert not (tmp_path / "copy").exists()


def copy_and_count(place, folder, results):
    os.environ["SELFILTER_CACHE"] = folder
    fetched = []
    real = mirrors.transfer.download
    mirrors.transfer.download = lambda *a: (fetched.append(a), real(*a))[1]
    copy = local_copy(place)
    results.put((len(fetched), json.loads((copy / "manifest.json").read_text())))


def test_many_processes_of_a_host_pull_once(server, tmp_path, cache):
    place = f"s3://bucket/{uuid.uuid4().hex}"
    put(tmp_path / "here", **{"a": "1", "b": "2", "manifest.json": "[3]"})
    Mirror(place, tmp_path / "here").push()
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (place, str(cache), results)
    processes = [context.Process(target=copy_and_count, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    told = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sorted(count for count, _ in told) == [0, 0, 0, 3]
    assert all(manifest == [3] for _, manifest in told)


def test_objects_are_read_under_a_limit_that_is_checked_first(place):
    write_bytes(below(place, "a"), b"x" * 100)
    assert read_bytes(below(place, "a"), 100) == b"x" * 100
    with pytest.raises(TooLargeError, match="100 bytes, the limit is 99"):
        read_bytes(below(place, "a"), 99)
    assert exists(below(place, "a"))
    assert exists(place)
    delete(below(place, "a"))
    assert not exists(below(place, "a"))
    with pytest.raises(StorageError, match="does not exist"):
        read_bytes(below(place, "a"), 99)


def test_a_store_that_is_away_is_one_sentence_and_the_next_push_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(connection, "ATTEMPTS", 1)
    here = tmp_path / "here"
    put(here, a="1", b="2")
    with s3_server("bucket") as own:
        place = f"s3://bucket/run?endpoint_override={own.url}"
        Mirror(place, here).push()
        put(here, a="3")
        own.stop()
        with pytest.raises(StorageError, match=r"cannot write s3://bucket/run/a .*run again"):
            Mirror(place, here).push()
        with pytest.raises(StorageError, match="cannot list"):
            local_copy(place)
        own.start()
        own.make_bucket("bucket")
        Mirror(place, here).push()
        assert read_bytes(below(place, "a"), 9) == b"3"


def test_a_bucket_that_is_not_there_is_said_to_be_missing(server, tmp_path):
    put(tmp_path / "here", a="1")
    with pytest.raises(StorageError, match="create the bucket"):
        Mirror("s3://no-such-bucket/run", tmp_path / "here").push()


def test_what_a_killed_process_left_in_the_cache_is_swept(cache):
    left = cache / "work" / "left"
    put(left, big="x")
    with work_folder() as folder:
        assert folder.is_dir()
        assert not left.exists()
        with work_folder() as second:
            assert folder.is_dir()
            assert second != folder
    assert not folder.exists()
