"""Waiting for something to become true, with a limit that fails the test."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_until(condition: Callable[[], T], what: str, seconds: float, every: float = 0.2) -> T:
    """The first true value of ``condition``.

    Raises:
        AssertionError: when there is none in time, naming ``what``.
    """
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds:g} s for: {what}"
        time.sleep(every)
    return value
