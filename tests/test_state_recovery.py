"""Whatever ends a writer, the next one stands where the log ends."""

from __future__ import annotations

import multiprocessing
import random
import shutil
import sqlite3
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from state_streams import (
    BUDGET,
    RATE,
    admit_for_ever,
    arrivals,
    configured,
    opened,
    reference,
)

from selfilter_ray.online import kept as kept_module
from selfilter_ray.online.selector import OnlineSelector
from selfilter_ray.service.state import snapshot_file
from selfilter_ray.service.state.address import FILE
from selfilter_ray.service.state.errors import DamagedError
from selfilter_ray.service.state.snapshots import UNUSABLE

SAMPLES = 90
CUTS = st.lists(
    st.tuples(st.integers(1, 40), st.sampled_from(["go on", "reopen", "snapshot", "both"])),
    min_size=1,
    max_size=8,
)


def in_pieces(config, samples, cuts):
    """The answers of writers that were closed and opened in between, and the last digest."""
    answers, start = [], 0
    writer = opened(config)
    for size, then in [*cuts, (len(samples), "reopen")]:
        answers += writer.admit(samples[start : start + size])
        start += size
        if then in ("snapshot", "both"):
            writer.snapshot()
        if then in ("reopen", "both"):
            writer.close()
            writer = opened(config)
    digest = writer.digest()
    writer.close()
    return answers, digest


@pytest.mark.parametrize("online", [RATE, BUDGET], ids=["rate", "budget"])
@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    cuts=CUTS, repeats=st.lists(st.integers(0, SAMPLES - 1), max_size=10), seed=st.integers(0, 9)
)
def test_batches_reopening_and_snapshots_change_no_decision(
    tmp_path_factory, online, cuts, repeats, seed
):
    sent = arrivals(SAMPLES, seed)
    for number in repeats:
        sent.insert((31 * seed + 7 * number) % len(sent), sent[number])
    once = list({one.id: one for one in sent}.values())  # in the order of their first coming
    decisions, digest = reference(once, online)
    by_id = {one.id: one for one in decisions}
    folder = tmp_path_factory.mktemp("state")
    assert in_pieces(configured(folder, online), sent, cuts) == (
        [by_id[one.id] for one in sent],
        digest,
    )
    shutil.rmtree(folder)


@pytest.mark.parametrize("online", [RATE, BUDGET], ids=["rate", "budget"])
def test_a_snapshot_spares_the_replay_of_what_it_holds(tmp_path, online):
    config = configured(tmp_path, online)
    writer = opened(config)
    writer.admit(arrivals(70))
    told = writer.snapshot()
    assert (told["sequence"], told["file"]) == (70, f"{70:015d}.state.safetensors")
    writer.admit(arrivals(30, start=70))
    digest, figures = writer.digest(), writer.stats()
    writer.close()
    writer = opened(config)
    stats = writer.stats()
    assert (stats["replayed"], stats["snapshot"]["sequence"]) == (30, 70)
    assert stats["snapshot"]["bytes"] == told["bytes"]
    for name in ("admitted", "rejected", "evicted", "kept"):
        assert stats[name] == figures[name]
    assert writer.digest() == digest == reference(arrivals(100), online)[1]
    writer.close()


def test_a_snapshot_of_nothing_kept_is_one(tmp_path):
    config = configured(tmp_path)
    writer = opened(config)
    writer.admit(arrivals(1))
    assert writer.snapshot()["kept"] == 0
    writer.close()
    writer = opened(config)
    assert writer.stats()["replayed"] == 0
    writer.close()


def test_snapshots_come_by_themselves_and_only_the_newest_stay(tmp_path):
    writer = opened(configured(tmp_path, decisions=20, keep=2))
    for start in range(0, 120, 10):
        writer.admit(arrivals(10, start=start))
        writer._snapshots._writing and writer._snapshots._writing.result()
    writer.close()
    names = sorted(file.name for file in (tmp_path / "snapshots").iterdir())
    assert [name[:15] for name in names if name.endswith("safetensors")] == [
        f"{100:015d}",
        f"{120:015d}",
    ]
    assert len(names) == 4


def test_a_snapshot_holds_its_moment_while_samples_come_and_go(tmp_path, monkeypatch):
    """With a budget slots are taken again while the vectors are being written."""
    config = configured(tmp_path, BUDGET)
    writer = opened(config)
    writer.admit(arrivals(60))
    digest = writer.digest()
    monkeypatch.setattr(snapshot_file, "PART_BYTES", 1)
    captured, write = [], snapshot_file.write

    def slowly(folder, held, rows):
        def later(start, stop):
            if not captured:  # between the capture and the first row
                captured.append(writer.admit(arrivals(200, start=60)))
            return rows(start, stop)

        return write(folder, held, later)

    monkeypatch.setattr(snapshot_file, "write", slowly)
    file = tmp_path / "snapshots" / writer.snapshot()["file"]
    assert sum(one.admitted for one in captured[0]) > 5
    writer.close()
    held = snapshot_file.read(file)
    assert held.sequence == 60
    assert OnlineSelector.restore(held.state).digest() == digest
    rows_KD = np.asarray(held.state.arrays["features_KD"])
    digests = np.stack([kept_module.row_digest(row_D) for row_D in rows_KD])
    assert (digests == held.state.arrays["digest_K2"]).all()


