"""A service whose run and snapshots lie in an object store, on hosts that share no disk."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from s3_server import s3_server
from service_run import make_pool_features, make_service_run
from state_streams import arrivals, configured, opened

from selfilter_ray.errors import ConfigError
from selfilter_ray.service.config import load_service_config, parse_service_config
from selfilter_ray.service.messages import Incoming, NotReadyError
from selfilter_ray.service.scoring import FeatureScorer
from selfilter_ray.storage import Mirror, exists, write_bytes


@pytest.fixture(scope="module")
def store():
    with s3_server("team") as server:
        yield server


@pytest.fixture
def another_host(monkeypatch, tmp_path):
    """Call it to go on as a host that has copied nothing yet."""
    hosts = iter(range(100))

    def go() -> None:
        monkeypatch.setenv("SELFILTER_CACHE", str(tmp_path / f"host-{next(hosts)}"))

    go()
    return go


def test_a_run_in_a_store_scores_as_its_folder_does(store, another_host, tmp_path):
    folder = make_service_run(tmp_path / "run")
    Mirror("s3://team/run", folder).push()
    rows = make_pool_features(9, 3)
    sent = [Incoming("", b"", row) for row in rows]
    here = [one.difficulty for one in FeatureScorer(folder).score(sent)]
    shutil.rmtree(folder)
    config = load_service_config("s3://team/run", [f"state={tmp_path / 'state'}"])
    there = [one.difficulty for one in FeatureScorer(config.run_dir).score(sent)]
    assert np.array_equal(here, there)


def test_a_writer_on_another_host_goes_on_from_the_stored_snapshot(store, another_host, tmp_path):
    config = configured(tmp_path / "log", snapshot_dir="s3://team/one", keep=2)
    writer = opened(config)
    for start in (0, 20, 40):
        writer.admit(arrivals(20, start=start))
        writer.snapshot()
    writer.admit(arrivals(10, start=60))
    digest = writer.digest()
    writer.close()
    assert not exists("s3://team/one/000000000000020.state.safetensors")
    another_host()
    again = opened(config)
    assert (again.stats()["replayed"], again.digest()) == (10, digest)
    again.close()


def test_a_damaged_snapshot_in_the_store_is_passed_over(store, another_host, tmp_path):
    config = configured(tmp_path / "log", snapshot_dir="s3://team/damaged")
    writer = opened(config)
    for start in (0, 20):
        writer.admit(arrivals(20, start=start))
        writer.snapshot()
    digest = writer.digest()
    writer.close()
    write_bytes("s3://team/damaged/000000000000040.state.safetensors", b"not what was written")
    another_host()
    again = opened(config)
    assert (again.stats()["replayed"], again.digest()) == (20, digest)
    again.close()


def test_without_its_store_a_writer_replays_the_log_and_says_that_no_snapshot_was_kept(
    another_host, tmp_path
):
    with s3_server("away") as server:
        config = configured(tmp_path / "log", snapshot_dir="s3://away/one")
        writer = opened(config)
        writer.admit(arrivals(30))
        writer.snapshot()
        digest = writer.digest()
        server.stop()
        with pytest.raises(NotReadyError, match="could not be written"):
            writer.snapshot()
        assert writer.admit(arrivals(1, start=30))
        writer.close()
        another_host()
        again = opened(config)
        assert again.stats()["replayed"] == 31
        assert again.digest() != digest
        again.close()


def test_a_state_in_a_store_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="state"):
        parse_service_config({"run_dir": "s3://team/run"})
    with pytest.raises(ConfigError, match="PostgreSQL"):
        parse_service_config({"run_dir": str(tmp_path), "state": "s3://team/state"})
    config = parse_service_config({"run_dir": "s3://team/run", "state": "postgresql://u@h/d"})
    assert config.snapshots_place == "s3://team/run/online/snapshots"
