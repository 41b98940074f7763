"""Who drives a run folder that lies in an object store: one driver at a time, as well as that goes.

The holder writes ``.driver.json`` every few seconds with a count that grows. Another driver that
finds it watches, by its own clock, whether the count still grows: if so it gives up, if not for
``PATIENCE_SECONDS`` it takes over. Stores have no compare-and-swap that ``pyarrow.fs`` offers, so
two that start within the same moment can both believe for a few seconds that they hold it; before
anything is published each looks again, and the one whose name is gone stops.
"""

from __future__ import annotations

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from selfilter_ray.errors import ConfigError, StorageError
from selfilter_ray.storage.connection import MissingError
from selfilter_ray.storage.objects import new_token, read_bytes, write_bytes
from selfilter_ray.storage.places import below, shown

FILE = ".driver.json"
BEAT_SECONDS = 5.0
PATIENCE_SECONDS = 30.0
SETTLE_SECONDS = 0.5
MOST_BYTES = 4096

_held: dict[str, Lease] = {}


@contextmanager
def driving(place: str, copy: str) -> Iterator[bool]:
    """Hold a run folder inside the block.

    Args:
        place: its URI.
        copy: name of this host's working copy, which no other living process works on.

    Yields:
        Whether the last driver worked on the same copy.

    Raises:
        ConfigError: when another driver is at work.
        StorageError: when the store does not answer.
    """
    lease = Lease(place, copy)
    same = lease.take()
    _held[place] = lease
    try:
        yield same
    finally:
        del _held[place]
        lease.release()


def check_held(place: str) -> None:
    """Make sure that this process, if it drives the run, has not been replaced.

    Raises:
        StorageError: when another driver has taken over.
    """
    if place in _held:
        _held[place].check()


class Lease:
    """One driver's hold on one run folder."""

    def __init__(self, place: str, copy: str) -> None:
        self.place, self.file = place, below(place, FILE)
        self.copy, self.session = copy, new_token()
        self.beat = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beats, daemon=True, name="driver-lease")

    def take(self) -> bool:
        """Become the driver; whether the last one worked on the same copy."""
        before = self._read()
        # Of our own copy we hold the file lock: a driver that still has its name there is dead.
        same = before.get("copy") == self.copy
        if before.get("working") and not same:
            self._outwait(before)
        self._write(working=True)
        time.sleep(SETTLE_SECONDS)
        now = self._read()
        if now.get("session") != self.session:
            raise self._busy(now)
        self._thread.start()
        return same

    def check(self) -> None:
        """Look whether the hold is still ours.

        Raises:
            StorageError: when another driver has taken over.
        """
        if self._read().get("session") != self.session:
            raise StorageError(
                f"another driver has taken over {shown(self.place)}: this one stops, and nothing "
                "more is written there by it."
            )

    def release(self) -> None:
        """Let go. Where the store does not answer, the next driver waits for this one's silence."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        try:
            if self._read().get("session") == self.session:
                self._write(working=False)
        except StorageError:
            return

    def _outwait(self, before: dict[str, Any]) -> None:
        until = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < until:
            time.sleep(BEAT_SECONDS / 5)
            now = self._read()
            if not now.get("working"):
                return
            if (now.get("session"), now.get("beat")) != (before.get("session"), before.get("beat")):
                raise self._busy(now)

    def _busy(self, now: dict[str, Any]) -> ConfigError:
        return ConfigError(
            f"another process ({now.get('holder', 'unknown')}) is working in {shown(self.place)}: "
            "wait for it."
        )

    def _beats(self) -> None:
        while not self._stop.wait(BEAT_SECONDS):
            try:
                self.check()
                self.beat += 1
                self._write(working=True)
            except StorageError:
                continue  # what is published looks itself, and says so

    def _read(self) -> dict[str, Any]:
        try:
            found = json.loads(read_bytes(self.file, MOST_BYTES))
        except (MissingError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def _write(self, working: bool) -> None:
        said = {
            "holder": f"{platform.node()}, process {os.getpid()}",
            "copy": self.copy,
            "session": self.session,
            "beat": self.beat,
            "working": working,
        }
        write_bytes(self.file, json.dumps(said).encode())