def flip(file, place):
    data = bytearray(file.read_bytes())
    data[place if place >= 0 else len(data) + place] ^= 0x10
    file.write_bytes(data)


def cut_short(file, place):
    file.write_bytes(file.read_bytes()[:place])


DAMAGES = {
    "a bit of the vectors": lambda state, features: flip(features, -5),
    "the header of the vectors": lambda state, features: flip(features, 20),
    "truncated vectors": lambda state, features: cut_short(features, 200),
    "no vectors": lambda state, features: features.unlink(),
    "a bit of the state": lambda state, features: flip(state, -5),
    "the header of the state": lambda state, features: flip(state, 60),
    "truncated state": lambda state, features: cut_short(state, 100),
    "empty state": lambda state, features: cut_short(state, 0),
    "garbage": lambda state, features: state.write_bytes(b"\x80\x04garbage" * 99),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_snapshot_gives_way_to_an_older_one_and_then_to_the_log(tmp_path, damage, caplog):
    config = configured(tmp_path)
    writer = opened(config)
    for start in (0, 40):
        writer.admit(arrivals(40, start=start))
        writer.snapshot()
    writer.admit(arrivals(10, start=80))
    digest = writer.digest()
    writer.close()
    for replayed in (50, 90):
        newest = max((tmp_path / "snapshots").glob("*.safetensors"))
        DAMAGES[damage](newest, snapshot_file.features_of(newest))
        caplog.clear()
        writer = opened(config)
        assert writer.stats()["replayed"] == replayed
        assert writer.digest() == digest
        assert str(newest) in caplog.text
        writer.close()
        assert newest.with_name(newest.name + UNUSABLE).exists()


def test_a_snapshot_of_another_state_is_not_taken(tmp_path):
    for name, seed in (("one", 0), ("two", 1)):
        writer = opened(configured(tmp_path / name, snapshot_dir=str(tmp_path / "shared")))
        writer.admit(arrivals(30, seed))
        assert writer.stats()["replayed"] == 0
        assert writer.digest() == reference(arrivals(30, seed))[1]
        writer.snapshot()
        writer.close()


def test_a_snapshot_ahead_of_a_log_that_was_put_back_is_not_taken(tmp_path, caplog):
    config = configured(tmp_path)
    writer = opened(config)
    writer.admit(arrivals(20))
    writer.close()
    shutil.copy(tmp_path / FILE, tmp_path / "backup")
    writer = opened(config)
    writer.admit(arrivals(20, start=20))
    writer.snapshot()
    writer.close()
    shutil.copy(tmp_path / "backup", tmp_path / FILE)
    writer = opened(config)
    assert "holds 40 decisions and the log 20" in caplog.text
    assert writer.digest() == reference(arrivals(20))[1]
    # Other samples take the places of the lost ones.
    writer.admit(arrivals(20, seed=5, start=20))
    writer.snapshot()
    digest = writer.digest()
    writer.close()
    writer = opened(config)
    assert (writer.stats()["replayed"], writer.digest()) == (0, digest)
    writer.close()


def test_a_snapshot_that_cannot_be_written_stops_nothing(tmp_path, caplog):
    (tmp_path / "a file").write_text("no folder")
    folder = tmp_path / "a file" / "snapshots"
    writer = opened(configured(tmp_path, decisions=10, snapshot_dir=str(folder)))
    for start in range(0, 40, 10):
        writer.admit(arrivals(10, start=start))
    assert writer.digest() == reference(arrivals(40))[1]
    writer.close()
    assert "could not be written" in caplog.text


def torn(folder, target, keep, zeros=0):
    """A copy of a state whose last changes were not all written."""
    target.mkdir()
    shutil.copy(folder / FILE, target / FILE)
    wal = (folder / f"{FILE}-wal").read_bytes()
    (target / f"{FILE}-wal").write_bytes(wal[:keep] + b"\0" * zeros)
    return len(wal)


@pytest.mark.parametrize("zeros", [0, 5000], ids=["cut", "zeroed"])
def test_a_torn_tail_is_cut_at_the_last_whole_batch(tmp_path, zeros):
    config = configured(tmp_path / "whole")
    writer = opened(config)
    for start in range(0, 60, 4):
        writer.admit(arrivals(4, start=start))
    size = (tmp_path / "whole" / f"{FILE}-wal").stat().st_size
    ends = set()
    for number, keep in enumerate(np.linspace(size * 0.4, size, 12).astype(int).tolist()):
        target = tmp_path / f"torn-{number}"
        torn(tmp_path / "whole", target, keep, zeros)
        again = opened(configured(target))
        ends.add(again.sequence)
        assert again.sequence % 4 == 0
        assert again.digest() == reference(arrivals(again.sequence))[1]
        again.admit(arrivals(60))
        assert again.digest() == reference(arrivals(60))[1]
        again.close()
    assert len(ends) > 5 and 60 in ends
    writer.close()


def changed(folder, *statements):
    with sqlite3.connect(folder / FILE) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount == 1


FAULTS = {
    "a missing record": "DELETE FROM selfilter_decisions WHERE sequence = 30",
    "the last record": "DELETE FROM selfilter_decisions WHERE sequence = 59",
    "a number": "UPDATE selfilter_decisions SET difficulty = difficulty + 1e-9 WHERE sequence = 30",
    "an id": "UPDATE selfilter_decisions SET id = 'other' WHERE sequence = 30",
    "a reason": "UPDATE selfilter_decisions SET reason = 'what' WHERE sequence = 30",
    "a type": "UPDATE selfilter_decisions SET adjusted = 'what' WHERE sequence = 30",
    "neighbours": "UPDATE selfilter_decisions SET nearest = '[' WHERE sequence = 30",
    "a digest": "UPDATE selfilter_decisions SET digest = x'00' WHERE sequence = 30",
    "a checksum": "UPDATE selfilter_decisions SET checksum = x'00' WHERE sequence = 30",
    "a vector": "UPDATE selfilter_vectors SET features = zeroblob(24) WHERE sequence = "
    "(SELECT max(sequence) FROM selfilter_vectors)",
    "a missing vector": "DELETE FROM selfilter_vectors WHERE sequence = "
    "(SELECT max(sequence) FROM selfilter_vectors)",
    "the end": "UPDATE selfilter_head SET checksum = x'00'",
    "an earlier end": "UPDATE selfilter_head SET sequence = 58",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_damage_in_the_log_is_refused_with_the_command_that_repairs_it(tmp_path, fault):
    writer = opened(configured(tmp_path))
    writer.admit(arrivals(60))
    writer.close()
    changed(tmp_path, FAULTS[fault])
    with pytest.raises(DamagedError, match=rf"python -m selfilter_ray.*repair {tmp_path}"):
        opened(configured(tmp_path))


def test_a_missing_record_is_noticed_before_a_snapshot_too(tmp_path):
    writer = opened(configured(tmp_path))
    writer.admit(arrivals(60))
    writer.snapshot()
    writer.close()
    changed(tmp_path, FAULTS["a missing record"])
    with pytest.raises(DamagedError, match="59 records, and should have 60"):
        opened(configured(tmp_path))


def test_a_file_that_is_no_database_is_refused(tmp_path):
    (tmp_path / FILE).write_bytes(b"no database" * 1000)
    with pytest.raises(DamagedError, match="not a database"):
        opened(configured(tmp_path))


@pytest.mark.parametrize("online", [RATE, BUDGET], ids=["rate", "budget"])
def test_no_answer_is_lost_and_none_given_twice_when_the_process_is_killed(tmp_path, online):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["selfilter_ray.service.state.writer"])
    told, kills = [], random.Random(7)
    for turn in range(6):
        here, there = context.Pipe(duplex=False)
        child = context.Process(target=admit_for_ever, args=(tmp_path, online, turn, there))
        child.start()
        there.close()
        told += here.recv()  # it is at work now
        time.sleep(kills.uniform(0.0, 0.25))
        child.kill()
        child.join()
        try:
            while True:
                told += here.recv()
        except EOFError:
            pass
    writer = opened(configured(tmp_path, online))
    stored = [
        (one.decision.sequence, one.decision.id, one.decision.reason)
        for one in writer._store.records(range(writer.sequence))
    ]
    samples = arrivals(writer.sequence)
    decisions, digest = reference(samples, online)
    assert stored == [(one.sequence, one.id, one.reason) for one in decisions]
    assert len(told) == len(set(told)) and set(told) <= set(stored)
    assert writer.digest() == digest
    assert writer.admit(samples) == decisions
    writer.close()
    shutil.rmtree(tmp_path / "snapshots", ignore_errors=True)
    writer = opened(configured(tmp_path, online))
    assert (writer.stats()["replayed"], writer.digest()) == (len(stored), digest)
    writer.close()
