"""What an operator sees of a run, without Ray: metrics, their file, log lines, the run's id."""

import io
import json
import logging
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from selfilter_ray.errors import ConfigError, DataError
from selfilter_ray.stage1.loggers import StepLog
from selfilter_ray.telemetry import declared, logs
from selfilter_ray.telemetry.declared import ALL, Declared
from selfilter_ray.telemetry.meter import Meter, meter
from selfilter_ray.telemetry.run import carried, current, join, log_fields, running
from selfilter_ray.telemetry.shards import ShardWatch, making_shard
from selfilter_ray.telemetry.stage import pool_counts, watched_stage
from selfilter_ray.telemetry.textfile import Textfile
from selfilter_ray.telemetry.training import saving_checkpoint
from selfilter_ray.terminal import Terminal

STEP = {
    "step": 1, "epoch": 0.5, "gradient_norm": 1.5, "learning_rate": 0.1, "loss": 2.0,
    "plain_loss": 1.9, "score_std": 0.01, "samples": 4.0, "tokens": 40.0, "seconds": 0.1,
    "samples_per_second": 40.0,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Where the processes of a run leave their metrics."""
    monkeypatch.setenv("SELFILTER_METRICS_DIR", str(tmp_path / "metrics"))
    return tmp_path / "metrics"


@pytest.fixture(autouse=True)
def own_process(monkeypatch):
    """Leave the package's logger, and what this process works for, as they were."""
    monkeypatch.setattr("selfilter_ray.telemetry.run._now", None)
    logger = logging.getLogger(logs.PACKAGE)
    before = list(logger.handlers), logger.level, logger.propagate
    yield
    logger.handlers[:], logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def samples_of(folder):
    """Values by name and labels, over all files of the folder."""
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for file in folder.glob("*.prom")
        for family in text_string_to_metric_families(file.read_text())
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


def watch_everything():
    """What a run does, without doing it; every declared metric is measured on the way."""
    with watched_stage("featurize", "rows", 10, lambda units: None) as told:
        watch = ShardWatch("featurize", 2, 2)
        with making_shard("featurize", 0, 6):
            watch.made(6, 1.5)
        told(6)
    pool_counts({"in": 12, "out": 10, "left_out_by_limit": 0, "quarantined": {"image_missing": 2}})


def train_a_step(folder, train):
    log = StepLog(folder, train)
    log.start(0)
    with saving_checkpoint(folder.name, 1, rank=0):
        log.write(STEP)
    log.close()


@pytest.fixture
def train(tmp_path):
    from selfilter_ray.config import load_config

    tree = {"run_dir": str(tmp_path), "data": {"inputs": ["a"]}, "select": {"ratio": 0.5}}
    tree |= {"train": {"vlm": {"kind": "pretrained", "path": "a"}}}
    return load_config(tree).train


def test_a_run_leaves_every_declared_metric_with_its_labels_in_a_textfile(folder, train, tmp_path):
    with running("r1", "mine"):
        watch_everything()
        train_a_step(tmp_path, train)
    found = samples_of(folder)
    shown = {(name, tuple(sorted(name for name, _ in labels))) for name, *labels in found}
    assert shown == {(name, tuple(sorted(metric.all_labels))) for name, metric in ALL.items()}
    assert found["selfilter_shards_left", ("pass", "featurize"), ("run", "r1")] == 1
    assert found["selfilter_quarantined_rows", ("reason", "image_missing"), ("run", "r1")] == 2
    assert found["selfilter_train_loss", ("run", "r1"), ("training", tmp_path.name)] == 2.0


def test_a_stage_that_fails_is_counted_and_its_error_keeps_its_message_to_itself(
    folder, monkeypatch, capsys
):
    monkeypatch.setenv("SELFILTER_LOG_FORMAT", "json")
    with (
        pytest.raises(DataError),
        running("r1", "mine"),
        watched_stage("read", "rows", None, lambda units: None),
    ):
        raise DataError("the secret of a row")
    found = samples_of(folder)
    stage = (("run", "r1"), ("stage", "read"))
    assert found["selfilter_stage_failures_total", *stage] == 1
    assert found["selfilter_stage_running", *stage] == 0
    assert ("selfilter_stage_finished_timestamp_seconds", *stage) not in found
    lines = capsys.readouterr().err
    assert "the secret" not in lines
    assert json.loads(lines.splitlines()[-1])["error"]["type"] == "DataError"


def test_every_line_of_a_run_says_run_stage_and_host(monkeypatch, capsys):
    monkeypatch.setenv("SELFILTER_LOG_FORMAT", "json")
    with running("r1", "mine"):
        watch_everything()
        Terminal().say("outside of a stage")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert {line["run"] for line in lines} == {"r1"}
    assert all(line["host"] and line["process"] == os.getpid() for line in lines)
    by_message = {line["message"]: line for line in lines}
    assert by_message["shard finished"]["stage"] == "featurize"
    assert by_message["stage finished"]["done"] == 6
    assert by_message["outside of a stage"]["stage"] is None


def test_text_lines_are_one_line_each_and_quote_what_has_spaces(monkeypatch, capsys):
    monkeypatch.setenv("SELFILTER_LOG_FORMAT", "text")
    with running("r1", "mine"):
        logging.getLogger("selfilter_ray.a").warning(
            "two\nlines", extra={"fields": {"what": "a b", "kind": "plain"}}
        )
    (line,) = capsys.readouterr().err.splitlines()
    assert line.split(" ", 1)[1].startswith("warning two lines run=r1 ")
    assert line.endswith('what="a b" kind=plain')


def test_without_a_format_the_logging_of_the_application_is_left_alone(monkeypatch, capsys):
    monkeypatch.delenv("SELFILTER_LOG_FORMAT", raising=False)
    handlers = list(logging.getLogger(logs.PACKAGE).handlers)
    with running("r1", "mine"):
        watch_everything()
    assert logging.getLogger(logs.PACKAGE).handlers == handlers
    assert capsys.readouterr().err == ""


def test_an_unknown_log_format_is_refused_by_name(monkeypatch):
    monkeypatch.setenv("SELFILTER_LOG_FORMAT", "xml")
    with pytest.raises(ConfigError, match="SELFILTER_LOG_FORMAT is 'xml': set it to json or text"):
        Terminal()


def test_a_metrics_folder_that_cannot_be_made_is_refused_by_name(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SELFILTER_METRICS_DIR", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="SELFILTER_METRICS_DIR"), running("r1", "mine"):
        pass


def test_another_process_joins_the_run_and_writes_a_file_of_its_own(folder, train, tmp_path):
    with running("r1", "mine"):
        there = carried()
    assert current() is None
    assert join(there, "train")
    assert log_fields()["run"] == "r1"
    assert not join(there, "train"), "twice is once"
    train_a_step(tmp_path, train)
    names = sorted(file.name for file in folder.iterdir())
    assert f"selfilter-r1-train-{os.getpid()}.prom" in names
    assert "selfilter-r1-driver.prom" in names


def test_nothing_is_carried_outside_of_a_run():
    assert carried() is None
    assert not join(None, "train")


class Broken:
    """A sink that fails as told."""

    def __init__(self):
        self.calls = 0

    def set(self, metric, value, labels):
        self.calls += 1
        raise OSError(28, "No space left on device")

    add = set

    def flush(self):
        raise AssertionError("it was given up before")


def test_a_sink_that_fails_is_given_up_and_the_others_go_on(tmp_path):
    own, broken = Meter(), Broken()
    file = Textfile(tmp_path / "a.prom")
    own.begin("r1")
    own.add_sink(broken)
    own.add_sink(file)
    for stage in ("read", "featurize"):
        own.set(declared.STAGE_RUNNING, 1, stage=stage)
    own.flush()
    assert broken.calls == 1
    assert len(samples_of(tmp_path)) == 2


def test_a_label_that_is_not_declared_is_a_mistake():
    with pytest.raises(KeyError):
        Meter().set(declared.STAGE_RUNNING, 1, step="read")
    with pytest.raises(KeyError):
        Meter().set(declared.STAGE_RUNNING, 1, stage="read", more="x")


class Kept:
    """A sink that adds up what it is told."""

    def __init__(self):
        self.values = {}

    def set(self, metric: Declared, value, labels):
        self.values[metric.name, *labels.values()] = value

    def add(self, metric: Declared, amount, labels):
        key = metric.name, *labels.values()
        self.values[key] = self.values.get(key, 0.0) + amount

    def flush(self):
        pass


@given(
    before=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9)), max_size=8),
    after=st.lists(st.tuples(st.sampled_from(["a", "b"]), st.integers(0, 9)), max_size=8),
)
def test_a_sink_that_comes_late_knows_what_an_early_one_does(before, after):
    own, early, late = Meter(), Kept(), Kept()
    own.begin("r1")
    own.add_sink(early)

    def measure(pairs):
        for name, amount in pairs:
            own.add(declared.STAGE_DONE, amount, stage=name, unit="rows")
            own.set(declared.STAGE_SECONDS, amount, stage=name)

    measure(before)
    own.add_sink(late)
    measure(after)
    assert late.values == early.values


