"""What the user asks for: the command of a job, and where and with what it runs."""

from __future__ import annotations

import re
import secrets
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfilter_ray.errors import ConfigError

CONFIG_FILE = "selfilter.yaml"  # in the job's working directory
CONFIG_VARIABLE = "SELFILTER_JOB_CONFIG"  # where there is none
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")


@dataclass(frozen=True)
class JobCommand:
    """A command of this program on the cluster.

    Attributes:
        name: such as ``run`` or ``doctor``.
        arguments: after the config.
        python: the interpreter there.
        option: that names the config; empty where it is the command's argument.
    """

    name: str
    arguments: Sequence[str] = ()
    python: str = "python"
    option: str = ""

    def entrypoint(self, in_variable: bool, with_config: bool = True) -> str:
        """For the shell that starts the job. It holds no setting, so it may be shown.

        Args:
            in_variable: the config is in a variable, not in a file.
        """
        # Not the console script: of a package that was sent along there is none.
        program = [self.python, "-m", "selfilter_ray.cli", self.name]
        file = "/dev/stdin" if in_variable else CONFIG_FILE
        config = [word for word in (self.option, file) if word] if with_config else []
        words = shlex.join([*program, *config, *self.arguments])
        if with_config and in_variable:
            return f'printf %s "${CONFIG_VARIABLE}" | base64 -d | {words}'
        return f"exec {words}"


@dataclass(frozen=True)
class Sent:
    """What goes with a job beside its config.

    Attributes:
        working_dir: a folder whose content becomes the job's working directory.
        excludes: patterns of what stays here.
        runtime_env: YAML file of a Ray runtime environment.
        image: container image that the job's processes run in.
        with_package: this installed package's own source.
        variables: environment of the job.
    """

    working_dir: Path | None = None
    excludes: Sequence[str] = ()
    runtime_env: Path | None = None
    image: str | None = None
    with_package: bool = False
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Resources:
    """What the job's first process reserves. Without any it runs on the head node.

    Attributes:
        memory: bytes.
        resources: custom resources by name.
        labels: that the node must have.
    """

    cpus: float | None = None
    gpus: float | None = None
    memory: int | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


def job_id(given: str | None, command: str) -> str:
    """An id that may stand in a URL and in a file's name; made up where none is given.

    Raises:
        ConfigError: when it is of another form.
    """
    if given is None:
        return f"selfilter-{command}-{secrets.token_hex(4)}"
    if _ID.fullmatch(given) is None:
        raise ConfigError(
            f"--job-id {given[:120]!r}: up to 100 letters, digits, '-', '_' and '.', the first a "
            "letter or digit."
        )
    return given
