"""Logs as one JSON object a line. What is logged is chosen field by field: no payloads, no keys."""

from __future__ import annotations

import logging

from selfilter_ray.telemetry.logs import PACKAGE, JsonFormatter, describe
from selfilter_ray.telemetry.run import log_fields

__all__ = ["JsonFormatter", "describe", "log_json"]


def log_json(level: int = logging.INFO) -> None:
    """Let the loggers of this package write JSON to standard error, and nowhere else."""
    logger = logging.getLogger(PACKAGE)
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter(log_fields))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False
