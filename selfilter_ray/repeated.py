"""Something that is done again and again beside other work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def repeated(work: Callable[[], bool | None], seconds: float, name: str) -> Iterator[None]:
    """Inside the block a thread calls ``work`` every so many seconds, until it returns True.

    It is called for the first time when they have passed, and never after the block.
    """
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(seconds):
            if work():
                return

    thread = threading.Thread(target=run, daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
