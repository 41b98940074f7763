"""The snapshots of a state: written by a thread beside the admissions, the newest good one loaded.

The writer's thread only copies the numbers beside the vectors. The vectors are copied part by part
from the selector's blocks while samples come and go (``capture``).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError, StorageError
from selfilter_ray.service.messages import NotReadyError
from selfilter_ray.service.settings import SnapshotSettings
from selfilter_ray.service.state import snapshot_file
from selfilter_ray.service.state.snapshot_file import STATE, Held, Rows
from selfilter_ray.service.state.snapshot_store import SnapshotStore
from selfilter_ray.storage import is_uri

log = logging.getLogger(__name__)
# After a failure it is tried again when this part of the usual distance has passed.
AGAIN = 10
UNUSABLE = ".unusable"


class Capture(NamedTuple):
    """What is copied in the writer's thread, and where the vectors are read meanwhile."""

    held: Held
    rows: Rows


class Newest(NamedTuple):
    sequence: int
    written_at: float
    bytes: int


class Snapshots:
    """Of one folder, or of a URI and a folder of this host that holds the same.

    The log has all that a snapshot holds: a store that does not answer costs time, nothing else.
    """

    def __init__(self, place: str, settings: SnapshotSettings) -> None:
        self._store = SnapshotStore(place) if is_uri(place) else None
        self.folder = Path(place) if self._store is None else self._store.folder
        self._settings = settings
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="snapshot")
        self._writing: Future[dict[str, Any]] | None = None
        self._newest: Newest | None = None
        self._next = settings.decisions

    def load(self, fits: Callable[[Held], str | None]) -> Held | None:
        """The newest snapshot that is whole and fits; None when there is none.

        Args:
            fits: what speaks against one, or None. Those that do not fit are put aside, so that
                they are not counted among those to keep.
        """
        atomic.sweep(self.folder)
        for file in self._candidates():
            try:
                if self._store is not None:
                    self._store.bring(file.name)
                held = snapshot_file.read(file)
                against = fits(held)
            except StorageError as error:
                log.error("%s An older snapshot is taken, or the log", error)
                continue
            except ArtifactError as error:
                log.error("%s; an older one is taken, or the log", error)
                _put_aside(file)
                continue
            if against is None:
                self._set_newest(held.sequence, file.stat().st_mtime, snapshot_file.size(file))
                self._next = held.sequence + self._settings.decisions
                return held
            log.error("the snapshot %s is not used: %s", file, against)
            _put_aside(file)
        return None

    def start_if_due(self, sequence: int, capture: Callable[[], Capture]) -> None:
        """Begin one when enough was decided since the last."""
        if sequence < self._next or (self._writing and not self._writing.done()):
            return
        self.start(capture)

    def start(self, capture: Callable[[], Capture]) -> Future[dict[str, Any]]:
        """Begin one now, or answer the one that is being written."""
        if self._writing is None or self._writing.done():
            captured = capture()
            self._next = captured.held.sequence + self._settings.decisions
            self._writing = self._thread.submit(self._write, captured)
        return self._writing

    def newest(self) -> dict[str, Any] | None:
        if self._newest is None:
            return None
        sequence, written_at, size = self._newest
        age = max(0.0, time.time() - written_at)
        return {"sequence": sequence, "age_seconds": round(age, 3), "bytes": size}

    def close(self) -> None:
        """Wait for one that is being written."""
        self._thread.shutdown()

    def _write(self, captured: Capture) -> dict[str, Any]:
        began, held = time.monotonic(), captured.held
        try:
            file, size = snapshot_file.write(self.folder, held, captured.rows)
            if self._store is not None:
                self._store.keep(file, self._settings.keep)
        except (OSError, SafetensorError, NotReadyError, StorageError) as error:
            self._next = held.sequence + max(1, self._settings.decisions // AGAIN)
            log.error("a snapshot could not be written to %s: %s", self.folder, error)
            raise NotReadyError(f"the snapshot could not be written: {error}") from error
        self._set_newest(held.sequence, time.time(), size)
        self._prune()
        seconds = round(time.monotonic() - began, 3)
        log.info("snapshot at %d: %d bytes in %.1f s", held.sequence, size, seconds)
        return {
            "sequence": held.sequence,
            "kept": len(held.state.ids),
            "bytes": size,
            "seconds": seconds,
            "file": file.name,
        }

    def _set_newest(self, sequence: int, written_at: float, size: int) -> None:
        self._newest = Newest(sequence, written_at, size)

    def _candidates(self) -> list[Path]:
        """Newest first, here or in the store."""
        names = {file.name for file in self._files()}
        if self._store is not None:
            try:
                names.update(self._store.names())
            except StorageError as error:
                log.error("%s The snapshots of this host are taken, or the log", error)
        return [self.folder / name for name in sorted(names, reverse=True)]

    def _files(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{STATE}"))

    def _prune(self) -> None:
        for file in self._files()[: -self._settings.keep]:
            # First the file that makes it valid.
            for part in (file, snapshot_file.features_of(file)):
                part.unlink(missing_ok=True)


def _put_aside(file: Path) -> None:
    """One such snapshot stays to be looked at; the log has all that it holds."""
    for old in file.parent.glob(f"*{UNUSABLE}"):
        old.unlink(missing_ok=True)
    for part in (file, snapshot_file.features_of(file)):
        if part.exists():
            part.rename(part.with_name(part.name + UNUSABLE))
