"""The folder that is packed and sent with a job: the config, and what the user names.

It is put together in a temporary folder, so that what is sent is exactly what was counted.
"""

from __future__ import annotations

import fnmatch
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

import selfilter_ray
from selfilter_ray.config import Config
from selfilter_ray.errors import ConfigError
from selfilter_ray.run_folder import stage_key
from selfilter_ray.submission.request import CONFIG_FILE

LIMIT = 200 * 2**20  # bytes; Ray keeps packages in the memory of its head
IGNORE_FILES = (".gitignore", ".rayignore")  # Ray leaves out what they name
EXCLUDES = (
    ".git",
    ".hg",
    ".svn",
    ".venv",
    "venv",
    "node_modules",
    "__pycache__",
    ".*_cache",
    ".hypothesis",
    ".env",
    ".netrc",
    ".ssh",
    ".aws",
    ".ray",
    "*.pem",
    "*.pyc",
    "*.egg-info",
    "runs",
    "wandb",
    "mlruns",
)


def sent_config(config: Config) -> Config:
    """The config for the job: it runs in the cluster that it is sent to."""
    return config.model_copy(update={"ray": config.ray.model_copy(update={"address": None})})


def config_hash(config: Config) -> str:
    """A short hash of the settings, to tell whether a job is of this config."""
    return stage_key(config.model_dump(mode="json"))


def copy_package(folder: Path) -> Path:
    """The source of this package as it is imported here, without what Python left in it."""
    source, target = Path(selfilter_ray.__file__).parent, folder / "selfilter_ray"
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return target


def config_text(config: Config) -> str:
    """The resolved config as YAML."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def fill(folder: Path, config: Config | None, source: Path | None, excludes: Sequence[str]) -> int:
    """Put together what is sent.

    Args:
        folder: empty; becomes the job's working directory.
        source: the folder that the user wants sent; None for nothing but the config.
        excludes: patterns of what stays here, beside ``EXCLUDES``: of a name anywhere, or of a path
            below ``source``.

    Returns:
        Bytes in the folder.

    Raises:
        ConfigError: when it is not a folder, has a file with the config's name, or is too large.
    """
    size = 0
    if source is not None:
        files = _checked(source, (*EXCLUDES, *excludes))
        for file, bytes in files:
            target = folder / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / file, target)
            shutil.copymode(source / file, target)
            size += bytes
    if config is not None:
        text = config_text(config)
        (folder / CONFIG_FILE).write_text(text, encoding="utf-8")
        size += len(text.encode())
        for name in IGNORE_FILES:
            if (folder / name).exists():
                with open(folder / name, "a", encoding="utf-8") as ignored:
                    ignored.write(f"\n!/{CONFIG_FILE}\n")  # the last word counts
    return size


def _checked(source: Path, excludes: Sequence[str]) -> list[tuple[Path, int]]:
    if not source.is_dir():
        raise ConfigError(f"--working-dir {source} is not a folder.")
    files, total = [], 0
    heavy: dict[str, int] = defaultdict(int)
    for file, bytes in _files(source, excludes):
        files.append((file, bytes))
        total += bytes
        heavy[file.parts[0]] += bytes
    if total > LIMIT:
        most = sorted(heavy, key=lambda name: -heavy[name])[:3]
        named = ", ".join(f"{name} {heavy[name] / 2**20:,.0f} MiB" for name in most)
        raise ConfigError(
            f"--working-dir {source} has {total / 2**20:,.0f} MiB, at most {LIMIT / 2**20:,.0f} "
            f"MiB are sent ({named}). Leave data out with --exclude, and name it in the config by "
            "URI."
        )
    if any(file == Path(CONFIG_FILE) for file, _ in files):
        raise ConfigError(
            f"--working-dir {source} has a file {CONFIG_FILE}: the job's config gets that name. "
            "Rename it."
        )
    return files


def _files(source: Path, excludes: Sequence[str]) -> Iterator[tuple[Path, int]]:
    """Regular files with their sizes. Links out of the folder would pull in what nobody named."""
    root = source.resolve()
    for where, folders, names in os.walk(source):
        here = Path(where).relative_to(source)
        folders[:] = sorted(name for name in folders if not _excluded(here / name, excludes))
        for name in sorted(names):
            file = source / here / name
            if _excluded(here / name, excludes) or not file.is_file():
                continue
            if file.resolve().is_relative_to(root):
                yield here / name, file.stat().st_size


def _excluded(path: Path, patterns: Sequence[str]) -> bool:
    return any(
        fnmatch.fnmatchcase(path.name, pattern)
        or fnmatch.fnmatchcase(path.as_posix(), pattern.strip("/"))
        for pattern in patterns
    )
