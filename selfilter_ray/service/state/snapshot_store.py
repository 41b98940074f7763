"""Snapshots at a URI beside those of this host: a writer that starts elsewhere finds them."""

from __future__ import annotations

from pathlib import Path

from selfilter_ray.service.state.snapshot_file import FEATURES, STATE, features_of
from selfilter_ray.storage import below
from selfilter_ray.storage.copies import home_of
from selfilter_ray.storage.objects import delete, list_files
from selfilter_ray.storage.places import Uri
from selfilter_ray.storage.transfer import download, upload


class SnapshotStore:
    """Of one URI; its files are those of a folder of snapshots.

    Attributes:
        folder: on this host, for the same files.
    """

    def __init__(self, place: str) -> None:
        self.place = place
        self.folder = home_of(place, "snapshots") / "snapshots"

    def names(self) -> list[str]:
        """Of the files that make a snapshot valid, oldest first.

        Raises:
            StorageError: when the store does not answer.
        """
        found = {item.name for item in list_files(Uri.of(self.place)) if "/" not in item.name}
        whole = {name for name in found if name.removesuffix(STATE) + FEATURES in found}
        return sorted(name for name in whole if name.endswith(STATE))

    def bring(self, name: str) -> None:
        """Both files of a snapshot, where they are not here; the one that makes it valid last.

        Raises:
            StorageError: when that fails.
        """
        file = self.folder / name
        if file.exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for part in (features_of(file), file):
            download(Uri.of(below(self.place, part.name)), part)

    def keep(self, file: Path, keep: int) -> None:
        """Store a snapshot of this host, and remove all but the newest ``keep``.

        Raises:
            StorageError: when that fails.
        """
        for part in (features_of(file), file):
            upload(part, Uri.of(below(self.place, part.name)))
        for name in self.names()[:-keep]:
            for part in (file.with_name(name), features_of(file.with_name(name))):
                delete(below(self.place, part.name))
