"""Reading a config: YAML, the environment, and overrides."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from selfilter_ray.config.data import DataConfig
from selfilter_ray.config.explain import explain
from selfilter_ray.config.root import Config
from selfilter_ray.errors import ConfigError


def load_config(
    source: str | Path | Mapping[str, Any] | Config, overrides: Sequence[str] = ()
) -> Config:
    """Read and check a config.

    Args:
        source: path of a YAML file, a mapping, or a config.
        overrides: ``"a.b=c"`` strings; each value is read as YAML.

    Raises:
        ConfigError: naming each wrong key, with the nearest right one.
    """
    if isinstance(source, Config):
        tree: Any = source.model_dump()
    elif isinstance(source, Mapping):
        tree = _copy(source)
    else:
        tree = read_yaml(Path(source))
    for override in overrides:
        apply_override(tree, override)
    return parse_config(tree)


def parse_config(tree: Mapping[str, Any]) -> Config:
    """Check an already loaded tree of settings."""
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error)) from None


def parse_data(**values: Any) -> DataConfig:
    """A ``data`` section of its own, for commands that have no config file."""
    try:
        return DataConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(explain(error, DataConfig)) from None


def _copy(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _copy(value) for key, value in tree.items()}
    return tree


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, with ``${NAME:-default}`` filled in from the environment.

    Raises:
        ConfigError: when it cannot be read or is no mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"config {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"config {path} is not UTF-8 text (byte {error.start})") from None
    try:
        tree = yaml.safe_load(text)
    except Exception as error:  # a date or tag with a wrong value raises types of its own
        raise ConfigError(f"config {path} is not YAML: {error}") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"config {path} must be a mapping of settings, with run_dir")
    try:
        expanded = _expand(tree, str(path), itertools.count())
    except RecursionError:
        raise ConfigError(f"config {path} is nested too deeply, or in itself") from None
    assert isinstance(expanded, dict)
    return expanded


_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")


_MAX_VALUES = 100_000  # aliases of aliases multiply: a few lines can stand for billions


def _expand(node: Any, where: str, counter: Iterator[int]) -> Any:
    if next(counter) > _MAX_VALUES:
        raise ConfigError(f"{where}: more than {_MAX_VALUES} values; check its aliases.")
    if isinstance(node, dict):
        return {key: _expand(value, f"{where}: {key}", counter) for key, value in node.items()}
    if isinstance(node, list):
        return [_expand(value, where, counter) for value in node]
    if isinstance(node, str):
        return _VARIABLE.sub(lambda match: _variable(match, where), node)
    return node


def _variable(match: re.Match[str], where: str) -> str:
    name, default = match.group(1), match.group(2)
    value = os.environ.get(name) or default
    if value is None:
        raise ConfigError(f"{where} needs the environment variable {name}: set it and run again.")
    return value


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Set one key of a tree, ``"a.b=c"``.

    Raises:
        ConfigError: when it is not of that form.
    """
    key, separator, value = override.partition("=")
    if not separator or not key.strip():
        raise ConfigError(f"--set {override!r}: write it as key.subkey=value")
    *parents, last = key.strip().split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        if child is None:
            child = node[parent] = {}
        if not isinstance(child, dict):
            raise ConfigError(f"--set {override!r}: {parent} is a value, not a section")
        node = child
    try:
        node[last] = yaml.safe_load(value)
    except Exception:  # see read_yaml
        raise ConfigError(f"--set {override[:200]!r}: the value is not YAML") from None
