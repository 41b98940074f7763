"""Sending files to a service: every row accounted for, whatever is in it and whoever is killed."""

import asyncio
import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from http_service import ndjson, sample
from PIL import Image
from running_service import running
from service_run import SIZES, make_service_run

from selfilter_ray.errors import ArtifactError, ConfigError, DataError
from selfilter_ray.service.client import Client, ServiceError
from selfilter_ray.service.incoming.reader import SampleReader
from selfilter_ray.service.incoming.schemas import SampleIn
from selfilter_ray.service.ingest.command import ingest_from_files
from selfilter_ray.service.ingest.files import ingest_files
from selfilter_ray.service.ingest.record_lines import record_rows
from selfilter_ray.service.ingest.sample_lines import sample_rows
from selfilter_ray.service.ingest.sources import open_sources
from selfilter_ray.terminal import Terminal

TURNS = [{"from": "human", "value": "what colour?"}, {"from": "gpt", "value": "red"}]


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with running(tmp_path_factory.mktemp("files"), online={"rate": 0.5}) as parts:
        yield parts


@pytest.fixture
def send(service, tmp_path):
    """Send some inputs into the folder ``out``; what it holds then."""

    def sending(*inputs, out="out", **options):
        with Client(service[0], patience=20.0) as client:
            counts = ingest_files(
                client, [str(one) for one in inputs], tmp_path / out, terminal=Terminal(quiet=True),
                **options,
            )  # fmt: skip
        return counts, *(lines(tmp_path / out / f"{name}.ndjson") for name in ("answers", "errors"))

    return sending


def lines(file):
    return [json.loads(line) for line in file.read_bytes().splitlines()]


def names(prefix, count):
    return [f"{prefix}-{number}" for number in range(count)]


def write_samples(file, ids):
    file.write_bytes(ndjson(*map(sample, ids)))
    return file


def test_every_line_is_answered_in_order_and_only_bad_ones_fail(send, tmp_path):
    good = names("mixed", 3)
    body = [ndjson(sample(id)).strip() for id in good]
    text = b"\xef\xbb\xbf" + body[0] + b"\r\n\r\n{not json}\n" + body[1] + b'\n{"id": "x"}\n'
    (tmp_path / "in.ndjson").write_bytes(text + body[2])
    counts, answers, errors = send(tmp_path / "in.ndjson")
    assert [answer["id"] for answer in answers] == good
    assert [(error["locator"].rpartition("#")[2], error["status"]) for error in errors] == [
        ("2", 400),
        ("4", 422),
    ]
    assert all(error["detail"] and error["remedy"] for error in errors)
    assert counts.rows == 5 == counts.admitted + counts.rejected + counts.failed


def test_a_second_call_sends_nothing_and_a_grown_list_of_inputs_only_what_is_new(
    send, service, tmp_path
):
    one, two = (write_samples(tmp_path / f"{name}.ndjson", names(name, 4)) for name in "ab")
    first, answers, _ = send(one)
    service[2].requests.clear()
    again, same, _ = send(one)
    assert (again, same, service[2].requests) == (first, answers, [])
    grown, both, _ = send(one, two)
    assert grown.rows == 8 and both[:4] == answers
    assert [answer["id"] for answer in both[4:]] == names("b", 4)


def test_gzip_is_read_and_a_torn_one_is_refused_after_its_whole_part(send, tmp_path):
    packed = gzip.compress(ndjson(*map(sample, names("gz", 30))))
    (tmp_path / "whole.ndjson.gz").write_bytes(packed)
    assert len(send(tmp_path / "whole.ndjson.gz")[1]) == 30
    (tmp_path / "torn.ndjson.gz").write_bytes(packed[:-2000])
    with pytest.raises(DataError, match=r"torn\.ndjson\.gz cannot be read after line \d+"):
        send(tmp_path / "torn.ndjson.gz")


def test_a_line_without_an_end_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("selfilter_ray.service.ingest.sample_lines.LINE_BYTES", 10)
    file = tmp_path / "long.ndjson"
    file.write_bytes(b"[1]\n" + b"x" * 35 + b"\n" + b"y" * 9 + b"\n[2]\n" + b"z" * 11)
    rows = [(row.number, row.line, row.fault and row.fault.code) for row in sample_rows(file, 0)]
    assert rows == [
        (0, b"[1]", None),
        (1, b"", "line_too_long"),
        (2, b"y" * 9, None),
        (3, b"[2]", None),
        (4, b"", "line_too_long"),
    ]
    assert [row.number for row in sample_rows(file, 3)] == [3, 4]


