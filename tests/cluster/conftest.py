"""What the tests on several hosts need, and where their figures go."""

from __future__ import annotations

import os
import shlex
import sys

import pytest
from machine import Machine
from programs import installed


def pytest_addoption(parser):
    parser.addoption("--store", action="store_true", help="write benchmarks/results/cluster_*.json")


@pytest.fixture(scope="session", autouse=True)
def namespaces_possible(tmp_path_factory):
    """Skips everything where this user may not make machines."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("machines of Linux namespaces need root on Linux")
    installed("ip", "iproute2")
    machine = Machine("probe", tmp_path_factory.mktemp("probe"))
    try:
        machine.boot()
    except RuntimeError as error:
        pytest.skip(f"namespaces cannot be made here: {error}")
    finally:
        machine.kill()


@pytest.fixture(scope="module")
def figures(request):
    """What a module measured; stored when all of it passed and --store was given."""
    measured = {}
    failed = request.session.testsfailed
    yield measured
    if measured and request.config.getoption("--store") and failed == request.session.testsfailed:
        from benchmarks.store import store_result

        name = request.module.__name__.replace("hosts_", "cluster_")
        command = shlex.join(["python", "-m", "pytest", *sys.argv[1:]])
        store_result(name, measured, command=command)
