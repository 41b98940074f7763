"""One writer, proved: a second one is refused, a stale one can store nothing."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3

import pytest
from state_streams import BASE, BUDGET, FEATURES, RATE, arrivals, configured, opened, reference

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.service.state.address import FILE
from selfilter_ray.service.state.errors import FencedError, LeaseHeldError
from selfilter_ray.service.state.lease import FileLease
from selfilter_ray.service.state.writer import SelectionWriter

# The children import nothing; they end before any other thread is started.
FORK = multiprocessing.get_context("fork")


def changed(folder, statement):
    with sqlite3.connect(folder / FILE) as connection:
        connection.execute(statement)


def log_of(folder):
    with sqlite3.connect(folder / FILE) as connection:
        return connection.execute("SELECT * FROM selfilter_decisions ORDER BY sequence").fetchall()


def test_a_second_writer_is_refused_and_told_who_has_the_state(tmp_path):
    first = opened(configured(tmp_path), "the first service")
    with pytest.raises(LeaseHeldError, match=rf"the first service \(process {os.getpid()} on"):
        opened(configured(tmp_path))
    assert first.admit(arrivals(3)) == reference(arrivals(3))[0]
    first.close()
    opened(configured(tmp_path)).close()


def hold_lease(file, connection):
    lease = FileLease(file, "a child")
    connection.send("held")
    connection.recv()
    lease.release()


def test_the_lease_ends_with_its_process(tmp_path):
    here, there = FORK.Pipe()
    child = FORK.Process(target=hold_lease, args=(tmp_path / "writer.lock", there))
    child.start()
    assert here.recv() == "held"
    with pytest.raises(LeaseHeldError, match="a child"):
        opened(configured(tmp_path))
    child.kill()
    child.join()
    opened(configured(tmp_path)).close()


def test_each_writer_has_an_epoch_of_its_own_in_every_record(tmp_path):
    for start in (0, 4, 8):
        writer = opened(configured(tmp_path))
        writer.admit(arrivals(4, start=start))
        writer.close()
    assert [row[3] for row in log_of(tmp_path)] == [1] * 4 + [2] * 4 + [3] * 4


@pytest.mark.parametrize("moved", [0, 6], ids=["only the epoch", "the log too"])
def test_a_writer_that_lost_its_lease_can_store_nothing(tmp_path, moved):
    stale = opened(configured(tmp_path))
    stale.admit(arrivals(10))
    stale._store.database._lease.release()  # as on a disk whose locks are not kept
    stale._store.database._lease = None
    newer = opened(configured(tmp_path))
    newer.admit(arrivals(moved, start=10))
    before = log_of(tmp_path)
    for _ in range(2):
        with pytest.raises(FencedError, match="epoch 2"):
            stale.admit(arrivals(5, start=20))
    with pytest.raises(FencedError):
        stale.digest()
    assert log_of(tmp_path) == before
    stale.close()
    newer.admit(arrivals(10, start=10 + moved))
    assert newer.digest() == reference(arrivals(20 + moved))[1]
    newer.close()


def test_a_state_of_a_newer_format_is_refused(tmp_path):
    opened(configured(tmp_path)).close()
    changed(tmp_path, "UPDATE selfilter_identity SET value = '2' WHERE name = 'format'")
    with pytest.raises(ArtifactError, match=r"format 2.*up to 1.*upgrade"):
        opened(configured(tmp_path))


@pytest.mark.parametrize(
    ("online", "features", "base", "said"),
    [
        (RATE.model_copy(update={"rate": 0.5}), FEATURES, BASE, "rate is 0.3 there and 0.5 here"),
        (RATE.model_copy(update={"gamma": 2.0}), FEATURES, BASE, "gamma is 1.0 there and 2.0 here"),
        (BUDGET, FEATURES, BASE, "budget is null there and 12 here"),
        (RATE, FEATURES + 1, BASE, "features is 6 there and 7 here"),
        (RATE, FEATURES, 0.5, "base is -3.0 there and 0.5 here"),
    ],
)
def test_other_settings_than_the_state_was_made_with_are_named(
    tmp_path, online, features, base, said
):
    opened(configured(tmp_path)).close()
    with pytest.raises(ConfigError, match=said):
        SelectionWriter.open(configured(tmp_path, online), features, base, "a test")
    opened(configured(tmp_path)).close()


def test_the_same_rate_and_base_said_otherwise_are_no_difference(tmp_path):
    unsaid = RATE.model_copy(update={"rate": None})
    said = RATE.model_copy(update={"rate": 0.15, "base": BASE})
    opened(configured(tmp_path, unsaid)).close()
    opened(configured(tmp_path, said)).close()


def open_as_nobody(folder, connection):
    if os.getuid() == 0:
        os.setgid(65534)
        os.setuid(65534)
    try:
        opened(configured(folder))
    except ArtifactError as error:
        connection.send(str(error))
    connection.close()


@pytest.mark.parametrize("made", [True, False], ids=["a state", "a new one"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path, made):
    if made:
        opened(configured(tmp_path)).close()
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    tmp_path.chmod(0o555)
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=open_as_nobody, args=(tmp_path, there))
    child.start()
    there.close()
    try:
        assert f"{tmp_path} cannot be written (Permission denied)" in here.recv()
    finally:
        child.join()
        tmp_path.chmod(0o755)


def test_a_database_file_that_cannot_be_written_is_named(tmp_path):
    opened(configured(tmp_path)).close()
    for folder in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        folder.chmod(0o755)
    (tmp_path / "writer.lock").chmod(0o666)
    here, there = FORK.Pipe(duplex=False)
    child = FORK.Process(target=open_as_nobody, args=(tmp_path, there))
    (tmp_path / FILE).chmod(0o444)
    tmp_path.chmod(0o555)
    child.start()
    there.close()
    try:
        assert "cannot be written" in here.recv()
    finally:
        child.join()
        tmp_path.chmod(0o755)
