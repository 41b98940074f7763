"""What a training worker writes, carried to its run folder while it trains; and news from there.

On a disk that all hosts share the worker writes into the run folder itself, and nothing is carried.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from selfilter_ray.errors import StorageError
from selfilter_ray.repeated import repeated
from selfilter_ray.storage.copies import work_folder
from selfilter_ray.storage.mirror import Mirror
from selfilter_ray.storage.objects import delete, exists, write_bytes
from selfilter_ray.storage.places import below
from selfilter_ray.storage.shared import Shared

CARRY_SECONDS = 3.0
RELAY_SECONDS = 0.5


class Courier:
    """Between the output folder of a worker and the run folder.

    Args:
        output: the folder that the worker is to fill.
        log: name of a file in it that grows; it is carried every few seconds.
        news: name of a file that the driver may create, and the worker looks for.
    """

    def __init__(self, output: Shared, log: str, news: str) -> None:
        self.output, self.log, self.news = output, log, news
        self._mirror: Mirror | None = None
        self._one_at_a_time = threading.Lock()

    def place_of(self, name: str) -> str:
        """Where a file of the output folder lies for all hosts."""
        return below(self.output.uri or self.output.name, name)

    @contextmanager
    def folder(self, carries: bool, leave: tuple[str, ...]) -> Iterator[Path]:
        """The folder to write into.

        Args:
            carries: of one worker only: it gets what the folder holds already, and what it writes
                is carried.
            leave: names of folders in it that this one needs not.

        Raises:
            StorageError: when the store does not answer.
        """
        if self.output.uri is None:
            yield Path(self.output.name)
            return
        with work_folder() as room:
            folder = room / PurePosixPath(self.output.name).name
            (folder / "checkpoints").mkdir(parents=True)
            if not carries:
                yield folder
                return
            self._mirror = Mirror(self.output.uri, folder)
            self._mirror.pull(leave=leave)
            with self._carrying(folder):
                yield folder

    def deliver(self) -> None:
        """Carry everything now, completion records last.

        Raises:
            StorageError: when the store does not answer.
        """
        if self._mirror is not None:
            with self._one_at_a_time:
                self._mirror.push()

    @contextmanager
    def _carrying(self, folder: Path) -> Iterator[None]:
        def carry() -> None:
            try:
                self._carry(folder)
            except StorageError as error:
                logging.getLogger(__name__).warning("the log is not carried now: %s", error)

        with repeated(carry, CARRY_SECONDS, "courier"):
            yield

    def _carry(self, folder: Path) -> None:
        assert self._mirror is not None
        with self._one_at_a_time:
            self._mirror.push(self.log)
        if exists(self.place_of(self.news)):
            (folder / self.news).touch()


@contextmanager
def relayed(file: Path) -> Iterator[None]:
    """Inside the block, a file of the driver that comes into being does so for all hosts, too."""
    uri = Shared.of(file).uri
    if uri is None:
        yield
        return
    delete(uri)

    def relay() -> bool:
        if not file.exists():
            return False
        try:
            write_bytes(uri, b"stop\n")
        except StorageError as error:
            logging.getLogger(__name__).warning("%s is not there yet: %s", file.name, error)
            return False
        return True

    try:
        with repeated(relay, RELAY_SECONDS, "relay"):
            yield
    finally:
        delete(uri)
