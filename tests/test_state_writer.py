"""What the writer answers, stores and shows."""

from __future__ import annotations

import json
import math
import sqlite3
from dataclasses import replace

import numpy as np
import pytest
from state_streams import BUDGET, FEATURES, RATE, arrival, arrivals, configured, opened, reference

from selfilter_ray.online.decision import Decision
from selfilter_ray.service.messages import Preview, Refused
from selfilter_ray.service.state.address import FILE


@pytest.fixture(params=[RATE, BUDGET], ids=["rate", "budget"])
def online(request):
    return request.param


@pytest.fixture
def writer(tmp_path):
    writer = opened(configured(tmp_path))
    yield writer
    writer.close()


def rows(folder, query):
    with sqlite3.connect(folder / FILE) as connection:
        return connection.execute(query).fetchall()


def test_decisions_are_those_of_the_selector_alone(tmp_path, online):
    samples = arrivals(150)
    writer = opened(configured(tmp_path, online))
    answers = [
        answer
        for start in range(0, 150, 32)
        for answer in writer.admit(samples[start : start + 32])
    ]
    decisions, digest = reference(samples, online)
    assert answers == decisions
    assert writer.digest() == digest
    writer.close()


def test_what_was_answered_is_in_the_database_before_the_answer(tmp_path, writer):
    answers = writer.admit(arrivals(20))
    stored = rows(tmp_path, "SELECT sequence, id, reason FROM selfilter_decisions")
    assert stored == [(one.sequence, one.id, one.reason) for one in answers]
    vectors = rows(tmp_path, "SELECT sequence, features FROM selfilter_vectors")
    expected = [
        (a.sequence, s.features_D.tobytes())
        for a, s in zip(answers, arrivals(20), strict=True)
        if a.admitted
    ]
    assert vectors == expected


def test_the_database_waits_for_the_disk(writer):
    with writer._store.database.transaction() as connection:
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"


def test_a_repeated_sample_gets_the_decision_of_then(writer):
    samples = arrivals(40)
    answers = writer.admit(samples)
    assert writer.admit(samples[::-1]) == answers[::-1]
    assert writer.sequence == 40


def test_a_repeated_sample_gets_the_same_decision_after_reopening(tmp_path):
    config = configured(tmp_path)
    writer = opened(config)
    answers = writer.admit(arrivals(40))
    writer.close()
    writer = opened(config)
    assert writer.admit(arrivals(40)) == answers
    writer.close()


def test_an_id_with_other_content_is_a_conflict(writer):
    writer.admit(arrivals(5))
    other = replace(arrivals(1)[0], digest=b"x" * 16)
    [answer] = writer.admit([other])
    assert isinstance(answer, Refused)
    assert (answer.code, answer.status, answer.id) == ("id_conflict", 409, other.id)
    assert writer.sequence == 5
    assert writer.stats()["refused"] == {"id_conflict": 1}


def test_the_same_id_twice_in_a_batch_is_one_sample(writer):
    first, second = arrivals(2)
    other = replace(first, digest=b"x" * 16)
    answers = writer.admit([first, second, first, other, second])
    assert answers[2] == answers[0] and answers[4] == answers[1]
    assert answers[3].code == "id_conflict"
    assert writer.sequence == 2


def test_an_invalid_sample_leaves_its_id_free(writer):
    bad = arrival("a", 1.0, np.zeros(FEATURES))
    good = arrival("a", 1.0, np.ones(FEATURES))
    answers = writer.admit([bad, good, bad])
    assert (answers[0].status, answers[0].code) == (422, "length")
    assert isinstance(answers[1], Decision)
    assert answers[2].code == "id_conflict"


@pytest.mark.parametrize(
    ("difficulty", "row", "code"),
    [
        (math.nan, np.ones(FEATURES), "difficulty"),
        (math.inf, np.ones(FEATURES), "difficulty"),
        (1.0, np.full(FEATURES, np.nan), "not_finite"),
        (1.0, np.full(FEATURES, np.inf), "not_finite"),
        (1.0, np.ones(FEATURES + 1), "dimension"),
        (1.0, np.zeros(FEATURES), "length"),
    ],
)
def test_a_sample_that_cannot_be_decided_on_is_refused_alone(writer, difficulty, row, code):
    before, after = arrivals(2)
    answers = writer.admit([before, arrival("bad", difficulty, row), after])
    assert [type(one) for one in answers] == [Decision, Refused, Decision]
    assert (answers[1].code, answers[1].status) == (code, 422)
    assert answers[1].detail and answers[1].remedy
    assert writer.sequence == 2


@pytest.mark.parametrize("id", ["", "a\0b", "\ud800", "x" * 2049], ids=ascii)
def test_an_id_that_cannot_be_stored_is_refused(writer, id):
    [answer, good] = writer.admit([replace(arrivals(1)[0], id=id), *arrivals(1)])
    assert (answer.code, answer.status) == ("id", 422)
    assert isinstance(good, Decision)


