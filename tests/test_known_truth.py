"""Pools with known truth: what is planted is there, marked, and the same for the same seed."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selfilter_ray.config import DataConfig
from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.known_truth import questions
from selfilter_ray.known_truth.drawings import drawings
from selfilter_ray.known_truth.entry import Entry
from selfilter_ray.known_truth.long_answers import padding
from selfilter_ray.known_truth.mismatched import with_mismatched
from selfilter_ray.known_truth.photographs import VARIABLE
from selfilter_ray.known_truth.pools import POOLS
from selfilter_ray.known_truth.truth import TRUTH, detection
from selfilter_ray.known_truth.write import write_pool
from selfilter_ray.samples.pool import read_pool

ROWS, HELD = 200, 40
DRAWN = [pool.name for pool in POOLS if pool.data == "easy-vqa"]
COCO = os.environ.get(VARIABLE) or str(Path(__file__).parents[2] / "shared/data/coco_mini")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pools")
    return {name: write_pool(name, folder / name, ROWS, 3, HELD) for name in DRAWN}


@pytest.fixture(scope="module")
def clean():
    """Answers of the data set by picture's file name and question."""
    return {(e.picture.name, e.question): e.answer for e in drawings("train")}


def records(file):
    return {record["id"]: record for record in json.loads(file.read_text())}


def truth_of(pool):
    return {row["id"]: row for row in pq.read_table(pool.truth).to_pylist()}


def asked_and_answered(record):
    return tuple(turn["value"] for turn in record["conversations"])


def key(record):
    """The data set's file name and the question, of a record whose picture was not changed."""
    name = Path(record["image"]).name.removeprefix("train-")
    return name, asked_and_answered(record)[0]


@pytest.mark.parametrize("name", DRAWN)
def test_every_record_has_its_truth_and_can_be_read(name, written, tmp_path):
    pool = written[name]
    assert pq.read_table(pool.truth).schema == TRUTH
    truth = truth_of(pool)
    assert list(truth) == list(records(pool.pool)) and len(truth) == ROWS
    for file, blind in ((pool.pool, pool.blind_pool), (pool.held_out, pool.blind_held_out)):
        read, unseen = (read_pool(DataConfig(inputs=[str(one)]), tmp_path) for one in (file, blind))
        assert not read.quarantined and not unseen.quarantined
        assert set(read.table["id"].to_pylist()) == set(unseen.table["id"].to_pylist())
        assert {len(images) for images in read.table["images"].to_pylist()} == {1}
        assert {len(images) for images in unseen.table["images"].to_pylist()} == {0}
    all_seeing = records(pool.pool)
    for id, record in records(pool.blind_pool).items():
        seeing = asked_and_answered(all_seeing[id])
        assert asked_and_answered(record) == (seeing[0].removeprefix("<image>\n"), seeing[1])


@pytest.mark.parametrize("name", DRAWN)
def test_the_planted_share_is_exact_and_told(name, written):
    pool = written[name]
    kind = next(pool for pool in POOLS if pool.name == name)
    counts = Counter(row["kind"] for row in truth_of(pool).values())
    assert counts["clean"] == ROWS - round(kind.share * ROWS)
    assert set(counts) == {"clean"} | ({kind.planted} if kind.planted else set())
    assert pool.description["kinds"] == counts
    assert pool.description["expectation"] == kind.expectation


@pytest.mark.parametrize("name", DRAWN)
def test_what_is_clean_is_as_the_data_set_has_it(name, written, clean):
    for id, truth in truth_of(written[name]).items():
        if truth["kind"] == "clean":
            record = records(written[name].pool)[id]
            assert clean[key(record)] == asked_and_answered(record)[1]


