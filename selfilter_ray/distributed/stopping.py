"""Waiting for a long call on Ray, and passing on SIGINT and SIGTERM as a wish to stop."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WAIT_SECONDS = 0.2


def until_done_or_stopped(work: Callable[[], Any], stop_file: Path) -> None:
    """Run ``work``; the first SIGINT or SIGTERM creates the file, which is to bring it to an end.

    The second raises KeyboardInterrupt. Ray Train would take SIGINT as an order to throw the run
    away, but only in the main thread, so the work runs beside it. Called from another thread, no
    signal is looked at.
    """
    stop_file.unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        work()
        return
    errors: list[BaseException] = []
    thread = threading.Thread(target=_kept(work, errors), daemon=True, name="train")
    with _signals_as(stop_file):
        thread.start()
        while thread.is_alive():
            thread.join(WAIT_SECONDS)
    stop_file.unlink(missing_ok=True)
    if errors:
        raise errors[0]


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """SIGTERM inside the block raises KeyboardInterrupt, as SIGINT does.

    Ray's own handler would end the process in the midst of its C++ code. Entered in another thread
    than the main one, it changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _kept(work: Callable[[], Any], errors: list[BaseException]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    return run


@contextmanager
def _signals_as(stop_file: Path) -> Iterator[None]:
    def asked(number: int, frame: object) -> None:
        if stop_file.exists():
            raise KeyboardInterrupt
        stop_file.touch()
        print(
            "selfilter-ray: stopping after this step, with a checkpoint; once more stops at once.",
            file=sys.stderr,
        )

    before = {number: signal.signal(number, asked) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
