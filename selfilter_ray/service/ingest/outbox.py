"""What came back, on disk: answers, errors, and how far each input has been sent.

``progress.json`` is written after the lines that it counts are durable. It also holds how long the
two other files were then: what a killed process wrote after that is cut off, and sent again.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from selfilter_ray import atomic
from selfilter_ray.errors import ArtifactError, ConfigError
from selfilter_ray.service.client.answers import error_of
from selfilter_ray.service.ingest.row import Row, Source

FORMAT = 1
SAVE_SECONDS = 2.0  # a killed process sends again what it has got since then


@dataclass(frozen=True, slots=True)
class Counts:
    """Rows, with those of interrupted calls: ``rows = admitted + rejected + failed``."""

    rows: int = 0
    admitted: int = 0
    rejected: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class _State:
    """What ``progress.json`` holds.

    Attributes:
        sizes: bytes of the answers and of the errors that are counted.
        inputs: by file, its identity and the number of the next row.
    """

    sizes: tuple[int, int]
    counts: Counts
    inputs: dict[str, dict[str, Any]]


class Outbox:
    """The folder of an ingestion; one process at a time."""

    def __init__(self, folder: Path, url: str) -> None:
        """Open, and cut off what is not counted.

        Raises:
            ConfigError: when the folder cannot be written, is in use, or is of another service.
            ArtifactError: when its progress is damaged.
        """
        self.folder = folder
        self._progress = folder / "progress.json"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._answers = _opened(folder / "answers.ndjson")
            self._errors = _opened(folder / "errors.ndjson")
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error.strerror}.") from None
        self._url = url
        self._state = self._load()
        self._saved = 0.0
        for file, size in zip((self._answers, self._errors), self._state.sizes, strict=True):
            _cut(file, size)
        self.save()

    def __enter__(self) -> Outbox:
        return self

    def __exit__(
        self,
        type: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.save()
        finally:
            self._answers.close()
            self._errors.close()

    @property
    def counts(self) -> Counts:
        return self._state.counts

    def done(self, source: Source) -> int:
        """From which row of a file on there is something left to send."""
        known = self._state.inputs.get(_name(source), {})
        return known["next"] if known.get("identity") == source.identity else 0

    def put(self, source: Source, rows: Sequence[Row], answers: Sequence[dict[str, Any]]) -> None:
        """Take the answers to some rows of a file: to those without a fault, in their order."""
        answering = iter(answers)
        counts, good, bad = asdict(self.counts), b"", b""
        for row in rows:
            answer = None if row.fault else next(answering)
            error = asdict(row.fault) if row.fault else error_of(answer or {})
            if answer is not None and error is None:
                good += _line(answer)
                counts["admitted" if answer["admitted"] else "rejected"] += 1
            else:
                id = row.id if answer is None else answer.get("id")
                bad += _line({"locator": row.locator, "id": id, **(error or {})})
                counts["failed"] += 1
        counts["rows"] += len(rows)
        self._answers.write(good)
        self._errors.write(bad)
        done = {_name(source): {"identity": source.identity, "next": rows[-1].number + 1}}
        sizes = (self._answers.tell(), self._errors.tell())
        # At once: an interrupted call counts all of these rows, or none of them.
        self._state = _State(sizes, Counts(**counts), self._state.inputs | done)
        if time.monotonic() - self._saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Make everything durable that was put."""
        for file in (self._answers, self._errors):
            file.flush()
            os.fsync(file.fileno())
        state = {"format": FORMAT, "service": self._url, **asdict(self._state)}
        atomic.write_json(self._progress, state)
        self._saved = time.monotonic()

    def _load(self) -> _State:
        try:
            saved = json.loads(self._progress.read_text(encoding="utf-8"))
            answers, errors = saved["sizes"]
            state = _State((answers, errors), Counts(**saved["counts"]), saved["inputs"])
            known = saved["format"] == FORMAT and isinstance(saved["service"], str)
            assert known and all("next" in done for done in state.inputs.values())
        except FileNotFoundError:
            return self._nothing_yet()
        except (OSError, ValueError, KeyError, TypeError, AttributeError, AssertionError):
            raise ArtifactError(
                f"{self._progress} is damaged, or of another version: choose another folder."
            ) from None
        if saved["service"] != self._url:
            raise ConfigError(
                f"{self.folder} holds the answers of {saved['service']}: choose another folder."
            )
        return state

    def _nothing_yet(self) -> _State:
        if self._answers.tell() or self._errors.tell():
            raise ConfigError(
                f"{self.folder} holds answers.ndjson or errors.ndjson of something else: "
                "choose another folder."
            )
        return _State((0, 0), Counts(), {})


def _opened(path: Path) -> IO[bytes]:
    file = open(path, "ab")  # noqa: SIM115 (kept open)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ConfigError(f"another process writes {path}: wait for it.") from None
    return file


def _cut(file: IO[bytes], size: int) -> None:
    if os.fstat(file.fileno()).st_size < size:
        raise ArtifactError(f"{file.name} is shorter than its progress.json says: remove both.")
    file.truncate(size)
    file.seek(size)


def _name(source: Source) -> str:
    return str(source.file.resolve())


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"