def test_the_features_of_a_run_fill_a_service(send, tmp_path):
    run = make_service_run(tmp_path / "run", samples=30)  # its net has the service's weights
    counts, answers, errors = send(run)
    assert counts.rows == 30 and not errors
    assert [answer["id"] for answer in answers] == [f"pool-{number:05d}" for number in range(30)]
    scores = pq.read_table(run / "scores.parquet").to_pydict()
    by_id = dict(zip(scores["id"], scores["difficulty"], strict=True))
    assert {answer["id"]: pytest.approx(answer["difficulty"]) for answer in answers} == by_id
    assert send(run / "features", out="other")[0].rows == 30


def test_rows_of_a_shard_that_failed_are_errors_and_their_neighbours_keep_their_features(tmp_path):
    run = make_service_run(tmp_path / "run", samples=4)
    shard = next((run / "features").glob("shard-*.parquet"))
    table = pq.read_table(shard)
    expected = [row.line for row in open_sources([str(run)], "auto", None)[0].rows(0)]
    status = pa.array(["ok", "image_broken", "ok", "text_only"])
    table = table.set_column(table.column_names.index("status"), "status", status)
    for name in ("image_embedding", "text_embedding"):
        column = table[name].to_pylist()
        column[1] = None
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(column, table.schema.field(name).type))
    pq.write_table(table, shard)
    rows = list(open_sources([str(run)], "auto", None)[0].rows(0))
    assert [row.line for row in rows] == [expected[0], b"", *expected[2:]]
    assert rows[1].fault.code == "image_broken" and rows[1].id == "pool-00001"
    assert [row.line for row in open_sources([str(run)], "auto", None)[0].rows(2)] == expected[2:]
    shard.write_bytes(shard.read_bytes()[:500])
    with pytest.raises(ArtifactError, match="damaged"):
        list(open_sources([str(run)], "auto", None)[0].rows(0))


