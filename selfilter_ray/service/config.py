"""Reading the config of the service: a run folder, a YAML file, or a Serve config file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfilter_ray.config.explain import explain
from selfilter_ray.config.load import apply_override, read_yaml
from selfilter_ray.errors import ConfigError
from selfilter_ray.service.settings import ServiceConfig
from selfilter_ray.storage import is_uri


def load_service_config(source: str | Path, overrides: Sequence[str] = ()) -> ServiceConfig:
    """The config of a service.

    Args:
        source: folder or URI of a run, which is then served with the defaults; YAML file of a
            ``ServiceConfig``; or a Serve config file, of whose first application the ``args`` are
            taken.
        overrides: ``"a.b=c"`` strings; each value is read as YAML.

    Raises:
        ConfigError: naming each wrong key, with the nearest right one.
    """
    path = Path(source)
    if is_uri(source) or path.is_dir():
        tree: dict[str, Any] = {"run_dir": str(source)}
    else:
        tree = _arguments(read_yaml(path), path)
    for override in overrides:
        apply_override(tree, override)
    return parse_service_config(tree)


def parse_service_config(tree: Mapping[str, Any]) -> ServiceConfig:
    """Check an already loaded tree of settings; a relative folder becomes absolute.

    Replicas work in other folders than the process that starts them.
    """
    try:
        config = ServiceConfig.model_validate(tree)
    except ValidationError as error:
        raise ConfigError(explain(error, ServiceConfig)) from None
    folders: dict[str, Any] = {
        name: str(Path(place).resolve())
        for name in ("run_dir", "state", "snapshot_dir")
        if (place := getattr(config, name)) and not is_uri(place)
    }
    if config.images.root:
        root = str(Path(config.images.root).resolve())
        folders["images"] = config.images.model_copy(update={"root": root})
    if config.keys.file:
        keys = str(Path(config.keys.file).resolve())
        folders["keys"] = config.keys.model_copy(update={"file": keys})
    return config.model_copy(update=folders)


def _arguments(tree: dict[str, Any], path: Path) -> dict[str, Any]:
    if "applications" not in tree:
        return tree
    applications = tree["applications"]
    first = applications[0] if isinstance(applications, list) and applications else None
    arguments = first.get("args") if isinstance(first, dict) else None
    if not isinstance(arguments, dict):
        raise ConfigError(f"{path}: its first application has no args with a run_dir.")
    return arguments
