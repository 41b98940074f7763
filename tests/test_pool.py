"""The pool: every row is accounted for, and nothing depends on the order of the input."""

from __future__ import annotations

import hashlib
import io
import json
import random
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from selfilter_ray.config import DataConfig
from selfilter_ray.errors import ArtifactError, DataError
from selfilter_ray.samples import files
from selfilter_ray.samples.files import (
    SCHEMA,
    iterate_samples,
    read_sample_range,
    read_samples,
    table_of,
    write_samples,
)
from selfilter_ray.samples.identity import content_hash, limited, unique_ids
from selfilter_ray.samples.pool import Pool, input_files, read_pool
from selfilter_ray.samples.quarantine import read_quarantine, write_quarantine
from selfilter_ray.samples.record import Sample, Turn


def png(color: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (2, 2), color).save(buffer, "PNG")
    return buffer.getvalue()


def row(text: str = "So.", **fields: Any) -> dict[str, Any]:
    return {"conversations": [{"from": "human", "value": "Why?"}, answer(text)], **fields}


def answer(text: str) -> dict[str, str]:
    return {"from": "gpt", "value": text}


def pool_of(folder: Path, *inputs: list[Any], seed: int = 0, **settings: Any) -> Pool:
    """The pool of JSON files ``0.json``, ``1.json`` and so on in a folder."""
    names = []
    for number, rows in enumerate(inputs):
        file = folder / f"{number}.json"
        file.write_text(json.dumps(rows))
        names.append(str(file))
    return read_pool(DataConfig(inputs=names, **settings), folder / "store", seed)


def ids(pool: Pool) -> list[str]:
    return pool.table["id"].to_pylist()


def reasons(pool: Pool) -> list[str]:
    return sorted(item.reason for item in pool.quarantined)


def without_places(pool: Pool) -> pa.Table:
    return pool.table.drop_columns(["locator"])


def assert_accounted_for(pool: Pool) -> None:
    assert pool.rows_in == pool.table.num_rows + len(pool.quarantined) + pool.left_out
    counts = pool.counts
    assert counts["in"] == (
        counts["out"] + counts["left_out_by_limit"] + sum(counts["quarantined"].values())
    )
    assert len(set(ids(pool))) == pool.table.num_rows


# Rows in, rows out

GOOD = st.builds(
    row,
    st.sampled_from(["a", "b", "c"]),
    id=st.none() | st.sampled_from(["1", "2", 1]),
    source=st.sampled_from(["s", "t"]),
)
BAD = st.sampled_from([None, 7, {}, {"conversations": []}, row(id=[]), row(image="../no")])
MIXTURES = st.lists(GOOD | BAD, min_size=1, max_size=12)


@settings(deadline=None, max_examples=60)
@given(MIXTURES, MIXTURES, st.none() | st.integers(1, 4), st.randoms(use_true_random=False))
def test_every_row_is_accounted_for_whatever_the_order(first, second, limit, generator):
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        rows = [*first, *second, row("always usable")]
        pool = pool_of(folder, rows, limit=limit)
        assert_accounted_for(pool)
        assert pool.rows_in == len(rows)
        assert limit is None or pool.table.num_rows <= limit
        generator.shuffle(rows)
        again = pool_of(folder, rows, limit=limit)
        assert without_places(again).equals(without_places(pool))
        assert reasons(again) == reasons(pool)


def test_the_table_has_every_field_of_a_record_and_the_text_of_its_row(tmp_path):
    (tmp_path / "coco").mkdir()
    (tmp_path / "coco" / "a.png").write_bytes(png())
    text = '[ {"id": 7, "image":"coco/a.png", "x": 1.0,"texts":[{"user":"?","assistant":"!"}]} ]'
    (tmp_path / "vqa.json").write_text(text)
    pool = read_pool(DataConfig(inputs=[str(tmp_path / "vqa.json")]), tmp_path / "store")
    assert pool.table.schema.equals(SCHEMA)
    assert pool.table.to_pylist() == [
        {
            "id": "7",
            "source": "vqa/coco",
            "turns": [
                {"role": "user", "text": "<image>\n?"},
                {"role": "assistant", "text": "!"},
            ],
            "images": [str(tmp_path / "coco" / "a.png")],
            "locator": f"{tmp_path}/vqa.json#0",
            "record": text[2:-2],
        }
    ]