def test_records_of_a_pool_become_samples_with_their_images(tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    records = [
        {"id": "one", "image": "red.png", "conversations": TURNS},
        {"id": "text", "conversations": TURNS},
        {"id": "gone", "image": "no.png", "conversations": TURNS},
        {"id": "out", "image": "../red.png", "conversations": TURNS},
        {"image": "red.png", "conversations": TURNS},
    ]
    file = tmp_path / "pool.json"
    file.write_text(json.dumps(records))
    rows = list(record_rows(file, None, 0))
    assert [row.fault and row.fault.code for row in rows] == [
        None, None, "image_missing", "image_outside_root", None,
    ]  # fmt: skip
    sent = [json.loads(row.line) for row in rows if row.line]
    assert [one["id"] for one in sent[:2]] == ["one", "text"]
    assert sent[2]["id"].startswith("sha256-")
    assert sent[0]["conversations"][0] == {"from": "human", "value": "<image>\nwhat colour?"}
    assert sent[0]["images"] == sent[2]["images"] and len(sent[0]["images"]) == 1
    assert "images" not in sent[1]
    assert [row.number for row in record_rows(file, None, 4)] == [4]


def test_the_service_reads_the_records_that_are_sent(service, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    record = {"id": "one", "image": ["red.png", "red.png"], "conversations": TURNS}
    (tmp_path / "pool.jsonl").write_text(json.dumps(record))
    [row] = record_rows(tmp_path / "pool.jsonl", None, 0)
    reader = SampleReader(service[1].config, SIZES)
    incoming = asyncio.run(reader.read(SampleIn.model_validate_json(row.line)))
    assert incoming.id == "one" and incoming.images == ((tmp_path / "red.png").read_bytes(),) * 2
    assert [turn.role for turn in incoming.turns] == ["user", "assistant"]


def test_nothing_usable_is_wrong_data(send, tmp_path):
    (tmp_path / "bad.ndjson").write_bytes(b"1\n2\n")
    with pytest.raises(DataError, match="none of the 2 rows"):
        send(tmp_path / "bad.ndjson")
    (tmp_path / "empty.ndjson").write_bytes(b"\n")
    with pytest.raises(DataError, match="no rows"):
        send(tmp_path / "empty.ndjson", out="other")
    for missing in ("no.ndjson", "no.json"):
        with pytest.raises(DataError, match="does not exist"):
            send(tmp_path / missing)
    with pytest.raises(DataError, match="no features"):
        send(tmp_path, kind="features")


def test_a_folder_belongs_to_one_ingestion(send, service, tmp_path):
    file = write_samples(tmp_path / "in.ndjson", names("mine", 2))
    send(file)
    with Client("http://127.0.0.1:9") as other, pytest.raises(ConfigError, match="another folder"):
        ingest_files(other, [str(file)], tmp_path / "out", terminal=Terminal(quiet=True))
    (tmp_path / "out" / "progress.json").write_text("{")
    with pytest.raises(ArtifactError, match=r"progress\.json is damaged"):
        send(file)
    (tmp_path / "out" / "progress.json").unlink()
    with pytest.raises(ConfigError, match="something else"):
        send(file)


def test_what_a_killed_process_had_not_counted_is_cut_off_and_comes_again(send, tmp_path):
    file = write_samples(tmp_path / "in.ndjson", names("torn", 6))
    _, answers, _ = send(file)
    progress = json.loads((tmp_path / "out" / "progress.json").read_text())
    whole = (tmp_path / "out" / "answers.ndjson").read_bytes()
    kept = b"".join(line + b"\n" for line in whole.splitlines()[:2])
    counts = {"rows": 2, "admitted": 1, "rejected": 1, "failed": 0}
    place = next(iter(progress["inputs"]))
    progress["inputs"][place]["next"] = 2
    progress |= {"sizes": [len(kept), 0], "counts": counts}
    (tmp_path / "out" / "progress.json").write_text(json.dumps(progress))
    (tmp_path / "out" / "answers.ndjson").write_bytes(whole[: len(kept) + 57])
    counts, again, _ = send(file)
    assert again == answers and counts.rows == 6


def test_a_changed_file_is_sent_from_its_start(send, tmp_path):
    file = write_samples(tmp_path / "in.ndjson", names("old", 3))
    send(file)
    write_samples(file, names("new", 2))
    assert [answer["id"] for answer in send(file)[1]] == names("old", 3) + names("new", 2)


def test_a_service_that_stays_away_is_an_error_and_the_same_call_continues(service, send, tmp_path):
    url, _, gate = service
    file = write_samples(tmp_path / "in.ndjson", names("away", 3))
    gate.away = True
    with pytest.raises(ServiceError, match="no answer in"):
        ingest_from_files(url, [str(file)], tmp_path / "out", patience=0.3)
    gate.away = False
    assert [answer["id"] for answer in send(file)[1]] == names("away", 3)


CHILD = """
import sys
from pathlib import Path
from selfilter_ray.service.ingest import outbox
from selfilter_ray.service.incoming.reader import SampleReader
from selfilter_ray.service.incoming.schemas import SampleIn
from selfilter_ray.service.ingest.command import ingest_from_files
outbox.SAVE_SECONDS = 0.0
try:
    ingest_from_files(sys.argv[1], [sys.argv[2]], Path(sys.argv[3]), patience=60.0)
except KeyboardInterrupt:
    sys.exit(11)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_process_that_is_stopped_in_the_middle_is_continued(service, send, tmp_path, number):
    url, _, gate = service
    ids = names(number.name, 600)
    file = write_samples(tmp_path / "in.ndjson", ids)
    out = tmp_path / "out"
    child = subprocess.Popen([sys.executable, "-c", CHILD, url, str(file), str(out)])
    answers = out / "answers.ndjson"
    until = time.monotonic() + 60
    while not (answers.exists() and answers.stat().st_size):
        assert time.monotonic() < until and child.poll() is None
        time.sleep(0.002)
    gate.away = True  # so that it cannot finish before the signal
    os.kill(child.pid, number)
    assert child.wait(60) == (11 if number == signal.SIGINT else -signal.SIGKILL)
    gate.away = False
    before = (out / "answers.ndjson").read_bytes().count(b"\n")  # the last may be torn
    counts, after, errors = send(file)
    assert [answer["id"] for answer in after] == ids and not errors
    assert counts.rows == 600 and 0 < before < 600
    with Client(url) as client:
        assert [answer.sequence for answer in client.select([sample(id) for id in ids[:5]])] == [
            answer["sequence"] for answer in after[:5]
        ]
