"""A damaged log can be cut back to its last good record, and what was there is kept."""

from __future__ import annotations

import sqlite3
import sys

import pytest
from state_streams import RATE, arrivals, configured, opened, reference
from test_state_recovery import FAULTS, changed, flip

from selfilter_ray.service.messages import Preview
from selfilter_ray.service.state import repair as repairing
from selfilter_ray.service.state.address import FILE
from selfilter_ray.service.state.errors import DamagedError, LeaseHeldError


def made(folder, count=60):
    writer = opened(configured(folder))
    answers = writer.admit(arrivals(count, preview=Preview("text", b"\xff")))
    writer.close()
    return answers


def command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["repair", *map(str, arguments)])
    code = 0
    try:
        repairing.main()
    except SystemExit as end:
        code = end.code
    return code, *capsys.readouterr()


@pytest.mark.parametrize("fault", FAULTS)
def test_the_log_is_cut_back_to_its_last_good_record(tmp_path, fault):
    answers = made(tmp_path)
    changed(tmp_path, FAULTS[fault])
    said = repairing.repair(str(tmp_path))
    writer = opened(configured(tmp_path))
    good = writer.sequence
    assert f"the first {good} records" in said
    if "vector" in fault:
        assert good == max(one.sequence for one in answers if one.admitted)
    else:
        assert good == {"the last record": 59, "the end": 60, "an earlier end": 60}.get(fault, 30)
    assert writer.digest() == reference(arrivals(good))[1]
    assert writer.admit(arrivals(good)) == answers[:good]
    assert writer.preview(0).text == "text"
    [copy] = tmp_path.glob("before-repair-*")
    with sqlite3.connect(copy / FILE) as connection:
        found = connection.execute("SELECT count(*) FROM selfilter_decisions").fetchone()[0]
    assert found == (59 if " record" in fault else 60)
    writer.admit(arrivals(60))
    assert writer.digest() == reference(arrivals(60))[1]
    writer.close()


def test_what_is_lost_is_named(tmp_path):
    made(tmp_path, 40)
    changed(tmp_path, FAULTS["a number"])
    said = repairing.repair(str(tmp_path))
    assert "record 30 is not what was written" in said
    assert "10 can be read" in said
    assert "'s30', 's31'" in said and "'s29'" not in said


def test_an_older_snapshot_still_serves_after_a_repair(tmp_path):
    writer = opened(configured(tmp_path))
    for start in (0, 20, 40):
        writer.admit(arrivals(20, start=start))
        writer.snapshot()
    writer.close()
    changed(tmp_path, FAULTS["a missing record"])
    repairing.repair(str(tmp_path))
    writer = opened(configured(tmp_path))
    stats = writer.stats()
    assert (stats["sequence"], stats["replayed"], stats["snapshot"]["sequence"]) == (30, 10, 20)
    assert writer.digest() == reference(arrivals(30))[1]
    writer.close()


def test_a_good_log_is_left_alone(tmp_path, monkeypatch, capsys):
    made(tmp_path)
    before = (tmp_path / FILE).read_bytes()
    for arguments in ([tmp_path], [tmp_path, "--check"]):
        code, out, _ = command(monkeypatch, capsys, *arguments)
        assert code == 0 and "good: 60 records" in out
    assert (tmp_path / FILE).read_bytes() == before


def test_a_check_tells_and_changes_nothing(tmp_path, monkeypatch, capsys):
    made(tmp_path)
    changed(tmp_path, FAULTS["a number"])
    before = (tmp_path / FILE).read_bytes()
    code, out, said = command(monkeypatch, capsys, tmp_path, "--check")
    assert (code, out) == (3, "")
    assert "the first 30 records" in said and "Nothing was changed" in said
    assert (tmp_path / FILE).read_bytes() == before


def test_a_check_finds_damage_that_a_snapshot_hides(tmp_path, monkeypatch, capsys):
    writer = opened(configured(tmp_path))
    writer.admit(arrivals(60))
    writer.snapshot()
    writer.close()
    changed(tmp_path, FAULTS["a number"])
    assert command(monkeypatch, capsys, tmp_path, "--check")[0] == 3


def test_a_state_in_use_is_not_repaired(tmp_path, monkeypatch, capsys):
    writer = opened(configured(tmp_path), "the service")
    with pytest.raises(LeaseHeldError, match="the service"):
        repairing.repair(str(tmp_path))
    code, _, said = command(monkeypatch, capsys, tmp_path)
    assert code == 3 and "in use by the service" in said
    writer.close()


@pytest.mark.parametrize("page", range(2, 60, 3))
def test_a_page_of_garbage_loses_no_record_before_it(tmp_path, page):
    """Whichever page of the file it is: refused, or without harm to what is answered."""
    writer = opened(configured(tmp_path))
    for start in range(0, 400, 40):
        writer.admit(arrivals(40, start=start, preview=Preview("x" * 150)))
    writer.close()
    file = tmp_path / FILE
    data = bytearray(file.read_bytes())
    pages = len(data) // 8192
    first = 8192 * (page % pages)
    data[first : first + 8192] = bytes(8191) + b"\x01"
    file.write_bytes(data)
    try:
        writer = opened(configured(tmp_path))
    except DamagedError as refused:
        try:
            said = repairing.repair(str(tmp_path))
        except DamagedError:
            assert page % pages < 5, refused  # what tells the tables apart: only a backup helps
            return
        assert "copy of what was there" in said
        writer = opened(configured(tmp_path))
    good = writer.sequence
    assert writer.digest() == reference(arrivals(good))[1]
    writer.close()


def test_a_flipped_bit_anywhere_in_the_file_changes_no_decision(tmp_path):
    made(tmp_path / "whole", 200)
    whole = (tmp_path / "whole" / FILE).read_bytes()
    decisions, _ = reference(arrivals(200), RATE)
    refused = 0
    for number, place in enumerate(range(3000, len(whole), len(whole) // 40)):
        folder = tmp_path / f"flipped-{number}"
        folder.mkdir()
        (folder / FILE).write_bytes(whole)
        flip(folder / FILE, place)
        try:
            writer = opened(configured(folder))
        except DamagedError:
            refused += 1
            continue
        assert writer.digest() == reference(arrivals(200))[1]
        writer.close()
    assert refused > 3
    assert len(decisions) == 200