def test_odd_ids_and_texts_are_kept_as_they_are(tmp_path, writer):
    ids = ["../x", "a\nb", "'; DROP TABLE selfilter_decisions; --", "\u00e9\U0001f600", "x" * 2048]
    samples = [
        replace(sample, id=id, preview=Preview("\0 \ud800 \u00e9"))
        for sample, id in zip(arrivals(5), ids, strict=True)
    ]
    answers = writer.admit(samples)
    assert [one.id for one in answers] == ids
    assert writer.admit(samples) == answers
    assert writer.preview(0).text == "\0 ? \u00e9"


def test_minus_zero_comes_back_as_it_was_decided(tmp_path):
    config = configured(tmp_path, RATE.model_copy(update={"difficulty": "raw"}))
    writer = opened(config)
    writer.admit([arrival(f"z{n}", -0.0, np.eye(FEATURES)[n % FEATURES]) for n in range(30)])
    digest = writer.digest()
    writer.close()
    writer = opened(config)
    assert writer.digest() == digest
    writer.close()


def test_the_clock_going_back_does_not_matter(tmp_path, monkeypatch):
    config, now = configured(tmp_path), 2_000_000_000.0
    writer = opened(config)
    answers = []
    for step in range(6):
        monkeypatch.setattr("time.time", lambda step=step: now - 1000.0 * step)
        answers += writer.admit(arrivals(10, start=10 * step))
        stats = writer.stats()
    assert (sum(stats["series"]["admitted"]) + sum(stats["series"]["rejected"])) == 10
    digest = writer.digest()
    writer.close()
    writer = opened(config)
    assert [one.sequence for one in answers] == list(range(60))
    assert writer.admit(arrivals(60)) == answers
    assert writer.digest() == digest
    writer.close()


def test_the_selection_is_what_is_kept_page_by_page(tmp_path, online):
    writer = opened(configured(tmp_path, online))
    answers = writer.admit(arrivals(120))
    gone = {one.evicted for one in answers}
    expected = [one for one in answers if one.admitted and one.id not in gone]
    pages, after = [], -1
    while page := writer.selection(after, 7):
        pages += page
        after = page[-1].decision.sequence
        assert len(page) <= 7
    assert [one.decision for one in pages] == expected
    assert writer.selection(-1, 1000) == pages
    assert all(one.decided_at > 1.6e9 for one in pages)
    writer.close()


def test_the_figures_add_up_and_are_json(tmp_path, online):
    config = configured(tmp_path, online)
    writer = opened(config)
    assert json.dumps(writer.stats(), allow_nan=False)
    answers = writer.admit(arrivals(120))
    stats = writer.stats()
    count = {
        reason: sum(one.reason == reason for one in answers)
        for reason in ("admitted", "too_easy", "near_duplicate")
    }
    assert stats["admitted"] == count["admitted"]
    assert stats["rejected"] == {name: count[name] for name in ("too_easy", "near_duplicate")}
    assert stats["evicted"] == sum(one.evicted is not None for one in answers)
    assert stats["kept"] == stats["admitted"] - stats["evicted"] == len(writer.selection(-1, 1000))
    assert sum(stats["series"]["admitted"]) == count["admitted"]
    for name in ("difficulty", "similarity"):
        assert len(stats[name]["edges"]) == len(stats[name]["admitted"]) + 1
    assert sum(stats["difficulty"]["admitted"]) == count["admitted"]
    json.dumps(stats, allow_nan=False)
    writer.close()
    writer = opened(config)
    again = writer.stats()
    for name in ("admitted", "rejected", "evicted", "kept", "sequence", "threshold", "difficulty"):
        assert again[name] == stats[name]
    assert (again["epoch"], again["replayed"]) == (stats["epoch"] + 1, 120)
    writer.close()


def test_the_newest_samples_come_with_text_thumbnail_and_neighbour(writer):
    samples = arrivals(60, preview=Preview("a text", b"\xff\xd8 jpeg"))
    answers = writer.admit(samples)
    shown = writer.recent(5)
    assert [item["sequence"] for item in shown["admitted"]] == [
        one.sequence for one in answers if one.admitted
    ][:-6:-1]
    for item in (*shown["admitted"], *shown["rejected"]):
        assert (item["text"], item["thumbnail"]) == ("a text", True)
        assert writer.preview(item["sequence"]).thumbnail == b"\xff\xd8 jpeg"
    for item in shown["rejected"]:
        neighbour = item["neighbour"]
        assert neighbour["id"] == item["nearest"][0]["id"]
        assert answers[neighbour["sequence"]].id == neighbour["id"]
        assert neighbour["thumbnail"] is True
    json.dumps(shown, allow_nan=False)


def test_previews_stay_for_kept_and_for_the_newest_rejected(tmp_path):
    config = configured(tmp_path, BUDGET, rejected=8)
    writer = opened(config)
    answers = []
    for start in range(0, 120, 10):
        answers += writer.admit(arrivals(10, start=start))
        if start == 60:
            writer.close()
            writer = opened(config)
    kept = {one.decision.sequence for one in writer.selection(-1, 1000)}
    newest = {one.sequence for one in [one for one in answers if not one.admitted][-8:]}
    stored = {row[0] for row in rows(tmp_path, "SELECT sequence FROM selfilter_previews")}
    assert stored == kept | newest
    assert writer.preview(10**9) is None
    writer.close()