def test_a_bad_row_is_set_aside_with_its_place_its_reason_and_a_remedy(tmp_path):
    pool = pool_of(tmp_path, [row(id="good"), {"id": "bad", "conversations": []}, "\ud800"])
    shape, empty = sorted(pool.quarantined, key=lambda item: item.locator, reverse=True)
    assert (empty.locator, empty.id, empty.reason, empty.stage) == (
        f"{tmp_path}/0.json#1",
        "bad",
        "answer_missing",
        "read",
    )
    assert "non-empty assistant turn" in empty.remedy
    assert (shape.id, shape.reason) == (None, "record_shape")
    write_quarantine(tmp_path / "quarantine.jsonl", pool.quarantined)
    assert list(read_quarantine(tmp_path / "quarantine.jsonl")) == pool.quarantined


def test_the_whole_quarantine_can_be_written_whatever_the_rows_hold(tmp_path):
    rows = [
        row(id="\ud800"),
        row("\ud800"),
        row(image="\ud800"),
        row(image="x" * 9000),
        {"conversations": [{"from": "\ud800\n", "value": ""}]},
    ]
    pool = pool_of(tmp_path, [row(), *rows])
    assert len(pool.quarantined) == 5
    write_quarantine(tmp_path / "quarantine.jsonl", pool.quarantined)
    lines = (tmp_path / "quarantine.jsonl").read_text().splitlines()
    assert [json.loads(line)["reason"] for line in lines] == [
        item.reason for item in pool.quarantined
    ]
    assert all(len(line) < 4000 for line in lines)


def test_progress_counts_every_row(tmp_path, monkeypatch):
    monkeypatch.setattr("selfilter_ray.samples.pool.CHUNK_ROWS", 2)
    (tmp_path / "a.jsonl").write_text(json.dumps(row()) + "\n7\n" * 4)
    told: list[int] = []
    config = DataConfig(inputs=[str(tmp_path / "a.jsonl")])
    pool = read_pool(config, tmp_path / "store", progress=told.append)
    assert sum(told) == pool.rows_in == 5
    assert max(told) == 2


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{}], r"none of the 1 rows is usable \(record_shape 1\)\. First, .*0\.json#0"),
        ([{}, 7, row("")], r"record_shape 2, answer_missing 1.*remedy: give the record a list"),
    ],
)
def test_a_pool_without_a_usable_row_is_refused_naming_the_reasons(tmp_path, rows, message):
    with pytest.raises(DataError, match=message):
        pool_of(tmp_path, rows)


def test_a_pool_without_rows_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(DataError, match="hold no rows"):
        read_pool(DataConfig(inputs=[str(tmp_path / "a.jsonl")]), tmp_path / "store")


def test_an_incomplete_dataset_is_refused_before_anything_is_read(tmp_path):
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    with pytest.raises(DataError, match=r"gone\.arrow is missing"):
        input_files(DataConfig(inputs=[str(tmp_path)]))


# Ids


def test_a_row_without_an_id_gets_one_from_its_content(tmp_path):
    pool = pool_of(tmp_path, [row("a"), row("b", id=None)])
    expected = [
        content_hash((Turn("user", "Why?"), Turn("assistant", text)), []) for text in ("a", "b")
    ]
    assert set(ids(pool)) == {f"sha256-{content[:32]}" for content in expected}
    assert (pool.counts["ids_made"], pool.counts["ids_made_unique"]) == (2, 0)


def test_all_records_that_share_an_id_get_a_suffix_and_no_other_does(tmp_path):
    pool = pool_of(tmp_path, [row(t, id="x") for t in "abc"] + [row("d", id="y"), row("e", id=1)])
    assert pool.ids_made_unique == 3
    assert {"y", "1"} < set(ids(pool))
    assert sum(id.startswith("x~") and len(id) == 18 for id in ids(pool)) == 3


def test_text_and_number_of_the_same_look_are_one_id(tmp_path):
    assert reasons(pool_of(tmp_path, [row(id="1"), row(id=1)])) == ["duplicate_record"]


def test_of_equal_records_one_stays_under_its_own_id(tmp_path):
    pool = pool_of(tmp_path, [row(id="x"), row(id="x"), row(id="x"), row(id="y")])
    assert ids(pool) == ["x", "y"]
    assert reasons(pool) == ["duplicate_record"] * 2
    assert {item.id for item in pool.quarantined} == {"x"}
    assert pool.ids_made_unique == 0


