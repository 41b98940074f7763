"""Jobs and the doctor on a real Ray head with the token on, as a user runs them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from job_commands import Reading, Wire, begin, ended, write_interpreter
from ray_head import ray_head

import selfilter_ray

pytestmark = pytest.mark.ray

WRONG = "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def head():
    with ray_head() as head:
        yield head


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Configs, and a folder to send: a file of the user's, and what must stay here."""
    folder = tmp_path_factory.mktemp("user")
    (folder / "sent" / ".git").mkdir(parents=True)
    for name in ("mine.txt", ".git/config", "huge.bin", ".env", "ignored.csv"):
        (folder / "sent" / name).write_text(name)
    (folder / "sent" / ".gitignore").write_text("*.csv\n*.yaml")
    run = {"run_dir": str(folder / "run"), "data": {"inputs": [str(folder / "nowhere.json")]}}
    (folder / "broken.yaml").write_text(yaml.safe_dump(run))
    along = run | {"data": {"inputs": ["mine.txt"]}}
    (folder / "along.yaml").write_text(yaml.safe_dump(along))
    packaged = run | {"data": {"inputs": ["package:easy-vqa/test"]}}
    (folder / "good.yaml").write_text(yaml.safe_dump(packaged))
    return folder


@pytest.fixture(scope="module")
def user(head, place):
    """Starts a command of a user; keywords are variables of its environment."""
    started = []

    def start(*arguments: str, address: str = head.url, **variables: str):
        process = begin(head.environment(**variables), *arguments, "--address", address, cwd=place)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def begun(user, head, place):
    """What takes long, all at once: a job that fails, one that lasts, the doctor, refusals."""
    script = write_interpreter(place)
    lasting = user(
        *("submit", "good.yaml", "--no-wait", "--job-id", "lasting", "--python", str(script)),
        *("--working-dir", "sent", "--exclude", "*.bin", "--with-package", "--env", "GREETING"),
        GREETING="hello",
    )
    broken = user(
        *("submit", "broken.yaml", "--set", "seed=7", "--job-id", "broken"),
        *("--metadata", "team=blue"),
    )
    doctor = user("doctor", "--config", "along.yaml", "--working-dir", "sent", "--json")
    config = yaml.safe_load((place / "good.yaml").read_text())
    os.mkfifo(place / "silent")  # opening it waits for ever
    config["data"]["image_root"] = str(place / "silent")
    (place / "stuck.yaml").write_text(yaml.safe_dump(config))
    stuck = user("doctor", "--config", "stuck.yaml", "--timeout", "10", address=head.address)
    refused = [user("submit", "good.yaml", RAY_AUTH_TOKEN=token) for token in (WRONG, "")]
    begun = SimpleNamespace(broken=broken, doctor=doctor, refused=refused, stuck=stuck)
    begun.lasting = ended(lasting)
    return begun


def test_a_wrong_token_and_none_are_refused_with_exit_code_2(begun):
    for process, reason in zip(
        begun.refused, ("refuses the token", "asks for a token"), strict=True
    ):
        code, out, err = ended(process)
        assert code == 2
        assert reason in err
        assert "Traceback" not in err
        assert WRONG not in out + err


def test_a_job_that_fails_ends_the_command_with_its_own_exit_code_and_log(begun, user, head, place):
    code, out, err = ended(begun.broken)
    assert code == 3, err
    assert "nowhere.json does not exist: correct data.inputs" in out
    assert "failed with exit code 3" in err
    assert head.token not in out + err
    listed, status = user("jobs", "list"), user("jobs", "status", "broken")
    lines = ended(listed)[1].splitlines()
    assert any("broken" in line and "FAILED" in line and " 3 " in line for line in lines)
    record = json.loads(ended(status)[1])
    assert (record["status"], record["exit_code"]) == ("FAILED", 3)
    assert record["metadata"]["team"] == "blue"
    assert record["metadata"]["selfilter_run"] == str(place / "run")
    assert "seed" not in record["command"]  # it is in the config that went along


def test_a_job_gets_the_folder_the_package_and_the_variable_that_it_was_sent(begun, user):
    assert begun.lasting[:2] == (0, "lasting\n"), begun.lasting[2]
    reading = Reading(user("jobs", "logs", "lasting", "--follow"))
    reading.wait_for(lambda reading: "line 1\n" in reading.out)
    reading.interrupt()
    said = dict(line.strip().split(": ", 1) for line in reading.out if ": " in line)
    assert said["arguments"] == "-m selfilter_ray.cli run selfilter.yaml"
    assert said["files"].split() == [".gitignore", "mine.txt", "selfilter.yaml"]
    assert said["GREETING"] == "hello"
    assert "py_modules_files" in said["package"]
    assert Path(said["package"]) != Path(selfilter_ray.__file__)


def test_a_connection_that_is_lost_is_waited_for_and_no_line_comes_twice(begun, user, head):
    wire = Wire(int(head.url.rpartition(":")[2]))
    try:
        reading = Reading(user("jobs", "logs", "lasting", "--follow", address=wire.url))
        reading.wait_for(lambda reading: "line 1\n" in reading.out)
        wire.cut()
        reading.wait_for(lambda reading: "does not answer; waiting" in "".join(reading.err))
        before = len(reading.out)
        wire.mend()
        reading.wait_for(lambda reading: "answers again" in "".join(reading.err))
        reading.wait_for(lambda reading: len(reading.out) > before + 2)
        assert reading.interrupt() == 1
    finally:
        wire.cut()
    assert "lasting goes on" in "".join(reading.err)
    lines = [line for line in reading.out if line.startswith("line ") and line.endswith("\n")]
    assert lines == [f"line {number}\n" for number in range(1, len(lines) + 1)]


def test_the_same_id_is_the_same_job_and_stopping_it_leaves_it_time(begun, user):
    other = user("submit", "good.yaml", "--job-id", "lasting", "--set", "seed=9")
    again = Reading(user("submit", "good.yaml", "--job-id", "lasting", "--stop-on-interrupt"))
    code, _, err = ended(other)
    assert code == 2
    assert "choose another --job-id" in err
    again.wait_for(lambda reading: "line 1\n" in reading.out)
    assert again.interrupt() == 1
    assert "is there already" in "".join(again.err)
    assert "asked to stop, patience 120\n" in again.out
    assert "job lasting: stopped" in "".join(again.err)
    assert sum(line.startswith("arguments:") for line in again.out) == 1
    code, _, err = ended(user("jobs", "stop", "lasting"))
    assert (code, "has ended already" in err) == (0, True)


def test_the_doctor_as_a_job_looks_at_every_node(begun, place):
    code, out, err = ended(begun.doctor)
    assert code == 0, out + err
    report = json.loads(out)
    assert report["passed"] and report["disagreements"] == []
    (node,) = report["nodes"]
    assert node["drives"] and node["address"] == "127.0.0.1"
    states = {check: finding["state"] for check, finding in node["findings"].items()}
    assert set(states) == {
        *("versions", "GPU", "memory", "disk", "compiler", "clock", "run_dir", "inputs", "models")
    }
    assert "failed" not in states.values()
    # A relative path: the node's task has the job's working directory.
    assert node["findings"]["inputs"]["text"] == "1 readable"
    assert not list(place.glob("run/.doctor*"))


def test_a_node_that_hangs_does_not_hang_the_doctor(begun, place):
    code, out, err = ended(begun.stuck)
    assert code == 1, err
    assert "answer: failed: nothing within 10 s" in out
    assert not list(place.glob("run/.doctor*"))
