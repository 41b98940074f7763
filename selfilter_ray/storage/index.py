"""What a local copy knows of its files: as which object each came or went, and how it lay then.

Times of the store are compared with times of the store, local times with local ones. Object stores
tell seconds, so two versions written in one second look alike: until the store has shown a time two
seconds later, an entry is not settled, and the object's ETag is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from selfilter_ray import atomic
from selfilter_ray.storage.objects import Found

FILE = ".storage.json"  # inside the copy, so that it goes when the copy goes
SETTLED_NS = 2_000_000_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, at the moment when both sides were the same.

    Attributes:
        size, modified_ns, etag: of the object; ``modified_ns`` 0 and ``etag`` empty where unknown.
        local_ns: the local file's time of modification.
        settled: a later version would show another time.
    """

    size: int
    modified_ns: int
    etag: str
    local_ns: int
    settled: bool = False

    def is_local(self, file: Path) -> bool:
        """Whether the local file is as it was."""
        try:
            status = file.stat()
        except OSError:
            return False
        return status.st_size == self.size and status.st_mtime_ns == self.local_ns

    def seen(self, found: Found, newest_ns: int) -> Entry:
        """After the object was seen unchanged in a listing."""
        settled = found.modified_ns + SETTLED_NS <= newest_ns
        return replace(self, modified_ns=found.modified_ns, settled=settled)


class Index:
    """The entries of a copy, by name. A file that is missing or damaged holds none.

    Args:
        folder: the copy.
    """

    def __init__(self, folder: Path) -> None:
        self._file = folder / FILE
        self._entries: dict[str, Entry] = {}
        self.owner = ""
        try:
            stored = json.loads(self._file.read_text(encoding="utf-8"))
            self._entries = {name: Entry(**entry) for name, entry in stored["files"].items()}
            self.owner = str(stored["owner"])
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            self._entries = {}  # then every file is looked at as if it were new
        self._changed = False

    def get(self, name: str) -> Entry | None:
        return self._entries.get(name)

    def put(self, name: str, entry: Entry) -> None:
        if self._entries.get(name) != entry:
            self._entries[name] = entry
            self._changed = True

    def drop(self, name: str) -> None:
        if self._entries.pop(name, None) is not None:
            self._changed = True

    def names(self, below: Iterable[str]) -> list[str]:
        """Those at or below any of the given names; all where none is given."""
        wanted = list(below)
        return [name for name in self._entries if not wanted or any(is_at(name, w) for w in wanted)]

    def belongs_to(self, owner: str) -> None:
        """Note whose copy this is."""
        if self.owner != owner:
            self.owner, self._changed = owner, True

    def save(self) -> None:
        if self._changed:
            files = {name: asdict(entry) for name, entry in self._entries.items()}
            atomic.write_text(self._file, json.dumps({"owner": self.owner, "files": files}))
            self._changed = False


def is_at(name: str, place: str) -> bool:
    """Whether a name is the given one, or below it."""
    return name == place or name.startswith(f"{place}/")