def test_which_of_equal_records_stays_does_not_depend_on_their_order(tmp_path):
    rows = [row(id="x", source="b"), row(id="x", source="a", more=1), row(id="x", source="a")]
    first = pool_of(tmp_path, rows)
    assert first.table.num_rows == 1
    for _ in range(5):
        random.Random(0).shuffle(rows)
        assert without_places(pool_of(tmp_path, rows)).equals(without_places(first))


def test_a_record_that_already_bears_the_id_it_would_get_is_a_repeat(tmp_path):
    (id,) = ids(pool_of(tmp_path, [row("a")]))
    pool = pool_of(tmp_path, [row("a"), row("a", id=id), row("b", id=id)])
    assert_accounted_for(pool)
    assert reasons(pool) == ["duplicate_record"]


def test_ids_stay_unique_against_input_ids_that_look_like_suffixed_ones():
    contents = [hashlib.sha256(bytes([n])).hexdigest() for n in range(3)]
    given_ids = ["x", "x", f"x~{contents[0][:16]}"]
    unique, shared = unique_ids(given_ids, contents)
    assert len(set(unique)) == 3
    assert shared == 2


@settings(deadline=None, max_examples=100)
@given(
    st.lists(
        st.tuples(st.none() | st.sampled_from(["a", "b", "a~b"]), st.sampled_from("0123456789")),
        unique=True,
    )
)
def test_ids_are_unique_and_stay_with_their_records(pairs):
    records = [(id, hashlib.sha256(content.encode()).hexdigest()) for id, content in pairs]

    def named(order: list[tuple[str | None, str]]) -> dict[tuple[str | None, str], str]:
        unique, _ = unique_ids([id for id, _ in order], [content for _, content in order])
        return dict(zip(order, unique, strict=True))

    forward = named(records)
    assert forward == named(records[::-1])
    assert len(set(forward.values())) == len(records)


@pytest.mark.parametrize(
    ("turns", "images"),
    [
        ((Turn("user", "a"), Turn("assistant", "c")), ["i"]),
        ((Turn("user", "a"), Turn("user", "b")), ["i"]),
        ((Turn("user", "ab"),), ["i"]),
        ((Turn("user", "a"), Turn("assistant", "b")), ["j"]),
        ((Turn("user", "a"), Turn("assistant", "b")), []),
        ((Turn("user", "a"), Turn("assistant", "b")), ["i", "i"]),
    ],
)
def test_the_content_hash_tells_records_apart(turns, images):
    base = content_hash((Turn("user", "a"), Turn("assistant", "b")), ["i"])
    assert content_hash(turns, images) != base
    assert content_hash((Turn("user", "a"), Turn("assistant", "b")), ("i",)) == base


# The limit


def test_the_limit_keeps_records_by_seed_and_id_not_by_place(tmp_path):
    rows = [row(str(n), id=n) for n in range(40)]
    whole = pool_of(tmp_path, rows)
    few = pool_of(tmp_path, rows, limit=10)
    assert (few.table.num_rows, few.left_out) == (10, 30)
    assert set(ids(few)) < set(ids(whole))
    assert ids(pool_of(tmp_path, rows[::-1], limit=10)) == ids(few)
    assert ids(pool_of(tmp_path, rows, limit=10, seed=1)) != ids(few)
    assert set(ids(few)) < set(ids(pool_of(tmp_path, rows, limit=20)))
    assert pool_of(tmp_path, rows, limit=40).table.equals(whole.table)
    assert pool_of(tmp_path, rows, limit=41).table.equals(whole.table)


def test_every_record_has_the_same_chance_under_the_limit():
    names = [str(n) for n in range(10)]
    kept = [names[place] for seed in range(400) for place in limited(names, 3, seed)]
    assert all(80 < kept.count(name) < 160 for name in names)  # 120 expected


# Images


def test_images_are_checked_and_named_in_the_quarantine(tmp_path):
    (tmp_path / "good.png").write_bytes(png())
    (tmp_path / "page.png").write_text("<html>")
    rows = [row(str(n), id=name, image=name) for n, name in enumerate(["good.png", "page.png"])]
    rows += [row("x", image="gone.png"), row("y", images=["good.png", "gone.png"])]
    pool = pool_of(tmp_path, rows)
    assert ids(pool) == ["good.png"]
    assert reasons(pool) == ["image_format", "image_missing", "image_missing"]
    assert sum("gone.png" in item.detail for item in pool.quarantined) == 2


