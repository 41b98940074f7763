"""The stored answers: none lost, none doubted, none written by two."""

import json
import logging
import resource

import pytest

from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.scorers.judge.answers import FILE, Answer, AnswerFile, read_answers


def answer(text="8\nclear"):
    return Answer(text, "stop", 100, 7, 0.5)


@pytest.fixture
def folder(tmp_path):
    with AnswerFile(tmp_path) as store:
        for number in range(5):
            store.append(f"key{number}", [f"id{number}"], answer(f"{number}\n\u00e9 \U0001f600"))
    return tmp_path


def test_answers_come_back_as_they_were(folder):
    answers, _ = read_answers(folder)
    assert list(answers) == [f"key{number}" for number in range(5)]
    assert answers["key3"] == answer("3\n\u00e9 \U0001f600")


def test_each_line_is_json_with_the_ids_it_is_for(folder):
    first = json.loads((folder / FILE).read_text().splitlines()[0])
    assert first["ids"] == ["id0"]
    assert first["finish_reason"] == "stop"


@pytest.mark.parametrize("kept", [1, 50, -2])
def test_a_torn_last_line_is_cut_and_logged(folder, kept, caplog):
    whole = (folder / FILE).read_bytes()
    lines = whole.splitlines(keepends=True)
    (folder / FILE).write_bytes(b"".join(lines[:-1]) + lines[-1][:kept])
    with caplog.at_level(logging.WARNING), AnswerFile(folder) as store:
        assert len(store.answers) == 4
        store.append("key4", ["id4"], answer("4\n\u00e9 \U0001f600"))
    assert "unfinished last line" in caplog.text
    assert sorted(read_answers(folder)[0]) == [f"key{number}" for number in range(5)]


def test_a_zeroed_tail_is_cut(folder):
    with open(folder / FILE, "ab") as file:
        file.write(bytes(5000))
    with AnswerFile(folder) as store:
        assert len(store.answers) == 5
    assert (folder / FILE).read_bytes().endswith(b'"}\n')


def test_reading_leaves_a_torn_line_to_its_writer(folder):
    with open(folder / FILE, "ab") as file:
        file.write(b'{"format": 1, "key"')
    before = (folder / FILE).read_bytes()
    assert len(read_answers(folder)[0]) == 5
    assert (folder / FILE).read_bytes() == before


@pytest.mark.parametrize(
    "damage",
    [
        lambda line: line.replace(b'"text": "1', b'"text": "9'),
        lambda line: line[:20] + b"\n",
        lambda line: bytes(len(line) - 1) + b"\n",
        lambda line: b"\n",
        lambda line: b"[" * 100_000 + b"\n",
    ],
    ids=["changed digit", "cut", "zeroed", "blank", "deep"],
)
def test_damage_in_the_middle_is_refused_with_the_line(folder, damage):
    lines = (folder / FILE).read_bytes().splitlines(keepends=True)
    assert damage(lines[1]) != lines[1]
    (folder / FILE).write_bytes(b"".join([lines[0], damage(lines[1]), *lines[2:]]))
    with pytest.raises(ArtifactError, match=r"line 2.*delete that line"), AnswerFile(folder):
        pass


def test_answers_of_another_format_are_refused(folder, monkeypatch):
    with AnswerFile(folder) as store:
        monkeypatch.setattr("selfilter_ray.scorers.judge.answers.FORMAT", 2)
        store.append("new", ["new"], answer())
    monkeypatch.undo()
    with pytest.raises(ArtifactError, match="format 2, this version reads 1"):
        read_answers(folder)


def test_a_second_writer_is_refused_and_the_lock_ends_with_the_first(folder):
    with (
        AnswerFile(folder),
        pytest.raises(ConfigError, match="another process"),
        AnswerFile(folder),
    ):
        pass
    with AnswerFile(folder) as store:
        assert len(store.answers) == 5


def test_a_folder_that_cannot_be_written_is_a_wrong_config(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="another folder"), AnswerFile(tmp_path / "file"):
        pass


def test_a_full_disk_leaves_no_half_line(folder):
    size = (folder / FILE).stat().st_size
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with AnswerFile(folder) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        try:
            with pytest.raises(ArtifactError, match="Make room"):
                store.append("key5", ["id5"], answer())
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (folder / FILE).stat().st_size == size
        store.append("key6", ["id6"], answer())
    assert "key6" in read_answers(folder)[0]
    assert "key5" not in read_answers(folder)[0]
