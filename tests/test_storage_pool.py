"""Pools by URI: data files, images, images given as bytes; and a pass without a shared disk."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import uuid
from contextlib import contextmanager
from dataclasses import astuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from s3_server import Gate, s3_server

from selfilter_ray import provenance
from selfilter_ray.cli import main
from selfilter_ray.config import DataConfig, LimitsConfig
from selfilter_ray.errors import DataError, StorageError
from selfilter_ray.features.shards import Shard, read_shards, shard_files, shards_to_make
from selfilter_ray.pipeline import run
from selfilter_ray.report.thumbnail import thumbnail
from selfilter_ray.run_folder import RunFolder
from selfilter_ray.samples.files import table_of, write_samples
from selfilter_ray.samples.images import check_image, load_image
from selfilter_ray.samples.inputs import input_files
from selfilter_ray.samples.pool import read_pool
from selfilter_ray.samples.quarantine import BadRow
from selfilter_ray.samples.record import Sample
from selfilter_ray.scorers.judge.pictures import digest
from selfilter_ray.selected import write_selected
from selfilter_ray.storage import below, connection, exists, lease, read_bytes, write_bytes
from selfilter_ray.storage.shared import fetch, publish
from selfilter_ray.terminal import Terminal

pytest.importorskip("moto.server", reason="needs moto's S3 server (extra dev)")
LIMITS = LimitsConfig()


@pytest.fixture(scope="module")
def server():
    with s3_server("bucket") as running:
        yield running


@pytest.fixture
def place(server):
    return f"s3://bucket/{uuid.uuid4().hex}"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "cache"))


def png(color="red", size=(8, 8)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


def rows(names):
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    return [
        {"id": f"r{number}", "image": name, "conversations": turns}
        for number, name in enumerate(names)
    ]


def everywhere_the_same(place, tmp_path, files, data):
    """The pool of some files, read from a folder and from below a URI."""
    folder = tmp_path / "local"
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        write_bytes(below(place, name), content)
    limits = LimitsConfig(image_bytes=500)
    for root in (str(folder), place):
        settings = DataConfig(
            inputs=[below(root, data)], image_root=below(root, "images"), limits=limits
        )
        yield read_pool(settings, below(root, "store"))


def test_a_pool_by_uri_is_the_pool_of_the_same_folder(place, tmp_path):
    names = ["b c%20.png", "a?#\u00e9.png", "deep/a.png", "a-1.png", "a.png", "broken", "empty"]
    files = {f"images/{name}": png() for name in names}
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    large = io.BytesIO()
    Image.fromarray(noise).save(large, "PNG")
    files |= {
        "images/broken": b"not an image",
        "images/empty": b"",
        "images/large": large.getvalue(),
    }
    wanted = rows([*names, "large", "gone.png", "../outside.png", "x" * 2000, "images/../a.png"])
    files["data/pool.json"] = json.dumps(wanted).encode()
    local, far = everywhere_the_same(place, tmp_path, files, "data/pool.json")
    assert far.table["id"].to_pylist() == local.table["id"].to_pylist()
    assert far.counts == local.counts
    assert far.counts["quarantined"] == {
        "image_missing": 2,
        "image_format": 1,
        "image_broken": 1,
        "image_too_large": 1,
        "image_outside_root": 1,
    }
    assert [(bad.id, bad.reason) for bad in far.quarantined] == [
        (bad.id, bad.reason) for bad in local.quarantined
    ]
    for uris, paths in zip(
        far.table["images"].to_pylist(), local.table["images"].to_pylist(), strict=True
    ):
        assert uris[0].startswith(f"{place}/images/")
        assert load_image(uris[0], LIMITS).size == load_image(paths[0], LIMITS).size
    assert far.quarantined[0].locator.startswith(f"{place}/data/pool.json#")


def test_images_that_come_as_bytes_are_stored_where_every_host_finds_them(place, tmp_path):
    table = pa.table(
        {
            "id": ["a", "b", "c"],
            "image": [png("red"), png("blue"), png("red")],
            "conversations": [rows([""])[0]["conversations"]] * 3,
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file)
    files = {"data/one.parquet": file.getvalue(), "data/readme.txt": b"no data"}
    local, far = everywhere_the_same(place, tmp_path, files, "data")
    assert far.table["id"].to_pylist() == local.table["id"].to_pylist()
    stored = {images[0] for images in far.table["images"].to_pylist()}
    assert len(stored) == 2
    assert all(uri.startswith(f"{place}/store/") for uri in stored)
    assert {load_image(uri, LIMITS).getpixel((0, 0)) for uri in stored} == {
        (255, 0, 0),
        (0, 0, 255),
    }
    folder = RunFolder(tmp_path / "run")
    write_samples(folder.samples, far.table)
    write_selected(folder, ["c", "a"])
    assert pq.read_table(folder.path / "selected.parquet")["id"].to_pylist() == ["c", "a"]


def test_without_an_image_root_names_are_relative_to_the_uri_of_their_file(place):
    write_bytes(below(place, "deep/x.png"), png())
    write_bytes(below(place, "pool.jsonl"), json.dumps(rows(["deep/x.png"])[0]).encode())
    pool = read_pool(DataConfig(inputs=[below(place, "pool.jsonl")]), below(place, "store"))
    assert pool.table["images"].to_pylist() == [[f"{place}/deep/x.png"]]


def test_inputs_are_described_by_uri_and_content_and_keys_ignore_the_cache(
    place, tmp_path, monkeypatch
):
    write_bytes(below(place, "pool.json"), b"[1]")
    config = DataConfig(inputs=[below(place, "pool.json")])
    first = provenance.describe_inputs(input_files(config), ())
    assert first[0]["path"] == f"{place}/pool.json"
    assert provenance.describe_inputs(input_files(config), first) == first
    monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / "other"))
    assert provenance.describe_inputs(input_files(config), ())[0]["sha256"] == first[0]["sha256"]
    write_bytes(below(place, "pool.json"), b"[2]")
    assert provenance.describe_inputs(input_files(config), first)[0]["sha256"] != first[0]["sha256"]


@pytest.mark.parametrize(("name", "message"), [("none", "does not exist"), ("empty", "no data")])
def test_an_input_that_is_not_there_is_a_data_error(place, name, message):
    write_bytes(below(place, "empty/readme.txt"), b"x")
    with pytest.raises(DataError, match=message):
        input_files(DataConfig(inputs=[below(place, name)]))


def test_a_large_object_is_refused_before_it_is_read(place, monkeypatch):
    uri = below(place, "large.png")
    write_bytes(uri, png() + b"x" * 1000)
    limits = LimitsConfig(image_bytes=1000)
    for look in (check_image, load_image):
        with pytest.raises(BadRow, match=r"image_too_large: 10.. bytes, the limit is 1000"):
            look(uri, limits)
    assert digest(uri, limits) == "unusable"
    assert digest(uri, LIMITS) != "unusable"
    assert thumbnail(uri, 32, limits) is None
    assert thumbnail(uri, 32, LIMITS).startswith("data:image/jpeg")


def test_a_store_that_is_away_stops_the_run_and_quarantines_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "ATTEMPTS", 1)
    (tmp_path / "pool.json").write_text(json.dumps(rows(["a.png", "b.png"])))
    root = "s3://bucket/images?endpoint_override=http://127.0.0.1:9"
    config = DataConfig(inputs=[str(tmp_path / "pool.json")], image_root=root)
    with pytest.raises(StorageError, match="s3://bucket/images/"):
        read_pool(config, tmp_path / "store")
    for look in (check_image, load_image):
        with pytest.raises(StorageError):
            look(below(root, "a.png"), LIMITS)


def test_validate_takes_uris(place, capsys, monkeypatch):
    write_bytes(below(place, "images/a.png"), png())
    write_bytes(below(place, "pool.json"), json.dumps(rows(["a.png", "b.png"])).encode())
    pool, images = below(place, "pool.json"), below(place, "images")
    monkeypatch.setattr(sys, "argv", ["selfilter-ray", "validate", pool, "--image-root", images])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code in (0, None)
    assert f"{place}/pool.json#1: image_missing" in capsys.readouterr().out


class ShutsAfter(Terminal):
    """Loses the network when a stage has done its work, before anybody is told."""

    def __init__(self, gate):
        super().__init__(quiet=True)
        self.gate = gate

    @contextmanager
    def stage(self, *arguments):
        with super().stage(*arguments) as advance:
            yield advance
        self.gate.shut()


def test_a_network_that_fails_in_the_middle_is_one_sentence_and_the_next_run_goes_on(
    server, monkeypatch
):
    monkeypatch.setattr(connection, "ATTEMPTS", 1)
    monkeypatch.setattr(lease, "SETTLE_SECONDS", 0.01)
    name = f"bucket/{uuid.uuid4().hex}"
    behind = f"s3://{name}"
    write_bytes(below(behind, "a.png"), png())
    write_bytes(below(behind, "pool.json"), json.dumps(rows(["a.png"])).encode())
    with Gate(server) as gate:
        place = f"s3://{name}?endpoint_override={gate.url}"
        settings = {"run_dir": below(place, "run"), "data": {"inputs": [below(place, "pool.json")]}}
        with pytest.raises(StorageError, match=rf"s3://{name}/run.*run again"):
            run(settings, stages=("read",), terminal=ShutsAfter(gate))
        finished = json.loads(read_bytes(below(behind, "run/manifest.json"), 10**6))["stages"]
        assert finished == {}
        gate.open()
        manifest = run(settings, stages=("read",))
        assert manifest["counts"]["out"] == 1
    stored = json.loads(read_bytes(below(behind, "run/manifest.json"), 10**6))
    assert stored == manifest
    assert exists(below(behind, "run/samples/part-00000.parquet"))


HOSTS = """
import json, os, sys
from pathlib import Path
import pyarrow as pa
from selfilter_ray.distributed.passes import Pass, ShardActor
from selfilter_ray.storage.shared import Shared