@pytest.mark.parametrize(
    "name",
    ["../x.png", "a/../../x.png", "/etc/hostname", ".", "a/..", "../data-other/x.png"],
)
def test_an_image_outside_its_root_is_never_opened(tmp_path, name):
    root = tmp_path / "data"
    (root / "a").mkdir(parents=True)
    (tmp_path / "data-other").mkdir()
    for secret in (tmp_path / "x.png", tmp_path / "data-other" / "x.png"):
        secret.write_bytes(png())
    pool = pool_of(root, [row("a", image=name), row("b")])
    assert reasons(pool) == ["image_outside_root"]


@pytest.mark.parametrize("name", ["{root}/a.png", "./a.png", "b/../a.png", "{root}/../{dir}/a.png"])
def test_a_roundabout_or_absolute_path_inside_the_root_is_taken(tmp_path, name):
    (tmp_path / "a.png").write_bytes(png())
    name = name.format(root=tmp_path, dir=tmp_path.name)
    pool = pool_of(tmp_path, [row(image=name)])
    assert pool.table["images"].to_pylist() == [[str(tmp_path / "a.png")]]


def test_links_inside_the_root_are_followed_and_kept_by_their_own_name(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.png").write_bytes(png())
    root = tmp_path / "data"
    root.mkdir()
    (root / "folder").symlink_to(elsewhere)
    (root / "link.png").symlink_to(elsewhere / "a.png")
    pool = pool_of(root, [row("a", image="folder/a.png"), row("b", image="link.png")])
    assert pool.table["images"].to_pylist() == [
        [str(root / "folder" / "a.png")],
        [str(root / "link.png")],
    ]


def test_images_lie_beside_their_file_or_under_the_image_root(tmp_path):
    for folder in ("one", "two", "root"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").write_bytes(png())
    for folder in ("one", "two"):
        (tmp_path / folder / "rows.json").write_text(json.dumps([row(folder, image="a.png")]))
    inputs = [str(tmp_path / folder / "rows.json") for folder in ("one", "two")]
    beside = read_pool(DataConfig(inputs=inputs), tmp_path / "store")
    assert beside.table["images"].to_pylist() == [
        [str(tmp_path / "one" / "a.png")],
        [str(tmp_path / "two" / "a.png")],
    ]
    config = DataConfig(inputs=inputs, image_root=str(tmp_path / "root"))
    under = read_pool(config, tmp_path / "store")
    assert under.table["images"].to_pylist() == [[str(tmp_path / "root" / "a.png")]] * 2


def test_the_images_of_an_image_folder_lie_beside_its_metadata(tmp_path):
    folder = tmp_path / "set" / "train"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(png())
    (folder / "metadata.jsonl").write_text(json.dumps(row(file_name="a.png")))
    pool = read_pool(DataConfig(inputs=[str(tmp_path / "set")]), tmp_path / "store")
    assert pool.table["images"].to_pylist() == [[str(folder / "a.png")]]
    assert pool.table["turns"][0][0]["text"].as_py() == "<image>\nWhy?"


def test_images_given_as_bytes_are_stored_once_by_their_hash(tmp_path):
    one, two = png(1), png(2)
    rows = [row("a", image=one), row("b", image=one), row("c", image=two), row("d", image=b"junk")]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    store = tmp_path / "store"
    config = DataConfig(inputs=[str(tmp_path / "a.parquet")])
    pool = read_pool(config, store)
    places = {}
    for content in (one, two):
        name = hashlib.sha256(content).hexdigest()
        places[store / name[:2] / name] = content
    assert {path: path.read_bytes() for path in store.glob("*/*")} == places
    assert sorted(pool.table["images"].to_pylist()) == sorted(
        [str(path)] for path, content in places.items() for _ in range(2 if content == one else 1)
    )
    assert reasons(pool) == ["image_format"]
    assert read_pool(config, store).table.equals(pool.table)


def test_several_inputs_make_one_pool_in_any_order(tmp_path):
    rows = [[row("a", id=1), row("b", id=2)], [row("b", id=2), row("c", id=1)]]
    pool = pool_of(tmp_path, *rows)
    assert_accounted_for(pool)
    assert pool.table.num_rows == 3
    assert pool.ids_made_unique == 2
    inputs = [str(tmp_path / name) for name in ("1.json", "0.json")]
    again = read_pool(DataConfig(inputs=inputs), tmp_path / "store")
    assert without_places(again).equals(without_places(pool))


def test_records_are_ordered_by_image_then_id_and_text_only_ones_come_last(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png())
    rows = [row("0", id="0")]
    rows += [row(f"{id}{name}", id=f"{id}{name}", image=name) for id in "21" for name in
             ("b.png", "a.png")]  # fmt: skip
    assert ids(pool_of(tmp_path, rows)) == ["1a.png", "2a.png", "1b.png", "2b.png", "0"]


def test_a_source_is_taken_from_the_row_else_from_file_and_folder(tmp_path):
    (tmp_path / "coco").mkdir()
    for name in ("coco/a.png", "a.png"):
        (tmp_path / name).write_bytes(png())
    rows = [
        row("1", id="1", source="given", image="a.png"),
        row("2", id="2", image="coco/a.png"),
        row("3", id="3", image="a.png"),
        row("4", id="4"),
    ]
    table = pool_of(tmp_path, rows).table
    sources = dict(zip(table["id"].to_pylist(), table["source"].to_pylist(), strict=True))
    assert sources == {"1": "given", "2": "0/coco", "3": "0", "4": "0/text"}


# The stored table


def samples(number: int) -> pa.Table:
    turns = (Turn("user", "Why?"), Turn("assistant", "So."))
    return table_of(
        [
            Sample(f"{n:03d}", "s", turns, (f"/i/{n}.png",) * (n % 3), f"f#{n}", "{}")
            for n in range(number)
        ]
    )


@pytest.fixture
def small_files(monkeypatch):
    monkeypatch.setattr(files, "ROWS_PER_FILE", 6)
    monkeypatch.setattr(files, "ROWS_PER_GROUP", 2)


def test_a_range_of_rows_is_that_slice_of_the_whole_table(tmp_path, small_files):
    table = samples(15)
    write_samples(tmp_path, table)
    assert len(list(tmp_path.glob("part-*.parquet"))) == 3
    columns = ["id", "images"]
    for start in range(16):
        for stop in range(start, 16):
            piece = read_sample_range(tmp_path, start, stop, columns)
            assert piece.equals(table.slice(start, stop - start).select(columns))


def test_stored_samples_come_back_whole_and_in_order(tmp_path, small_files):
    table = samples(15)
    write_samples(tmp_path, table)
    assert read_samples(tmp_path, SCHEMA.names).equals(table)
    assert list(iterate_samples(table))[4] == Sample(
        "004",
        "s",
        (Turn("user", "Why?"), Turn("assistant", "So.")),
        ("/i/4.png",),
        "f#4",
        "{}",
    )
    assert [sample.id for sample in iterate_samples(table.select(["id"]))] == [
        f"{n:03d}" for n in range(15)
    ]


def test_writing_fewer_rows_leaves_no_part_of_the_old_ones(tmp_path, small_files):
    write_samples(tmp_path, samples(15))
    write_samples(tmp_path, samples(5))
    assert [file.name for file in tmp_path.iterdir()] == ["part-00000.parquet"]
    assert read_samples(tmp_path, ["id"]).num_rows == 5


def test_missing_or_damaged_samples_are_an_artifact_error(tmp_path):
    with pytest.raises(ArtifactError, match="holds no samples"):
        read_samples(tmp_path, ["id"])
    write_samples(tmp_path, samples(5))
    part = tmp_path / "part-00000.parquet"
    part.write_bytes(part.read_bytes()[:-9])
    with pytest.raises(ArtifactError, match="is damaged"):
        read_samples(tmp_path, ["id"])


def test_pictures_of_one_name_in_two_folders_are_two_records(tmp_path):
    inputs = []
    for name, side in (("a", 8), ("b", 80)):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", (side, side), "red").save(folder / "0.png")
        turns = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "red"}]
        (folder / "pool.json").write_text(json.dumps([{"image": "0.png", "conversations": turns}]))
        inputs.append(str(folder / "pool.json"))
    pool = read_pool(DataConfig(inputs=inputs), tmp_path / "store")
    assert (pool.table.num_rows, pool.quarantined) == (2, [])
