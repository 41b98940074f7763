"""Programs of this environment, and of the system, that machines run."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
BIN = Path(sys.executable).parent  # not resolved: the environment's own folder


def installed(program: str, package: str) -> str:
    """Path of a program of a Debian package, which is installed when it is missing.

    Skips the test where that is impossible.
    """
    if found := shutil.which(program):
        return found
    for command in (["apt-get", "update"], ["apt-get", "install", "--yes", package]):
        try:
            done = subprocess.run(
                [*command, "--quiet"],
                env={"DEBIAN_FRONTEND": "noninteractive", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
                capture_output=True,
                text=True,
                timeout=600,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"{program} is missing, and {package} cannot be installed: {error}")
        if done.returncode:
            said = done.stderr.strip().splitlines()
            why = said[-1] if said else f"exit code {done.returncode}"
            pytest.skip(f"{program} is missing, and {package} cannot be installed: {why}")
    found = shutil.which(program)
    assert found, f"{package} is installed and has no {program}"
    return found
