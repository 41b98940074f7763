"""The machines of these tests are what they claim to be: apart, and gone when they end."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from network import Network
from programs import REPOSITORY
from waiting import wait_until

OWNER = """
import sys, time
from pathlib import Path
from network import Network
with Network(Path(sys.argv[1])) as network:
    network.add("first").popen(["sleep", "86401"])
    print("up", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def network(tmp_path):
    with Network(tmp_path / "disks") as network:
        yield network


def sleeping(seconds: str) -> int:
    """Processes of this computer, machines included, that sleep that long."""
    lines = (file.read_bytes() for file in Path("/proc").glob("[0-9]*/cmdline"))
    return sum(line == f"sleep\0{seconds}\0".encode() for line in lines)


def test_what_one_machine_writes_no_other_sees(network, tmp_path):
    first, second = network.add("first"), network.add("second")
    for folder in ("/tmp", "/home/user", "/var/tmp", "/dev/shm", "/run"):
        first.run(["touch", f"{folder}/of-first"])
        assert "of-first" not in second.run(["ls", folder]).stdout.split()
    for shared in (REPOSITORY, Path("/root"), Path("/etc")):
        refused = first.run(["touch", str(shared / "of-first")], check=False)
        assert "Read-only" in refused.stderr
    assert not first.run(["ls", str(tmp_path)], check=False).stdout


def test_machines_hear_each_other_by_name_and_nothing_else(network):
    first, second = network.add("first"), network.add("second")
    second.popen(["python3", "-m", "http.server", "8000"])
    ask = "import urllib.request as u, sys; print(u.urlopen(sys.argv[1], timeout=2).status)"
    said = wait_until(
        lambda: first.run(["python3", "-c", ask, "http://second:8000"], check=False).stdout,
        "an answer",
        20,
    )
    assert said == "200\n"
    listening = subprocess.run(["ss", "-ltn"], capture_output=True, text=True, check=True).stdout
    inside = second.run(["ss", "-ltn"]).stdout
    assert ":8000 " in inside and inside.splitlines()[1] not in listening
    network.lose(second)
    refused = first.run(["python3", "-c", ask, "http://second:8000"], check=False).stderr
    assert "timed out" in refused or "No route" in refused  # nobody says that it is gone
    network.boot(second)
    assert network.address(second) in second.run(["ip", "-brief", "address"]).stdout


def test_a_machine_that_is_killed_takes_all_its_processes_and_keeps_its_disk(network):
    first = network.add("first")
    first.run(["sh", "-c", "echo kept > /tmp/file; setsid sleep 86400 > /dev/null 2>&1 &"])
    wait_until(lambda: sleeping("86400") == 1, "the process inside", 20)
    first.kill()
    assert sleeping("86400") == 0
    network.boot(first)
    assert first.run(["cat", "/tmp/file"]).stdout == "kept\n"


def test_nothing_stays_when_the_tests_themselves_are_killed(tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "disks")],
        cwd=Path(__file__).parent,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdout.readline() == "up\n"
    wait_until(lambda: sleeping("86401") == 1, "the process inside", 20)
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    wait_until(lambda: sleeping("86401") == 0, "the end of the process inside", 20)


def test_two_networks_at_a_time_do_not_know_each_other(network, tmp_path):
    with Network(tmp_path / "others") as other:
        first, same = network.add("first"), other.add("first")
        assert network.address(first) == other.address(same)
        first.run(["touch", "/tmp/of-this"])
        assert not same.run(["ls", "/tmp"]).stdout