class Maker:
    def __init__(self, device, model):
        self.seen = Path(model, "weights").read_text()

    def __call__(self, samples):
        if os.environ["DIES_AT"] in samples["id"].to_pylist():
            os._exit(9)
        made = [os.environ["HOST"] + self.seen] * samples.num_rows
        return pa.table({"id": samples["id"], "made": made})

    def weights_hash(self):
        return "hash"

def host(place, shards):
    work = Pass("test", Maker, {"model": Shared(place, "measured/model")}, ("id",))
    actor = ShardActor(work, 1, Shared(place, "samples"), Shared(place, "measured/pre"), "key")
    for number, start, stop in shards:
        told = actor({"number": number, "start": start, "stop": stop})
        assert not told["problem"], told

place, hosts = sys.argv[1], json.loads(sys.argv[2])
for environment, shards, expected in hosts:
    if (child := os.fork()) == 0:
        os.environ.update(environment)
        host(place, shards)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == expected
"""


def hosts_at_work(place, *hosts):
    """One after the other, each a process with a cache of its own."""
    command = [sys.executable, "-c", HOSTS, place, json.dumps(hosts)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.ray
def test_hosts_without_a_shared_disk_make_a_pass_and_a_killed_one_loses_its_shard_only(
    place, tmp_path
):
    folder = RunFolder(place)
    with folder.locked():
        samples = [Sample(f"s{n}", "", (), (), "", "") for n in range(6)]
        write_samples(folder.samples, table_of(samples))
        (folder.measured / "model").mkdir(parents=True)
        (folder.measured / "model" / "weights").write_text("'s weights")
        made = folder.measured / "pre"
        shards = [astuple(shard) for shard in shards_to_make(made, "key", 6, 2)]
        publish(made)
        one = {"SELFILTER_CACHE": str(tmp_path / "one"), "HOST": "one", "DIES_AT": "s2"}
        two = {"SELFILTER_CACHE": str(tmp_path / "two"), "HOST": "two", "DIES_AT": "never"}
        hosts_at_work(place, (one, shards[:2], 9), (two, shards[1:], 0))
        assert [shard.number for shard in shards_to_make(made, "key", 6, 2)] == [0, 1, 2]
        fetch(made)
        assert shards_to_make(made, "key", 6, 2) == []
        table = read_shards(shard_files(made), ["id", "made"]).sort_by("id")
    assert table["id"].to_pylist() == [f"s{n}" for n in range(6)]
    assert table["made"].to_pylist() == ["one's weights"] * 2 + ["two's weights"] * 4
    assert not list((tmp_path / "two" / "work").glob("*/pre"))


def test_a_shard_without_its_record_is_made_again_by_another_host(place, tmp_path, monkeypatch):
    folder = RunFolder(place)
    with folder.locked():
        made = folder.measured / "pre"
        shard = Shard(0, 0, 2)
        write_bytes(below(place, "measured/pre/shard-00000.parquet"), b"half pushed")
        fetch(made)
        assert shards_to_make(made, "key", 2, 2) == [shard]
        publish(made)
    assert not (made / "shard-00000.parquet").exists()
    assert not exists(below(place, "measured/pre/shard-00000.parquet"))
