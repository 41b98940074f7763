"""Names in a copy: which are part of it, which are safe, and which are written last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import groupby
from pathlib import PurePosixPath
from typing import TypeVar

from selfilter_ray.errors import StorageError
from selfilter_ray.storage.places import Uri

STORE_ONLY = "checkpoints"  # folders of this name are written and read by Ray Train itself
IMAGES = "images"  # opened one by one where they lie; there may be millions

T = TypeVar("T")


def of_a_run(name: str) -> bool:
    """Whether a file of a run folder is copied at all."""
    return STORE_ONLY not in name.split("/") and not name.startswith(f"{IMAGES}/")


def checked_name(name: str, uri: Uri) -> str:
    """A name that stays below the copy: stores allow names that are no such path.

    Raises:
        StorageError: for one that is not.
    """
    parts = name.split("/")
    if "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise StorageError(
            f"{uri.plain} holds an object whose name is no path ({name[:200]!r}): rename it."
        )
    return name


def is_left(name: str, leave: Sequence[str]) -> bool:
    return any(part in leave for part in name.split("/"))


def rank(name: str) -> int:
    """0 for data, 1 for what says that data is whole, 2 for the manifest that says so of all."""
    file = PurePosixPath(name).name
    if file == "manifest.json":
        return 2
    return int(file.endswith("done.json") or file == "outcome.json")


def in_order(items: Iterable[T], name_of: Callable[[T], str]) -> list[list[T]]:
    """Groups, each to be whole before the next begins."""
    ranked = sorted(items, key=lambda item: rank(name_of(item)))
    return [list(group) for _, group in groupby(ranked, key=lambda item: rank(name_of(item)))]
