"""Where packaged weights and data lie, and where what is made from them is kept."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from selfilter_ray.errors import ConfigError


def package_folder(module: str, remedy: str) -> Path:
    """The folder of an installed package, which is not imported.

    Raises:
        ConfigError: with the remedy, when it is not installed.
    """
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(f"package {module} is not installed: {remedy}.")
    return Path(spec.submodule_search_locations[0])


def cache_folder() -> Path:
    """The user's cache folder for this product."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "selfilter_ray"