def test_a_textfile_is_whole_whenever_it_is_read(tmp_path):
    file = Textfile(tmp_path / "a.prom")
    for step in range(20):
        file.set(declared.TRAIN_STEP, step, {"run": "r1", "training": "stage1"})
        file.flush()
        assert list(samples_of(tmp_path).values()) == [float(step)]
    assert [path.name for path in tmp_path.iterdir()] == ["a.prom"]


def test_json_lines_hold_what_was_chosen_and_nothing_else():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logs.JsonFormatter())
    logger = logging.Logger("any")
    logger.addHandler(handler)
    try:
        raise ValueError("payload")
    except ValueError:
        logger.exception("it failed", extra={"fields": {"n": 1}, "other": "left out"})
    said = json.loads(stream.getvalue())
    assert set(said) == {"time", "level", "logger", "message", "n", "error"}
    assert "payload" not in stream.getvalue()


def test_the_meter_starts_anew_with_every_run(folder):
    for run in ("r1", "r2"):
        with running(run, "mine"):
            watch_everything()
    assert meter.value(declared.SHARD_ROWS, **{"pass": "featurize"}) == 6


def test_a_run_folder_keeps_its_id_over_resumes_and_another_has_another(tmp_path, folder):
    from selfilter_ray.pipeline import run

    pool = tmp_path / "pool.json"
    turns = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "A cat."}]
    pool.write_text(json.dumps([{"id": str(n), "conversations": turns} for n in range(3)]))

    def read(name, limit):
        tree = {"run_dir": str(tmp_path / name), "select": {"ratio": 0.5}}
        tree |= {"data": {"inputs": [str(pool)], "limit": limit}}
        tree |= {"train": {"vlm": {"kind": "pretrained", "path": "a"}}}
        return run(tree, stages=("read",))["run_id"]

    first = read("one", 3)
    assert read("one", 3) == first, "nothing was left to do"
    assert read("one", 2) == first, "and read again"
    assert read("other", 3) != first
    found = samples_of(folder)
    assert found["selfilter_rows", ("run", first), ("state", "left_out_by_limit")] == 1


def test_an_id_stands_in_the_manifest_before_the_first_stage_ends(tmp_path):
    from selfilter_ray.pipeline import run

    (tmp_path / "pool.json").write_text("[]")
    tree = {"run_dir": str(tmp_path / "run"), "data": {"inputs": [str(tmp_path / "pool.json")]}}
    tree |= {"select": {"ratio": 0.5}, "train": {"vlm": {"kind": "pretrained", "path": "a"}}}
    ids = set()
    for _ in range(2):
        with pytest.raises(DataError):
            run(tree, stages=("read",))
        ids.add(json.loads((tmp_path / "run" / "manifest.json").read_text())["run_id"])
    assert len(ids) == 1
