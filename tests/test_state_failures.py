"""A disk that is full, a database that goes away: nothing is answered, nothing is half written."""

from __future__ import annotations

import sqlite3
import subprocess

import pytest
from sqlalchemy import event
from state_streams import BUDGET, RATE, arrivals, configured, opened, reference

from selfilter_ray.service.messages import NotReadyError, Preview
from selfilter_ray.service.state.address import FILE

LARGE = Preview("x", b"x" * 40_000)


@pytest.fixture(params=[RATE, BUDGET], ids=["rate", "budget"])
def online(request):
    return request.param


class PageLimit:
    """SQLite's own limit on the size of the file, on every connection that the writer makes."""

    def __init__(self, folder, writer):
        self.pages = 2**30
        event.listen(writer._store.database._engine, "connect", self._limit)
        writer._store.database.let_go()

    def _limit(self, connection, _):
        connection.execute(f"PRAGMA max_page_count = {self.pages}")

    def fill(self, writer):
        self.pages = 1  # SQLite takes the pages that are there
        writer._store.database.let_go()

    def free(self, writer):
        self.pages = 2**30
        writer._store.database.let_go()


class SmallDisk:
    """A file system in memory that another file fills."""

    def __init__(self, folder, writer):
        self.other = folder / "other"

    def fill(self, writer):
        with open(self.other, "wb", buffering=0) as file:
            for size in (65_536, 4_096):
                try:
                    while True:
                        file.write(b"\0" * size)
                except OSError:
                    continue

    def free(self, writer):
        self.other.unlink()


@pytest.fixture(params=[PageLimit, SmallDisk])
def disk(request, tmp_path):
    if request.param is PageLimit:
        yield tmp_path, PageLimit
        return
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", tmp_path], capture_output=True, text=True
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield tmp_path, SmallDisk
    subprocess.run(["umount", "-l", tmp_path], check=True)


def stored(folder):
    with sqlite3.connect(folder / FILE) as connection:
        return connection.execute("SELECT id FROM selfilter_decisions ORDER BY sequence").fetchall()


def test_a_full_disk_answers_nothing_and_goes_on_when_there_is_space(disk, online):
    folder, kind = disk
    writer = opened(configured(folder, online))
    space = kind(folder, writer)
    before = writer.admit(arrivals(30))
    kept = writer.selection(-1, 1000)
    figures = writer.stats()
    space.fill(writer)
    for _ in range(3):
        with pytest.raises(NotReadyError):
            writer.admit(arrivals(40, start=30, preview=LARGE))
    with pytest.raises(NotReadyError):
        writer.snapshot()
    assert writer.sequence == 30
    assert writer.selection(-1, 1000) == kept  # it can still be read, as the log says
    beside = {"series": 0, "bytes": 0}  # of the clock, and of what is in memory
    assert writer.stats() | beside == figures | beside
    assert writer.recent(5)["admitted"]
    space.free(writer)
    answers = writer.admit(arrivals(40, start=30, preview=LARGE))
    decisions, digest = reference(arrivals(70), online)
    assert (before + answers, writer.digest()) == (decisions, digest)
    assert [row[0] for row in stored(folder)] == [one.id for one in decisions]
    writer.close()
    writer = opened(configured(folder, online))
    assert writer.digest() == digest
    writer.close()


def test_what_was_never_answered_may_be_gone_after_a_restart(disk):
    folder, kind = disk
    writer = opened(configured(folder))
    space = kind(folder, writer)
    writer.admit(arrivals(30))
    space.fill(writer)
    with pytest.raises(NotReadyError):
        writer.admit(arrivals(40, start=30, preview=LARGE))
    writer.close()
    space.free(writer)
    writer = opened(configured(folder))
    assert writer.sequence == 30
    assert writer.digest() == reference(arrivals(30))[1]
    writer.close()


def test_other_samples_do_not_overtake_those_that_wait_to_be_stored(disk):
    folder, kind = disk
    writer = opened(configured(folder))
    space = kind(folder, writer)
    writer.admit(arrivals(10))
    space.fill(writer)
    with pytest.raises(NotReadyError):
        writer.admit(arrivals(20, start=10, preview=LARGE))
    space.free(writer)
    writer.admit(arrivals(10, start=30))
    assert [row[0] for row in stored(folder)] == [f"s{number}" for number in range(40)]
    assert writer.digest() == reference(arrivals(40))[1]
    writer.close()


def test_a_locked_database_is_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr("selfilter_ray.service.state.engine.BUSY_SECONDS", 0.05)
    writer = opened(configured(tmp_path))
    other = sqlite3.connect(tmp_path / FILE, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(NotReadyError, match="locked"):
        writer.admit(arrivals(10))
    other.execute("ROLLBACK")
    other.close()
    assert writer.admit(arrivals(10)) == reference(arrivals(10))[0]
    writer.close()


def test_what_the_failure_says_holds_no_content(tmp_path, caplog):
    writer = opened(configured(tmp_path))
    space = PageLimit(tmp_path, writer)
    space.fill(writer)
    with pytest.raises(NotReadyError) as raised:
        writer.admit(arrivals(40, preview=Preview("a secret", b"x" * 40_000)))
    assert "secret" not in caplog.text + str(raised.value)
    assert "full" in str(raised.value)
    writer.close()
