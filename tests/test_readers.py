"""Every input format gives the rows that are in it; one bad row costs only itself."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selfilter_ray.errors import DataError
from selfilter_ray.samples.json_rows import decode_row, iterate_list
from selfilter_ray.samples.readers import RawRow, data_files, read_rows

TURNS = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]
ROW = {"id": "a", "conversations": TURNS}


def rows_of(folder: Path, name: str, content: bytes | str) -> list[RawRow]:
    file = folder / name
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return list(read_rows(file))


def reasons(rows: list[RawRow]) -> list[str | None]:
    return [None if row.error is None else row.error.reason for row in rows]


def elements(text: str) -> list[tuple[str, Any, str | None]]:
    return [
        (record, value, None if bad is None else bad.reason)
        for record, value, bad in iterate_list(text, "pool.json")
    ]


# JSON lists


@pytest.mark.parametrize("before", ["", "\ufeff", " \r\n\t", "\ufeff\n"])
def test_a_list_gives_its_rows_with_their_place_and_their_own_text(tmp_path, before):
    text = before + '[ {"id" :1e0,\r\n\t"t":"\\u00e9\\/"} ,\r\n{"id":"ä"}\r\n]\r\n'
    rows = rows_of(tmp_path, "pool.json", text)
    assert [row.record for row in rows] == ['{"id" :1e0,\r\n\t"t":"\\u00e9\\/"}', '{"id":"ä"}']
    assert [row.row for row in rows] == [{"id": 1.0, "t": "é/"}, {"id": "ä"}]
    assert [row.locator for row in rows] == [f"{tmp_path}/pool.json#{n}" for n in range(2)]
    assert reasons(rows) == [None, None]


@pytest.mark.parametrize("indent", [None, 0, 2, "\t"])
def test_indentation_is_kept_in_the_text_of_a_record(tmp_path, indent):
    text = json.dumps([ROW, ROW], indent=indent)
    rows = rows_of(tmp_path, "pool.json", text)
    assert [row.row for row in rows] == [ROW, ROW]
    assert all(row.record in text and json.loads(row.record) == ROW for row in rows)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"a": 1 "b": 2}', "json_invalid"),
        ('{"a": [1, 2}, "b": "],{"]}', "json_invalid"),
        ('{"a": "tab\tinside"}', "json_invalid"),
        ('{"a": "\\x"}', "json_invalid"),
        ("{'a': 1}", "json_invalid"),
        ("None", "json_invalid"),
        ("{} {}", "json_invalid"),
        ("", "json_invalid"),
        ('{"a": NaN}', "not_finite"),
        ('{"a": [Infinity]}', "not_finite"),
        ("-Infinity", "not_finite"),
        ("[" * 100_000 + "]" * 100_000, "json_invalid"),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, "json_invalid"),
        ('{"a": ' + "9" * 10_000 + "}", "json_invalid"),
    ],
)
def test_a_bad_element_of_a_list_costs_only_itself(tmp_path, bad, reason):
    text = f'[{{"id": 1}}, {bad} , {{"id": 2}}]'
    rows = rows_of(tmp_path, "pool.json", text)
    assert [row.row for row in rows] == [{"id": 1}, None, {"id": 2}]
    assert reasons(rows) == [None, reason, None]
    assert rows[1].record == bad


def test_elements_after_very_many_bad_ones_are_still_read_whole():
    good = '{"id": "],[\\"{", "a": [1, {"b": 2}]}'
    text = "[" + ", ".join(['{"a": b}', good] * 200) + "]"
    found = elements(text)
    assert found == [('{"a": b}', None, "json_invalid"), (good, json.loads(good), None)] * 200


def test_many_bad_elements_take_time_in_proportion_to_their_number():
    def seconds(number: int) -> float:
        text = "[" + ",".join(['{"a": b,\n"c": "' + "x" * 500 + '"}'] * number) + "]"
        started = time.process_time()
        assert len(elements(text)) == number
        return time.process_time() - started

    assert seconds(4000) < 30 * max(seconds(400), 0.001)  # as the square it would be 100 times


def test_a_long_string_in_a_bad_element_takes_no_more_memory_than_its_text():
    text = '[{"image": "' + "x" * 2**20 + '", b}]'
    tracemalloc.start()
    assert elements(text)[0][2] == "json_invalid"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * 2**20


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        (" \n ", "holds only white space"),
        ("[]", "is an empty list"),
        (" [ ] ", "is an empty list"),
        ('{"id": 1}', "must be a JSON list"),
        ('"text"', "must be a JSON list"),
        ("<html>", "must be a JSON list"),
        ("[1", "ends inside the record"),
        ("[1, 2,", "ends inside the record"),
        ('[{"id": 1}, {"id": "cut he', "ends inside the record"),
        ('[{"id": 1}, {"id": 2}', "ends inside the record"),
        ('[{"id": 1}, {"id": 2', "ends inside the record"),
        ("[1] 2", "goes on after the end"),
        ('[{"id": 1}]\n[{"id": 2}]', "goes on after the end"),
        ("[1]\0", "goes on after the end"),
        (b'[{"id": "\xff"}]', "is not UTF-8"),
        ("[1]".encode("utf-16"), "is not UTF-8"),
    ],
)
def test_a_file_that_is_no_whole_list_is_refused_and_named(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as caught:
        rows_of(tmp_path, "pool.json", content)
    assert "pool.json" in str(caught.value)


def test_every_cut_of_a_list_is_refused(tmp_path):
    text = json.dumps([{"id": 'a"\\', "t": [1, {"b": None}]}, 2, "ü]"], ensure_ascii=False)
    for length in range(len(text)):
        with pytest.raises(DataError):
            rows_of(tmp_path, "pool.json", text[:length])


KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
    | st.sampled_from(['"', "\\", "],", "{[", '\\"'])
    | st.just("\ud800"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3),
    max_leaves=6,
)
OBJECTS = st.lists(st.dictionaries(KEYS, VALUES, max_size=3), min_size=1, max_size=4)
SPACES = st.text(" \t\r\n", max_size=3)


@settings(deadline=None, max_examples=150)
@given(
    OBJECTS,
    st.none() | st.integers(0, 3) | st.just("\t"),
    st.tuples(SPACES, SPACES).map(lambda pair: (f"{pair[0]},{pair[1]}", f"{pair[1]}:{pair[0]}")),
    st.tuples(SPACES, SPACES, SPACES, SPACES),
)
def test_any_list_of_objects_comes_back_with_its_values_and_its_text(
    rows, indent, separators, spaces
):
    texts = [json.dumps(row, indent=indent, separators=separators) for row in rows]
    start, before, after, end = spaces
    text = f"{start}[{before}" + f"{before},{after}".join(texts) + f"{after}]{end}"
    assert elements(text) == [(one, row, None) for one, row in zip(texts, rows, strict=True)]
    assert elements(json.dumps(rows, ensure_ascii=False))[-1][1] == rows[-1]


@settings(deadline=None, max_examples=150)
@given(OBJECTS, st.data())
def test_a_list_with_one_character_changed_gives_rows_or_a_data_error(rows, data):
    text = json.dumps(rows)
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from('[]{},:"\\ 0aN\n'))
    try:
        found = elements(text[:place] + other + text[place + 1 :])
    except DataError:
        return
    assert all(reason in {None, "json_invalid", "not_finite"} for _, _, reason in found)


def test_a_row_must_be_nothing_but_one_value():
    assert decode_row(' {"a": 1} ')[0] == {"a": 1}
    for text in ("", " ", "{} {}", '{"a": 1},', "\ufeff{}"):
        value, bad = decode_row(text)
        assert value is None
        assert bad is not None
        assert bad.reason == "json_invalid"


# JSONL


@pytest.mark.parametrize("suffix", ["jsonl", "ndjson", "JSONL"])
@pytest.mark.parametrize("content", ["1\n2\n", "1\r\n2\r\n", "\ufeff1\n2", "1\n\n \t\n2", "\n1\n2"])
def test_lines_give_their_rows_whatever_ends_them(tmp_path, suffix, content):
    rows = rows_of(tmp_path, f"pool.{suffix}", content)
    assert [(row.record, row.row, row.error) for row in rows] == [("1", 1, None), ("2", 2, None)]


def test_the_place_of_a_row_is_its_line(tmp_path):
    rows = rows_of(tmp_path, "pool.jsonl", "1\n\n2\n")
    assert [row.locator for row in rows] == [f"{tmp_path}/pool.jsonl#{n}" for n in (0, 2)]


def test_the_text_of_a_line_is_kept(tmp_path):
    line = '{ "id" : "\\u00fc\u2028" ,"a":1.50}'
    assert rows_of(tmp_path, "pool.jsonl", f"{line}\n{line}")[0].record == line


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (b'{"id": ', "json_invalid"),
        (b"{} {}", "json_invalid"),
        (b'{"id": "\xff"}', "json_invalid"),
        (b"\0", "json_invalid"),
        (b'{"a": NaN}', "not_finite"),
        (b"[" * 100_000, "json_invalid"),
        (b"9" * 10_000, "json_invalid"),
    ],
)
def test_a_bad_line_costs_only_itself(tmp_path, bad, reason):
    rows = rows_of(tmp_path, "pool.jsonl", b"1\n" + bad + b"\n2\n")
    assert [row.row for row in rows] == [1, None, 2]
    assert reasons(rows) == [None, reason, None]


def test_a_file_of_blank_lines_holds_no_rows(tmp_path):
    assert rows_of(tmp_path, "pool.jsonl", "\n\n") == []


# Parquet and Arrow


def parquet(file: Path, table: pa.Table | dict[str, Any]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), file)
    return file


def arrow(file: Path, table: pa.Table) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table, max_chunksize=2)
    return file


@pytest.mark.parametrize("write", [parquet, arrow])
def test_columns_give_rows_with_paths_bytes_and_null_ids(tmp_path, write):
    images = [
        pa.array(["a.png", None]),
        pa.array([b"\xff\0", None]),
        pa.array([{"bytes": b"\xff", "path": None}, {"bytes": None, "path": "b.png"}]),
        pa.array([[{"bytes": b"\xff", "path": "a"}], []]),
    ]
    for image in images:
        table = pa.table(
            {
                "id": pa.array(["a", None], pa.large_string()),
                "conversations": [TURNS, TURNS],
                "image": image,
            }
        )
        rows = list(read_rows(write(tmp_path / f"pool.{write.__name__}", table)))
        assert [row.row["id"] for row in rows] == ["a", None]
        assert [row.row["image"] for row in rows] == image.to_pylist()
        assert [row.row["conversations"] for row in rows] == [TURNS, TURNS]
        assert reasons(rows) == [None, None]


def test_the_record_of_a_column_row_is_json_that_names_bytes_by_their_length(tmp_path):
    table = {"id": ["ü"], "messages": [TURNS], "images": [[{"bytes": b"12345", "path": "p"}]]}
    (row,) = read_rows(parquet(tmp_path / "pool.parquet", table))
    record = json.loads(row.record)
    assert record == {**row.row, "images": [{"bytes": "<5 bytes>", "path": "p"}]}
    assert "ü" in row.record


@pytest.mark.parametrize("write", [parquet, arrow])
def test_rows_are_numbered_through_batches(tmp_path, write):
    table = pa.table(
        {"id": pa.array(range(600)), "texts": [[{"user": "a", "assistant": "b"}]] * 600}
    )
    file = write(tmp_path / f"pool.{write.__name__}", table)
    rows = list(read_rows(file))
    assert [row.row["id"] for row in rows] == list(range(600))
    assert [row.locator for row in rows] == [f"{file}#{n}" for n in range(600)]


@pytest.mark.parametrize("write", [parquet, arrow])
def test_a_table_without_a_column_of_turns_is_refused_naming_what_it_has(tmp_path, write):
    file = write(tmp_path / f"pool.{write.__name__}", pa.table({"caption": ["a"], "url": ["b"]}))
    with pytest.raises(DataError, match=r"conversations, messages or texts.*caption, url"):
        list(read_rows(file))


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1PAR1", b"ARROW1\0\0", b"[1]" * 99])
def test_a_file_that_is_no_table_is_refused(tmp_path, suffix, content):
    with pytest.raises(DataError, match="pool"):
        rows_of(tmp_path, f"pool.{suffix}", content)


@pytest.mark.parametrize("write", [parquet, arrow])
def test_a_table_cut_off_or_damaged_is_refused_or_read(tmp_path, write):
    table = pa.table({"id": [str(n) for n in range(50)], "messages": [TURNS] * 50})
    file = write(tmp_path / f"pool.{write.__name__}", table)
    whole = file.read_bytes()
    with pytest.raises(DataError):
        rows_of(tmp_path, file.name, whole[: len(whole) // 2])
    for place in range(0, len(whole), len(whole) // 60):
        broken = whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :]
        try:
            rows_of(tmp_path, file.name, broken)
        except DataError as error:
            assert file.name in str(error)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([2**62], pa.timestamp("us")),  # a date that Python does not have
        pa.array([2**62], pa.timestamp("s")),
        pa.array([1], pa.timestamp("us", tz="Mars/Olympus")),
        pa.Array.from_buffers(
            pa.string(),
            1,
            [None, pa.py_buffer(bytes([0, 0, 0, 0, 1, 0, 0, 0])), pa.py_buffer(b"\xff")],
        ),
    ],
)
def test_values_that_python_cannot_hold_are_a_data_error(tmp_path, column):
    file = arrow(tmp_path / "pool.arrow", pa.table({"messages": [TURNS], "extra": column}))
    with pytest.raises(DataError, match="damaged after row 0"):
        list(read_rows(file))


class Secret(pa.ExtensionType):
    """An extension type whose values must never be looked at."""

    def __init__(self) -> None:
        super().__init__(pa.int64(), "test.secret")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> Secret:
        return cls()

    def __arrow_ext_scalar_class__(self) -> type:
        return SecretScalar


class SecretScalar(pa.ExtensionScalar):
    def as_py(self, **options: Any) -> Any:
        raise SystemError("the value of an extension type was looked at")


@pytest.fixture
def secret():
    pa.register_extension_type(Secret())
    yield pa.ExtensionArray.from_storage(Secret(), pa.array([1], pa.int64()))
    pa.unregister_extension_type("test.secret")


@pytest.mark.parametrize("write", [parquet, arrow])
@pytest.mark.parametrize("nested", ["plain", "list", "struct", "list of struct", "dictionary"])
def test_a_column_holding_an_extension_type_is_not_read(tmp_path, secret, write, nested):
    struct = pa.StructArray.from_arrays([secret], ["inner"])
    column = {
        "plain": secret,
        "list": pa.ListArray.from_arrays([0, 1], secret),
        "struct": struct,
        "list of struct": pa.ListArray.from_arrays([0, 1], struct),
        "dictionary": pa.DictionaryArray.from_arrays(pa.array([0], pa.int32()), secret),
    }[nested]
    with pytest.raises(SystemError):
        column.to_pylist()
    if nested == "dictionary":
        write = arrow  # parquet has no dictionary of extension values
    file = write(tmp_path / f"pool.{write.__name__}", pa.table({"messages": [TURNS], "x": column}))
    assert [row.row for row in read_rows(file)] == [{"messages": TURNS}]


def test_turns_of_an_extension_type_are_no_turns(tmp_path, secret):
    file = arrow(tmp_path / "pool.arrow", pa.table({"messages": secret}))
    with pytest.raises(DataError, match="has no column"):
        list(read_rows(file))


# Files and folders


def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(DataError, match=r"unknown format.*\.arrow, \.json, \.jsonl"):
        rows_of(tmp_path, "pool.csv", "id,text\n")


def test_a_file_that_cannot_be_opened_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rows(tmp_path / "missing.json"))
    folder = tmp_path / "folder.json"
    folder.mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        list(read_rows(folder))


def test_an_input_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"does not exist.*data\.inputs"):
        data_files(tmp_path / "nowhere")
    with pytest.raises(DataError, match="holds no data"):
        data_files(tmp_path)


def saved_dataset(folder: Path, ids: list[str], files: int = 2) -> None:
    """A dataset as ``save_to_disk`` of Hugging Face leaves it."""
    names = [f"data-{n:05d}-of-{files:05d}.arrow" for n in range(files)]
    for number, name in enumerate(names):
        mine = ids[number::files]
        arrow(folder / name, pa.table({"id": mine, "messages": [TURNS] * len(mine)}))
    parts = {"_data_files": [{"filename": name} for name in names], "_fingerprint": "0"}
    (folder / "state.json").write_text(json.dumps(parts))
    (folder / "dataset_info.json").write_text("{}")


def ids_of(path: Path) -> list[str]:
    return [row.row["id"] for file in data_files(path) for row in read_rows(file)]


def test_a_dataset_saved_to_disk_is_read_from_its_parts(tmp_path):
    saved_dataset(tmp_path, ["a", "b", "c"])
    arrow(tmp_path / "cache-1.arrow", pa.table({"id": ["no"], "messages": [TURNS]}))
    assert ids_of(tmp_path) == ["a", "c", "b"]


def test_all_splits_of_a_dataset_are_read(tmp_path):
    saved_dataset(tmp_path / "train", ["a", "b"])
    saved_dataset(tmp_path / "test", ["c"], files=1)
    saved_dataset(tmp_path / "unlisted", ["no"], files=1)
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    assert ids_of(tmp_path) == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["state.json", "dataset_dict.json"])
@pytest.mark.parametrize(
    "content", ["", "{", "[]", "null", "{}", '{"splits": "train", "_data_files": {}}']
)
def test_a_broken_description_of_a_dataset_is_refused(tmp_path, name, content):
    saved_dataset(tmp_path, ["a"])
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="is damaged"):
        data_files(tmp_path)


@pytest.mark.parametrize("part", [1, None, {}, "", ".", "..", "../..", "a\0b"])
def test_a_dataset_with_a_part_that_has_no_name_is_refused(tmp_path, part):
    saved_dataset(tmp_path, ["a"])
    for parts in ([part], [{"filename": part}]):
        (tmp_path / "state.json").write_text(json.dumps({"_data_files": parts}))
        with pytest.raises(DataError, match="is damaged"):
            data_files(tmp_path)
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": [part]}))
    with pytest.raises(DataError, match="is damaged"):
        data_files(tmp_path)


def test_a_dataset_cannot_name_files_outside_its_folder(tmp_path):
    saved_dataset(tmp_path / "secret", ["no"])
    folder = tmp_path / "dataset"
    saved_dataset(folder, ["a"], files=1)
    secret_part = tmp_path / "secret" / "data-00000-of-00002.arrow"
    (folder / "state.json").write_text(
        json.dumps({"_data_files": [{"filename": str(secret_part)}]})
    )
    assert data_files(folder) == [folder / secret_part.name]
    (folder / "dataset_dict.json").write_text('{"splits": ["../secret"]}')
    with pytest.raises(DataError, match="does not exist"):
        data_files(folder)


def test_a_folder_of_parquet_files_is_read_in_the_order_of_their_names(tmp_path):
    for name in ("data/train-1", "data/train-0", "data/more/x"):
        parquet(tmp_path / f"{name}.parquet", {"id": [name], "messages": [TURNS]})
    (tmp_path / "info.json").write_text("{}")
    assert ids_of(tmp_path) == ["data/more/x", "data/train-0", "data/train-1"]


def test_an_image_folder_is_read_from_its_metadata(tmp_path):
    for split in ("train", "test"):
        (tmp_path / split).mkdir()
        row = {"file_name": f"{split}.png", "messages": TURNS}
        (tmp_path / split / "metadata.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "other.jsonl").write_text("{}")
    files = data_files(tmp_path)
    assert files == [tmp_path / "test" / "metadata.jsonl", tmp_path / "train" / "metadata.jsonl"]
    (row,) = read_rows(files[0])
    assert row.row["image"] == "test.png"
    assert json.loads(row.record) == {"file_name": "test.png", "messages": TURNS}


@pytest.mark.parametrize("images", [{"image": "b.png"}, {"images": []}, {"image": None}])
def test_a_file_name_counts_only_where_there_is_no_image_field(tmp_path, images):
    text = json.dumps({"file_name": "a.png", "messages": TURNS, **images})
    (row,) = rows_of(tmp_path, "metadata.jsonl", text)
    assert row.row == json.loads(text)


def test_the_file_names_of_a_table_are_its_images(tmp_path):
    table = {"file_name": ["a.png"], "messages": [TURNS]}
    (row,) = read_rows(parquet(tmp_path / "metadata.parquet", table))
    assert row.row["image"] == "a.png"
    assert "image" not in json.loads(row.record)


def test_a_folder_of_json_files_is_read_when_there_is_nothing_better(tmp_path):
    (tmp_path / "b.json").write_text('[{"id": "b"}]')
    (tmp_path / "a.json").write_text('[{"id": "a"}]')
    assert ids_of(tmp_path) == ["a", "b"]
    (tmp_path / "c.jsonl").write_text('{"id": "c"}')
    assert ids_of(tmp_path) == ["c"]