@pytest.mark.parametrize("name", DRAWN)
def test_neither_ids_nor_order_nor_source_tell_what_was_planted(name, written):
    pool, truth = records(written[name].pool), truth_of(written[name])
    assert list(pool) == [f"{name}-{place:06d}" for place in range(ROWS)]
    if written[name].description["planted"]:
        first = Counter(truth[id]["kind"] for id in list(pool)[: ROWS // 2])
        assert len(first) == 2
        planted = {pool[id]["source"] for id in pool if truth[id]["kind"] != "clean"}
        assert planted <= {pool[id]["source"] for id in pool if truth[id]["kind"] == "clean"}


def test_a_wrong_answer_is_wrong_and_of_the_right_type(written, clean):
    pool, truth = records(written["wrong-answers"].pool), truth_of(written["wrong-answers"])
    for id, record in pool.items():
        if truth[id]["kind"] == "wrong_answer":
            right, given = clean[key(record)], asked_and_answered(record)[1]
            assert given != right
            for answers in (questions.SHAPES, questions.COLORS, questions.TRUTHS):
                assert (right in answers) == (given in answers)


def test_a_near_copy_looks_like_its_original_and_answers_the_same(written):
    written = written["near-duplicates"]
    pool, truth = records(written.pool), truth_of(written)
    copies = [id for id in pool if truth[id]["kind"] == "duplicate"]
    reworded = 0
    for id in copies:
        original = pool[truth[id]["original"]]
        assert truth[original["id"]]["kind"] == "clean"
        (question, answer), (first, same) = map(asked_and_answered, (pool[id], original))
        assert answer == same and pool[id]["question_type"] == original["question_type"]
        reworded += question != first
        a, b = (pixels(written.folder / one["image"]) for one in (pool[id], original))
        assert a.shape == b.shape and 0 < np.median(np.abs(a - b)) < 20
    assert 0.3 < reworded / len(copies) < 0.7
    assert max(Counter(truth[id]["original"] for id in copies).values()) == 10


def pixels(file):
    return np.asarray(Image.open(file).convert("RGB"), dtype=float)


def test_trivial_records_have_one_answer_and_do_not_repeat(written):
    pool, truth = records(written["trivial"].pool), truth_of(written["trivial"])
    trivial = [pool[id] for id in pool if truth[id]["kind"] == "trivial"]
    assert {asked_and_answered(record)[1] for record in trivial} == {"yes"}
    assert len({key(record) for record in trivial}) == len(trivial)


def test_long_answers_are_long_and_hold_no_answer(written):
    pool, truth = records(written["long-answers"].pool), truth_of(written["long-answers"])
    known = {*questions.SHAPES, *questions.COLORS, *questions.TRUTHS}
    long = [asked_and_answered(pool[id])[1] for id in pool if truth[id]["kind"] == "long_answer"]
    assert len(set(long)) == len(long)
    for answer in long:
        words = answer.replace(",", "").replace(".", "").split()
        assert len(words) >= 12 and not known & set(words)


@pytest.mark.parametrize("name", DRAWN)
def test_the_held_out_set_is_clean_of_other_pictures_and_the_same_for_all_pools(name, written):
    held, pool = (records(file) for file in (written[name].held_out, written[name].pool))
    test = {(e.picture.name, e.question): e.answer for e in drawings("test")}
    for record in held.values():
        question, answer = asked_and_answered(record)
        assert test[Path(record["image"]).name.removeprefix("test-"), question] == answer
    assert not {r["image"] for r in held.values()} & {r["image"] for r in pool.values()}
    assert list(held.values()) == list(records(written["plain"].held_out).values())


def contents(folder):
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }


def test_the_same_seed_gives_the_same_bytes_in_another_process(written, tmp_path):
    command = [sys.executable, "-m", "benchmarks.evidence_pools", "near-duplicates"]
    options = [str(tmp_path / "again"), "--rows", str(ROWS), "--seed", "3", "--held-out", str(HELD)]
    result = subprocess.run(
        [*command, *options],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "77"},
    )
    assert result.returncode == 0, result.stderr
    assert contents(tmp_path / "again") == contents(written["near-duplicates"].folder)
    assert json.loads(result.stdout) == written["near-duplicates"].description


def test_another_seed_gives_another_pool_and_the_same_held_out_set(written, tmp_path):
    other = write_pool("plain", tmp_path / "other", ROWS, 4, HELD)
    assert other.pool.read_bytes() != written["plain"].pool.read_bytes()
    assert other.held_out.read_bytes() == written["plain"].held_out.read_bytes()


