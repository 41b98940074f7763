"""The runtime environment of a job: where its processes get their code and variables from."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import yaml

from selfilter_ray.config import Config
from selfilter_ray.errors import ConfigError
from selfilter_ray.submission.request import CONFIG_VARIABLE, Sent
from selfilter_ray.submission.working_dir import config_text

# A training that is asked to stop writes a checkpoint first. Ray's own patience is 3 seconds.
STOP_SECONDS = "120"
STOP_VARIABLE = "RAY_JOB_STOP_WAIT_TIME_S"
LONGEST_VARIABLE = 100_000  # bytes; Linux takes 128 KiB


def runtime_env(
    sent: Sent, folder: Path, package: Path | None, config: Config | None
) -> dict[str, Any]:
    """The environment for Ray.

    Args:
        sent: what the user asked for.
        folder: of the working directory that was put together.
        package: this package's source; None where the cluster has it.
        config: of the job; with an image it travels in a variable, since Ray sends no folder then.

    Raises:
        ConfigError: when the file cannot be read, or settings exclude each other.
    """
    environment = _from_file(sent.runtime_env)
    variables = environment.setdefault("env_vars", {}) or {}
    if not isinstance(variables, dict):
        raise ConfigError(f"{sent.runtime_env}: env_vars must be a mapping.")
    variables = {str(name): str(value) for name, value in variables.items()}
    environment["env_vars"] = {STOP_VARIABLE: STOP_SECONDS} | variables | dict(sent.variables)
    if sent.image is not None:
        environment["image_uri"] = sent.image
    if environment.get("image_uri"):
        return _in_image(environment, sent, config)
    if "working_dir" in environment:
        raise ConfigError(
            f"{sent.runtime_env}: working_dir is made by submit. Name the folder by --working-dir."
        )
    environment["working_dir"] = str(folder)
    if package is not None:
        environment["py_modules"] = [*(environment.get("py_modules") or ()), str(package)]
    return environment


def _in_image(environment: dict[str, Any], sent: Sent, config: Config | None) -> dict[str, Any]:
    clash = set(environment) - {"image_uri", "env_vars", "config"}
    if clash or sent.with_package or sent.working_dir is not None:
        named = ", ".join(sorted(clash)) or "--with-package and --working-dir"
        raise ConfigError(
            f"with an image Ray sends nothing else: {named} cannot be given. Put into the image "
            "what the job needs."
        )
    if config is not None:
        text = base64.b64encode(config_text(config).encode()).decode()
        if len(text) > LONGEST_VARIABLE:
            raise ConfigError("the config is too long to travel with an image: shorten it.")
        environment["env_vars"][CONFIG_VARIABLE] = text
    return environment


def _from_file(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--runtime-env {path} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(f"--runtime-env {path} is not YAML.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"--runtime-env {path} must be a mapping, as Ray's runtime_env.")
    return content
