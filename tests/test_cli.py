"""The command line: exit codes, messages, and what every command prints at its end."""

import json
import sys

import pytest
from PIL import Image

from selfilter_ray.cli import main


@pytest.fixture
def call(monkeypatch, capsys):
    """Run a command in this process: its exit code, standard output and standard error."""

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["selfilter-ray", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        code = ended.value.code
        return (code if isinstance(code, int) else 0), output.out, output.err

    return run


@pytest.fixture
def pool(tmp_path):
    """Three usable records and one without an answer."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    turns = [{"from": "human", "value": "what colour?"}, {"from": "gpt", "value": "red"}]
    rows = [{"id": f"r{n}", "image": "red.png", "conversations": turns} for n in range(3)]
    rows.append({"id": "bad", "image": "red.png", "conversations": turns[:1]})
    path = tmp_path / "pool.json"
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture
def config(pool, tmp_path):
    """A config over the pool."""
    path = tmp_path / "config.yaml"
    settings = {"run_dir": str(tmp_path / "run"), "data": {"inputs": [str(pool)]}}
    path.write_text(json.dumps(settings))
    return path


def test_validate_counts_rows_and_writes_the_quarantine(call, pool, tmp_path):
    quarantine = tmp_path / "quarantine.jsonl"
    code, out, _ = call("validate", str(pool), "--quarantine", str(quarantine))
    assert code == 0
    assert "answer_missing" in out
    lines = [json.loads(line) for line in quarantine.open()]
    assert [line["id"] for line in lines] == ["bad"]
    assert lines[0]["locator"] == f"{pool}#3"


def test_validate_of_unusable_data_is_exit_3(call, tmp_path):
    (tmp_path / "pool.json").write_text('{"id": 1}')
    code, _, err = call("validate", str(tmp_path / "pool.json"))
    assert code == 3
    assert "must be a JSON list of records" in err
    code, _, err = call("validate", str(tmp_path / "nowhere.json"))
    assert code == 3
    assert "does not exist" in err


def test_wrong_config_is_exit_2_with_a_suggestion(call, config, tmp_path):
    code, _, err = call("run", str(config), "--set", "select.ration=0.1")
    assert code == 2
    assert "select.ration: unknown key. Did you mean ratio?" in err
    code, _, err = call("run", str(tmp_path / "missing.yaml"))
    assert code == 2
    assert "cannot be read" in err


def test_a_stage_without_those_before_it_is_exit_2(call, config):
    code, _, err = call("select", str(config))
    assert code == 2
    assert "score needs read to be finished" in err


def test_an_unset_environment_variable_is_named(call, tmp_path, monkeypatch):
    monkeypatch.delenv("SOMEWHERE", raising=False)
    config = tmp_path / "config.yaml"
    config.write_text("run_dir: ${SOMEWHERE}/run\ndata: {inputs: [a.json]}\n")
    code, _, err = call("run", str(config))
    assert code == 2
    assert "SOMEWHERE" in err


def test_no_command_is_wrong_usage(call):
    assert call()[0] == 2
    assert call("nonsense")[0] == 2