def test_a_folder_is_written_once_and_never_over_another_pool(written, tmp_path):
    pool = written["plain"]
    before = pool.pool.stat().st_mtime_ns
    assert write_pool("plain", pool.folder, ROWS, 3, HELD) == pool
    assert write_pool("plain", pool.folder, None, 3, HELD) == pool
    assert pool.pool.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match="another pool"):
        write_pool("plain", pool.folder, ROWS, 5, HELD)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ConfigError, match="not empty"):
        write_pool("plain", tmp_path, ROWS, 3, HELD)


def test_what_cannot_be_had_is_said(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="plain, wrong-answers"):
        write_pool("odd", tmp_path / "odd")
    with pytest.raises(ConfigError, match="1 to 38575 rows"):
        write_pool("plain", tmp_path / "plain", 38_576)
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=VARIABLE):
        write_pool("mismatched-captions", tmp_path / "captions")


def test_every_question_of_the_data_set_is_known_and_keeps_its_type_reworded():
    random = np.random.default_rng(0)
    types = Counter()
    for question in sorted({e.question.removeprefix("<image>\n") for e in drawings("train")}):
        types[questions.question_type(question)] += 1
        other = questions.reworded(question, random)
        assert other != question
        assert questions.question_type(other) == questions.question_type(question)
        assert {*questions.SHAPES, *questions.COLORS} & set(question[:-1].split()) == {
            *questions.SHAPES,
            *questions.COLORS,
        } & set(other[:-1].split())
    assert set(types) == {"presence", "absence", "color", "shape"}
    assert questions.question_type("is no red shape present?") == "absence"
    with pytest.raises(ValueError, match="no question"):
        questions.question_type("why?")
    with pytest.raises(ValueError, match="no answer"):
        questions.wrong_answer("maybe", random)


def test_padding_is_hard_to_guess():
    random = np.random.default_rng(0)
    assert len({padding(random) for _ in range(500)}) == 500


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 12), min_size=60, max_size=120), st.integers(0, 99))
def test_a_swapped_caption_is_of_another_picture(pictures, seed):
    entries = [
        Entry(Path(f"{picture}.jpg"), "<image>\n?", f"{picture} {row}", "caption")
        for row, picture in enumerate(pictures)
    ]
    try:
        mixed = with_mismatched(entries, len(entries), np.random.default_rng(seed))
    except DataError:
        assert max(Counter(pictures).values()) > 4
        return
    for entry in mixed:
        same = entry.answer.split()[0] == entry.picture.stem
        assert same == (entry.kind == "clean")
    assert sorted(e.answer for e in mixed) == sorted(e.answer for e in entries)


@pytest.mark.skipif(not Path(COCO).is_dir(), reason=f"no photographs: set {VARIABLE}")
def test_captions_of_photographs_are_swapped_and_others_held_out(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, COCO)
    pool = write_pool("mismatched-captions", tmp_path / "captions", seed=1)
    file = Path(COCO) / "llava_captions_open.json"
    source = [(Path(r["image"]).name, *asked_and_answered(r)) for r in json.loads(file.read_text())]
    pairs = {(name, answer) for name, _, answer in source}
    truth = truth_of(pool)
    for id, record in records(pool.pool).items():
        name = Path(record["image"]).name.removeprefix("open-")
        is_pair = (name, asked_and_answered(record)[1]) in pairs
        assert is_pair == (truth[id]["kind"] == "clean")
    held = {record["image"] for record in records(pool.held_out).values()}
    assert held and not held & {record["image"] for record in records(pool.pool).values()}
    assert len(truth) + sum(pool.description["held_out"].values()) == len(source)


def made_truth(*rows):
    return pa.Table.from_pylist(
        [dict(zip(("id", "kind", "original"), row, strict=True)) for row in rows], schema=TRUTH
    )


def test_detection_counts_what_was_planted_among_the_picks():
    kinds = ["wrong_answer"] * 2 + ["clean"] * 8
    truth = made_truth(*((str(row), kind, None) for row, kind in enumerate(kinds)))
    found = detection(truth, ["0", "3", "4", "5"])
    assert (found.planted, found.picked_share, found.pool_share) == (1, 0.25, 0.2)
    assert found.lift == pytest.approx(1.25)
    assert (found.recall, found.precision, found.redundant) == (0.5, 0.75, 0)
    assert found.redundant_by_chance == pytest.approx(0.0, abs=1e-9)
    assert json.loads(json.dumps(found.to_json()))["picks"] == 4
    nothing = detection(truth, [])
    assert nothing.picked_share is None and nothing.lift is None and nothing.precision is None
    for picks in (["0", "0"], ["x"]):
        with pytest.raises(DataError):
            detection(truth, picks)


