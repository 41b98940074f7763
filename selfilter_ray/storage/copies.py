"""Where this host keeps its copies, and copies for reading that all its processes share.

``runs/`` holds the working copy of a run whose driver is on this host, ``copies/`` what is only
read, ``work/`` what a process writes before it is pushed. A driver's copy is never what others
read: it may be ahead of the store.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selfilter_ray.errors import ConfigError
from selfilter_ray.storage.mirror import Mirror
from selfilter_ray.storage.naming import of_a_run
from selfilter_ray.storage.places import Uri, is_uri

PLACE = "place"  # beside a copy: the URI


def cache_folder() -> Path:
    """``SELFILTER_CACHE``, or ``~/.cache/selfilter-ray``."""
    named = os.environ.get("SELFILTER_CACHE")
    return Path(named) if named else Path("~/.cache/selfilter-ray").expanduser()


def home_of(place: str, kind: str) -> Path:
    """The folder for a copy of a URI; the copy in it has the URI's own last name."""
    from selfilter_ray.storage.connection import endpoint_of

    uri = Uri.of(place)
    identity = f"{uri.plain} {endpoint_of(uri) or ''}"
    home = cache_folder().absolute() / kind / hashlib.sha256(identity.encode()).hexdigest()[:16]
    marker = home / PLACE
    try:
        home.mkdir(parents=True, exist_ok=True)
        if not marker.exists() or marker.read_text() != place:
            marker.write_text(place)
    except OSError as error:
        raise ConfigError(
            f"{home} cannot be written ({error.strerror}): set SELFILTER_CACHE to a folder of this "
            "host with room for the run."
        ) from None
    return home


def local_copy(
    place: str | Path,
    names: Sequence[str] | None = None,
    copied: Callable[[str], bool] = of_a_run,
    leave: Sequence[str] = (),
) -> Path:
    """A folder of this host that holds what lies at a place, to be read.

    Many processes may ask at once: one pulls, the others find it there.

    Args:
        place: a local path, which is its own copy, or the URI of a folder.
        names: files and folders below it that are needed; all where None.
        copied: says of a name whether it is to be copied at all.
        leave: names of folders that are left where they are.

    Raises:
        StorageError: when the store does not answer.
        ConfigError: when the cache folder cannot be written.
    """
    if not is_uri(place):
        return Path(place)
    home = home_of(str(place), "copies")
    with _alone(home / "lock"):
        copy = home / Uri.of(str(place)).name
        Mirror(str(place), copy, copied).pull(*(names or ()), leave=leave)
    return copy


@contextmanager
def work_folder() -> Iterator[Path]:
    """A new folder below the cache for what will be pushed; removed at the end.

    What processes left that were killed is removed, too: its lock is free then.
    """
    root = cache_folder().absolute() / "work"
    root.mkdir(parents=True, exist_ok=True)
    with _alone(root / "lock"):
        _sweep(root)
        folder = Path(tempfile.mkdtemp(dir=root))
        held = os.open(folder / ".alive", os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(held, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(held)


def _sweep(root: Path) -> None:
    for folder in root.iterdir():
        if not folder.is_dir():
            continue
        try:
            descriptor = os.open(folder / ".alive", os.O_RDWR | os.O_CREAT, 0o600)
        except OSError:
            continue  # on its way out
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # its process lives
        finally:
            os.close(descriptor)


@contextmanager
def _alone(file: Path) -> Iterator[None]:
    """One process of this host at a time."""
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
