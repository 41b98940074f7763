"""Log lines as JSON objects or as text, each with the run, the stage and the host.

What is logged is chosen field by field: no payloads, no keys, and of an error its type and places.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from selfilter_ray.errors import ConfigError

PACKAGE = "selfilter_ray"
FORMAT = "SELFILTER_LOG_FORMAT"
INNERMOST = 8  # places of an error that are logged

Fields = Callable[[], dict[str, Any]]


def no_fields() -> dict[str, Any]:
    return {}


class JsonFormatter(logging.Formatter):
    """The record's time, level, logger and message, and the dict given as ``extra["fields"]``.

    Args:
        always: what every line says besides.
    """

    def __init__(self, always: Fields = no_fields) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= self._always()
        said |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            said["error"] = describe(record.exc_info[1])
        return json.dumps(said, default=str)


class TextFormatter(logging.Formatter):
    """The same on a line for people: ``TIME LEVEL message key=value ...``."""

    def __init__(self, always: Fields = no_fields) -> None:
        super().__init__()
        self._always = always

    def format(self, record: logging.LogRecord) -> str:
        fields = self._always() | getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            fields["error"] = describe(record.exc_info[1])["type"]
        said = " ".join(f"{name}={_short(value)}" for name, value in fields.items())
        message = " ".join(record.getMessage().split())
        return f"{_time(record)} {record.levelname.lower()} {message} {said}".rstrip()


def describe(error: BaseException) -> dict[str, Any]:
    """Type and places of an error; its message may hold a payload and is left out."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-INNERMOST:]]
    return {"type": type(error).__name__, "places": places}


def chosen_format() -> str | None:
    """``json`` or ``text``; None where nothing was asked for.

    Raises:
        ConfigError: for anything else.
    """
    asked = os.environ.get(FORMAT) or None
    if asked not in (None, "json", "text"):
        raise ConfigError(f"{FORMAT} is {asked!r}: set it to json or text, or unset it.")
    return asked


def write_lines(always: Fields, level: int = logging.INFO) -> None:
    """Let the loggers of this package write to standard error, in the format asked for.

    Without one, logging stays as the application that runs this has it.
    """
    asked = chosen_format()
    if asked is None:
        return
    handler = logging.StreamHandler()
    handler.setFormatter((JsonFormatter if asked == "json" else TextFormatter)(always))
    logger = logging.getLogger(PACKAGE)
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def host() -> str:
    return platform.node()


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")


def _short(value: Any) -> str:
    text = str(value)
    return text if text and not set(text) & set(' "=\n') else json.dumps(text)
