"""Parts of a run folder as every host of a cluster finds them.

The driver works on paths below its working copy. ``Shared.of`` turns such a path into something
that may travel to another host and be turned into a path there. Of a run folder on a disk that all
hosts share it is the path itself, and nothing is ever copied.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from selfilter_ray.storage import objects
from selfilter_ray.storage.copies import PLACE, cache_folder, local_copy, work_folder
from selfilter_ray.storage.lease import check_held
from selfilter_ray.storage.mirror import Mirror
from selfilter_ray.storage.places import Uri, below

WEIGHTS = ("vlm",)  # folders of trained weights: workers read and write them, drivers do not


@dataclass(frozen=True)
class Shared:
    """A file or folder that every host can get at.

    Attributes:
        place: URI of the run folder; None where the disk is shared.
        name: below the place; of a shared disk the path.
    """

    place: str | None
    name: str

    @classmethod
    def of(cls, path: str | Path) -> Shared:
        """From a path of the driver."""
        root = cache_folder().absolute() / "runs"
        whole = Path(path).absolute()
        if not whole.is_relative_to(root):
            return cls(None, str(path))
        home, copy, *parts = whole.relative_to(root).parts
        del copy
        return cls((root / home / PLACE).read_text(), "/".join(parts))

    @property
    def uri(self) -> str | None:
        """Where it lies; None on a shared disk."""
        if self.place is None or not self.name:
            return self.place
        return below(self.place, self.name)

    def here(self) -> Path:
        """On this host, for reading: brought here if need be.

        Raises:
            StorageError: when the store does not answer.
        """
        if self.place is None:
            return Path(self.name)
        return local_copy(self.place, [self.name]) / self.name

    @contextmanager
    def to_fill(self) -> Iterator[Path]:
        """A folder to write files into; they are pushed at the end, records last.

        On a shared disk it is the folder itself, else an empty one.

        Raises:
            StorageError: when the store does not answer.
        """
        if self.uri is None:
            yield Path(self.name)
            return
        with work_folder() as room:
            folder = room / PurePosixPath(self.name).name
            folder.mkdir()
            yield folder
            Mirror(self.uri, folder).push()


def everywhere(value: Any) -> Any:
    """A value that goes to other hosts: paths in a working copy become ``Shared``."""
    if not isinstance(value, str | Path):
        return value
    shared = Shared.of(value)
    return value if shared.place is None else shared


def here(value: Any) -> Any:
    """The value of ``everywhere`` on this host, a path as a string."""
    return str(value.here()) if isinstance(value, Shared) else value


def publish(path: Path) -> None:
    """Push the working copy that a path of the driver lies in.

    Raises:
        StorageError: when that fails, or another driver has taken over.
    """
    found = _working_copy(path)
    if found is not None:
        check_held(found[0])
        Mirror(*found).push(leave=WEIGHTS)


def fetch(path: Path, leave: Sequence[str] = ()) -> None:
    """Pull what workers have left in a folder of the driver's working copy, but for weights.

    Raises:
        StorageError: when that fails.
    """
    found = _working_copy(path)
    if found is not None:
        Mirror(*found).pull(Shared.of(path).name, leave=(*WEIGHTS, *leave))


def remove(path: Path) -> None:
    """Remove a folder of the driver, here and where it is a copy of.

    Raises:
        StorageError: when that fails.
    """
    found = _working_copy(path)
    if found is None:
        shutil.rmtree(path, ignore_errors=True)
        return
    check_held(found[0])
    Mirror(*found).remove(Shared.of(path).name)


def is_there(path: Path) -> bool:
    """Whether a file of the driver, or a folder with files, exists here or where it is kept."""
    uri = Shared.of(path).uri
    return path.exists() or (uri is not None and bool(objects.list_files(Uri.of(uri))))


def begun(checkpoints: Path) -> set[str]:
    """Keys of the trainings that have left a checkpoint in a folder of the driver."""
    uri = Shared.of(checkpoints).uri
    if uri is None:
        return {path.parent.name for path in checkpoints.glob("*/checkpoint_*")}
    parts = (item.name.split("/") for item in objects.list_files(Uri.of(uri)))
    return {key for key, *rest in parts if rest and rest[0].startswith("checkpoint_")}


def _working_copy(path: Path) -> tuple[str, Path] | None:
    shared = Shared.of(path)
    if shared.place is None:
        return None
    root = cache_folder().absolute() / "runs"
    home, copy = path.absolute().relative_to(root).parts[:2]
    return shared.place, root / home / copy
