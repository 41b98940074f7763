"""Logs as one JSON object a line. What is logged is chosen field by field: no payloads, no keys."""

from __future__ import annotations

import json
import logging
import traceback
from datetime import UTC, datetime
from typing import Any

PACKAGE = "selfilter_ray"
INNERMOST = 8  # places of an error that are logged


class JsonFormatter(logging.Formatter):
    """The record's time, level, logger and message, and the dict given as ``extra["fields"]``."""

    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        said |= getattr(record, "fields", {})
        if record.exc_info and record.exc_info[1] is not None:
            said["error"] = describe(record.exc_info[1])
        return json.dumps(said, default=str)


def describe(error: BaseException) -> dict[str, Any]:
    """Type and places of an error; its message may hold a payload and is left out."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    frames = traceback.extract_tb(error.__traceback__)
    places = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-INNERMOST:]]
    return {"type": type(error).__name__, "places": places}


def log_json(level: int = logging.INFO) -> None:
    """Let the loggers of this package write JSON to standard error, and nowhere else."""
    logger = logging.getLogger(PACKAGE)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter())
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