def test_of_copies_any_one_is_wanted_and_no_second():
    copies = [(f"copy{row}", "duplicate", "a") for row in range(3)]
    truth = made_truth(("a", "clean", None), ("b", "clean", None), *copies)
    assert detection(truth, ["copy1", "b"]).precision == 1.0
    assert detection(truth, ["copy1", "b"]).redundant == 0
    found = detection(truth, ["copy2", "a", "copy0", "b"])
    assert (found.redundant, found.precision) == (2, 0.5)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.data())
def test_redundancy_by_chance_is_the_mean_over_all_draws(groups, data):
    picks = data.draw(st.integers(0, len(groups)))
    first: dict[int, str] = {}
    rows = []
    for row, group in enumerate(groups):
        rows.append((str(row), "duplicate" if group in first else "clean", first.get(group)))
        first.setdefault(group, str(row))
    truth = made_truth(*rows)
    ids = [row[0] for row in rows]
    draws = [detection(truth, list(draw)).redundant for draw in combinations(ids, picks)]
    by_chance = detection(truth, ids[:picks]).redundant_by_chance
    assert by_chance == pytest.approx(np.mean(draws), abs=1e-9)


def test_what_the_start_is_made_of_shares_no_picture_with_the_pool(tmp_path):
    pools = [write_pool(name, tmp_path / name, 60, 5, 10, 25) for name in ("plain", "trivial")]
    start = records(pools[0].start)
    assert len(start) == 25 and pools[0].start.read_bytes() == pools[1].start.read_bytes()
    shown = {record["image"] for record in start.values()}
    for pool in pools:
        assert pool.description["start_rows"] == 25
        pictures = {record["image"] for record in records(pool.pool).values()}
        assert not shown & pictures
        assert all((pool.folder / name).is_file() for name in shown)
    with pytest.raises(ConfigError, match="too many"):
        write_pool("plain", tmp_path / "none", 10, 0, 10, 10**6)


def test_captions_of_the_start_say_what_its_records_say(tmp_path):
    pool = write_pool("plain", tmp_path / "plain", 20, 5, 10, 300)
    captions, start = records(pool.captions), records(pool.start)
    said = {r["image"]: asked_and_answered(r)[1].split() for r in captions.values()}
    assert len(said) == len(captions) > 20
    assert {record["image"] for record in start.values()} >= set(said)
    for record in start.values():
        question, answer = asked_and_answered(record)
        color, shape = said.get(record["image"], ("", ""))
        if color:
            kind = questions.question_type(question.removeprefix("<image>\n"))
            assert answer in {"color": (color,), "shape": (shape,)}.get(kind, ("yes", "no"))
    assert not any(shown["image"] in said for shown in records(pool.pool).values())


@pytest.mark.parametrize(
    ("question", "answer", "found"),
    [
        ("what color is the triangle?", "blue", {"triangle", "blue"}),
        ("what is the color of the shape?", "blue", {"blue"}),
        ("what is the red shape?", "circle", {"red", "circle"}),
        ("is there a teal shape?", "yes", {"teal"}),
        ("is there a teal shape?", "no", set()),
        ("is no circle present?", "no", {"circle"}),
        ("is there not a circle?", "yes", set()),
    ],
)
def test_what_a_question_and_its_answer_tell_of_the_picture(question, answer, found):
    assert questions.told(question, answer) == found


def test_sources_of_the_packaged_data_are_the_types_of_its_questions():
    from selfilter_ray.bundled.easy_vqa import packaged_dataset

    for record in json.loads(packaged_dataset("easy-vqa/test").read_text()):
        question = asked_and_answered(record)[0].removeprefix("<image>\n")
        assert record["source"] == f"easy-vqa/{questions.question_type(question)}"
