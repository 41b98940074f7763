"""A local copy of what lies below a URI: brought up to date in either direction.

What others rely on is written last: first data, then completion records, then the manifest; and
what is removed goes after that. A copy that was interrupted therefore never says that something is
finished which it does not hold.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from selfilter_ray.errors import StorageError
from selfilter_ray.storage import objects, transfer
from selfilter_ray.storage.connection import MissingError
from selfilter_ray.storage.index import Entry, Index
from selfilter_ray.storage.naming import IMAGES, checked_name, in_order, is_left, of_a_run, rank
from selfilter_ray.storage.objects import Found
from selfilter_ray.storage.places import Uri, is_uri

THREADS = 8
LOOKS = 5
T = TypeVar("T")
U = TypeVar("U")


class Mirror:
    """A folder of this host, and the place that it is a copy of.

    Args:
        place: a URI, or a local path: then there is nothing to copy, and nothing is done.
        local: the copy; one process at a time may change it.
        copied: says of a name below the place whether it is part of the copy.
    """

    def __init__(self, place: str, local: Path, copied: Callable[[str], bool] = of_a_run) -> None:
        self.uri = Uri.of(place) if is_uri(place) else None
        self.local = local
        self._copied = copied
        self.index = Index(local)

    def pull(self, *names: str, leave: Sequence[str] = (), keep_edits: bool = False) -> None:
        """Bring the copy to what lies at the place; what is not there any more is removed.

        The result is a state that the place had at one moment: when something changes meanwhile,
        it is looked at again.

        Args:
            names: files or folders below the place; all where none is given.
            leave: names of folders that are left where they are, at any depth.
            keep_edits: files that only this side has changed or added stay as they are.

        Raises:
            StorageError: when that fails, or the place does not come to rest.
        """
        if self.uri is None:
            return
        found = self._found(names, leave)
        for _ in range(LOOKS):
            if not self._bring(found, names, leave, keep_edits):
                return
            before, found = found, self._found(names, leave)
            if before == found:
                return
        raise StorageError(
            f"{self.uri.plain} changes while it is read: wait until the run that writes it is "
            "finished."
        )

    def push(self, *names: str, leave: Sequence[str] = ()) -> None:
        """Bring to the place what has changed here since the last pull or push.

        Raises:
            StorageError: when that fails; calling again goes on.
        """
        if self.uri is None:
            return
        here = self._here(names, leave)
        changed = [name for name in here if not self._is_known(name)]
        there = set(here)
        gone = [name for name in self.index.names(names) if name not in there]
        gone = [name for name in gone if not is_left(name, leave)]
        try:
            for group in in_order(changed, str):
                for name, entry in zip(group, _each(self._upload, group), strict=True):
                    self.index.put(name, entry)
            for name in gone:
                objects.delete(str(self.uri.child(name)))
                self.index.drop(name)
        finally:
            self.index.save()

    def remove(self, name: str) -> None:
        """Remove a file or folder on both sides.

        Raises:
            StorageError: when that fails.
        """
        _remove_local(self.local / name)
        if self.uri is None:
            return
        objects.delete(str(self.uri.child(name)))
        for known in self.index.names([name]):
            self.index.drop(known)
        self.index.save()

    def _bring(
        self, found: list[Found], names: Iterable[str], leave: Sequence[str], keep_edits: bool
    ) -> bool:
        """Copy what differs; whether anything did."""
        newest = max((item.modified_ns for item in found), default=0)
        fresh = [
            item
            for item, same in zip(found, _each(self._is_same, found), strict=True)
            if not self._settle(item, same, newest, keep_edits)
        ]
        there = {item.name for item in found}
        gone = [name for name in self._here(names, leave) if name not in there]
        if keep_edits:
            gone = [name for name in gone if self._is_known(name)]
        stale = [name for name in self.index.names(names) if name not in there]
        for name in [*gone, *(item.name for item in fresh if rank(item.name))]:
            _remove_local(self.local / name)  # a record must not vouch for newer files
        for name in stale:
            if not is_left(name, leave):
                self.index.drop(name)
        try:
            for group in in_order(fresh, lambda item: item.name):
                for item, entry in zip(group, _each(self._download, group), strict=True):
                    self.index.put(item.name, entry.seen(item, newest))
        finally:
            self.index.save()
        return bool(fresh)

    def _is_same(self, item: Found) -> bool:
        """Whether the object is the one that the index knows."""
        entry = self.index.get(item.name)
        if entry is None or entry.size != item.size:
            return False
        same_time = entry.modified_ns == item.modified_ns
        if not entry.etag or (same_time and entry.settled):
            return same_time
        assert self.uri is not None
        try:
            return transfer.metadata_of(self.uri.child(item.name)).get("etag") == entry.etag
        except MissingError:
            return False

    def _settle(self, item: Found, same: bool, newest: int, keep_edits: bool) -> bool:
        """Whether the local file may stay as it is; an unchanged object's entry is brought up."""
        entry = self.index.get(item.name)
        if not same or entry is None:
            return False
        self.index.put(item.name, entry.seen(item, newest))
        file = self.local / item.name
        return entry.is_local(file) or (keep_edits and file.is_file())

    def _download(self, item: Found) -> Entry:
        assert self.uri is not None
        file = self.local / item.name
        try:
            metadata = transfer.download(self.uri.child(item.name), file)
        except MissingError:
            # Removed since it was listed: the next look will tell.
            return Entry(-1, 0, "", 0)
        status = file.stat()
        etag = metadata.get("etag", "")
        return Entry(status.st_size, item.modified_ns, etag, status.st_mtime_ns)

    def _upload(self, name: str) -> Entry:
        assert self.uri is not None
        file, uri = self.local / name, self.uri.child(name)
        before = file.stat()
        transfer.upload(file, uri)
        etag, modified = transfer.version_of(uri)
        return Entry(before.st_size, modified, etag, before.st_mtime_ns)

    def _is_known(self, name: str) -> bool:
        entry = self.index.get(name)
        return entry is not None and entry.is_local(self.local / name)

    def _found(self, names: Iterable[str], leave: Sequence[str]) -> list[Found]:
        """What lies at the place, in the order of the names."""
        assert self.uri is not None
        found = []
        for name in list(names) or self._tops():
            for item in objects.list_files(self.uri.child(name) if name else self.uri):
                whole = "/".join(part for part in (name, item.name) if part)
                if self._is_part(whole) and not is_left(whole, leave):
                    found.append(Found(checked_name(whole, self.uri), item.size, item.modified_ns))
        return sorted(set(found), key=lambda item: item.name)

    def _tops(self) -> list[str]:
        """What to list for all of it: of a run not the images that it keeps."""
        if self._copied is not of_a_run:
            return [""]
        assert self.uri is not None
        return [name for name in objects.list_top(self.uri) if name != IMAGES]

    def _here(self, names: Iterable[str], leave: Sequence[str]) -> list[str]:
        files = []
        for top in [self.local / name for name in names] or [self.local]:
            below = [top] if top.is_file() else top.rglob("*")
            files += [file.relative_to(self.local) for file in below if file.is_file()]
        here = sorted({file.as_posix() for file in files})
        return [name for name in here if self._is_part(name) and not is_left(name, leave)]

    def _is_part(self, name: str) -> bool:
        hidden = any(part.startswith(".") and part not in (".", "..") for part in name.split("/"))
        return bool(name) and not hidden and self._copied(name)


def _each(work: Callable[[T], U], items: Sequence[T]) -> list[U]:
    """Many at a time: it is all waiting for the store."""
    if len(items) < 2:
        return [work(item) for item in items]
    with ThreadPoolExecutor(THREADS, "storage") as threads:
        return list(threads.map(work, items))


def _remove_local(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
