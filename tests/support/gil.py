"""Who lets go of the GIL."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def switching(seconds: float) -> Iterator[None]:
    """A thread that wants the GIL gets it after so long."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(seconds)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@contextmanager
def another_thread() -> Iterator[Callable[[], int]]:
    """Gives how often another thread got to run. It only does when the GIL is let go of."""
    turns, done = [0], threading.Event()

    def run() -> None:
        while not done.is_set():
            turns[0] += 1
            time.sleep(0)  # lets go of the GIL

    thread = threading.Thread(target=run)
    with switching(1000.0):  # nobody is made to let go of it
        try:
            thread.start()
            while turns[0] < 10:
                time.sleep(0)
            yield lambda: turns[0]
        finally:
            done.set()
            thread.join()
