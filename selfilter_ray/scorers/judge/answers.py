"""``answers.jsonl``: every answer as it came, appended at once, so that none is paid for twice.

One JSON object a line, the last field of which is a checksum of the rest. A killed writer leaves at
most one torn line at the end, which the next one cuts. Damage anywhere else is refused.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from selfilter_ray.errors import ArtifactError, ConfigError

logger = logging.getLogger(__name__)

FILE = "answers.jsonl"
FORMAT = 1
SYNC_SECONDS = 1.0
CHECKSUM = b', "crc": "'


@dataclass(frozen=True, slots=True)
class Answer:
    """What the judge said to one question."""

    text: str
    finish_reason: str | None
    input_tokens: int
    output_tokens: int
    seconds: float


def read_answers(folder: Path) -> tuple[dict[str, Answer], int]:
    """The answers by their question's key, and how many bytes of the file are whole lines.

    Raises:
        ArtifactError: when a line before the last is damaged, or another version wrote the file.
    """
    file = folder / FILE
    answers: dict[str, Answer] = {}
    whole = 0
    if not file.exists():
        return answers, whole
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            record = _decode(line)
            if record is None and not lines.read(1):
                break  # a torn last line
            if record is None:
                raise ArtifactError(
                    f"{file} is damaged in line {number}: put a copy of it back, or delete that "
                    "line, and its sample is asked again."
                )
            whole += len(line)
            answers[record["key"]] = _answer(record, file)
    return answers, whole


class AnswerFile:
    """The one writer of a folder's answers; use as a context.

    Raises:
        ConfigError: on entry, when the folder cannot be written or another process works in it.
        ArtifactError: on entry as ``read_answers``; while writing, when the disk is full.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / FILE
        self.answers: dict[str, Answer] = {}

    def __enter__(self) -> AnswerFile:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise ConfigError(
                f"{self.file} cannot be written: {error.strerror}. Choose another folder."
            ) from None
        try:
            self._lock()
            self.answers, self._size = read_answers(self.folder)
            self._cut_torn_line()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._synced = time.monotonic()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)

    def append(self, key: str, ids: list[str], answer: Answer) -> None:
        """Keep an answer: a kill loses none that was appended, a power cut those of a second."""
        line = _encode({"format": FORMAT, "key": key, "ids": ids, **asdict(answer)})
        try:
            written = os.write(self._descriptor, line)
            if written != len(line):
                raise OSError(None, "no space left on the device")
            if time.monotonic() - self._synced >= SYNC_SECONDS:
                os.fsync(self._descriptor)
                self._synced = time.monotonic()
        except OSError as error:
            os.ftruncate(self._descriptor, self._size)
            raise ArtifactError(
                f"{self.file} cannot be written: {error.strerror}. Make room and run again: the "
                "answers in it are kept."
            ) from None
        self._size += len(line)
        self.answers[key] = answer

    def _lock(self) -> None:
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"another process is collecting answers in {self.folder}: wait for it."
            ) from None

    def _cut_torn_line(self) -> None:
        torn = os.fstat(self._descriptor).st_size - self._size
        if torn:
            os.ftruncate(self._descriptor, self._size)
            logger.warning("%s: cut %d bytes of an unfinished last line", self.file, torn)


def _encode(record: dict[str, Any]) -> bytes:
    body = json.dumps(record, ensure_ascii=True).encode()
    return body[:-1] + CHECKSUM + b'%08x"}\n' % zlib.crc32(body)


def _decode(line: bytes) -> dict[str, Any] | None:
    """The record of a line, or None when the line is not as it was written."""
    body, found, end = line.rpartition(CHECKSUM)
    if not found or end != b'%08x"}\n' % zlib.crc32(body + b"}"):
        return None
    try:
        record = json.loads(body + b"}")
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and "key" in record else None


def _answer(record: dict[str, Any], file: Path) -> Answer:
    if record.get("format") != FORMAT:
        raise ArtifactError(
            f"{file} has format {record.get('format')!r}, this version reads {FORMAT}: use the "
            "version that wrote it, or another folder."
        )
    return Answer(**{name: record[name] for name in Answer.__slots__})
