"""A few threads for jobs that wait: opening connections, asking for snapshots.

They live only while there are jobs.

Threads: `_lock` guards the two fields below it; it is held for some steps only, and no job runs
under it. `do` and `join` are one thread's, and so is `_threads`.
"""

from __future__ import annotations

import itertools
import threading
from collections import deque
from collections.abc import Callable

from ..clock import monotonic
from ..fork import Forked

__all__ = ["Crew"]

_numbers = itertools.count(1)


class Crew:
    """Does jobs on threads of its own, at most so many at once.

    Args:
        name: of the threads, which get a number behind it.
        most: so many threads may there be.
    """

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._threads: list[threading.Thread] = []  # all that are alive, and some that are not
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], object]] = deque()
        self._working = 0

    def do(self, job: Callable[[], object]) -> None:
        """Have a job done, which raises nothing but `Forked`.

        Raises:
            RuntimeError: no thread can be started, and there is none.
        """
        with self._lock:
            self._jobs.append(job)
            if self._working >= self._most:
                return
            self._working += 1
        name = f"{self._name}-{next(_numbers)}"
        thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            thread.start()
        except RuntimeError:
            with self._lock:
                self._working -= 1
                if self._working or job not in self._jobs:
                    return  # one of the others does it
                self._jobs.remove(job)
            raise
        self._threads = [each for each in self._threads if each.is_alive()]
        self._threads.append(thread)

    def join(self, timeout: float) -> None:
        """Wait until all is done and the threads have ended, at most so many seconds."""
        deadline = monotonic() + timeout
        for thread in self._threads:
            thread.join(max(deadline - monotonic(), 0.0))

    def clear(self) -> None:
        """Do none of the jobs that were not begun."""
        with self._lock:
            self._jobs.clear()

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._working -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except Forked:  # this is a child, which has no use for the thread
                return
