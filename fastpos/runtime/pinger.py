"""The ping thread: keeps the schedules of connections, and does what others may not wait for.

It does nothing that takes long, so that a callback which takes its time delays no ping. And because
it does not, whoever may not wait for a lock (a signal handler) has it done here: a request is put
into a queue whose `put` may be entered again at any point. What is sent by somebody else than the
reader is sent from here.

Shared is only the queue; `_links` is the ping thread's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from time import monotonic

from ..logs import fields, log
from .link import Link

__all__ = ["Pinger"]

# Not every platform's waits can be longer than some weeks, seconds.
LONGEST_WAIT = 3600.0


class Pinger:
    """One thread for the schedules of any number of connections."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._links: tuple[Link, ...] = ()

    def start(self, name: str, interrupted: Callable[[BaseException], None]) -> None:
        """Start the thread.

        Args:
            name: the thread's.
            interrupted: is told on it of a Ctrl-C that arrives there. Only where threads are
                greenlets (gevent) can that be.
        """
        thread = threading.Thread(target=self._run, args=(interrupted,), name=name, daemon=True)
        thread.start()
        self._thread = thread

    def stop(self) -> None:
        """End the thread and wait for it. What is asked from now on is not done."""
        self.leave()
        if self._thread is not None:
            self._thread.join()

    def leave(self) -> None:
        """End the thread, but do not wait for it. For anybody."""
        self._requests.put(None)

    def ask(self, request: Callable[[], object]) -> None:
        """Have `request` called on the thread; it must not wait for anything. For anybody."""
        self._requests.put(request)

    def wake(self) -> None:
        """Have the thread look at the deadlines anew. For anybody."""
        self._requests.put(_nothing)

    def watch(self, link: Link) -> None:
        """Look after `link`, until it has ended. For anybody."""
        self._requests.put(partial(self._watch, link))

    # --- the thread ---------------------------------------------------------------------------

    def _watch(self, link: Link) -> None:
        self._links = (*(other for other in self._links if not other.has_ended), link)

    def _run(self, interrupted: Callable[[BaseException], None]) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except KeyboardInterrupt as error:
                interrupted(error)
            except Exception:  # without this thread a dead connection would go unnoticed
                log.exception(
                    "the ping thread met an exception, and goes on", extra=fields("internal_error")
                )

    def _turn(self) -> bool:
        """Do what is due, wait for more or for a request; False at the end."""
        due = inf
        for link in self._links:
            due = min(due, link.keep_schedule(monotonic()))
        try:
            request = self._requests.get(timeout=min(max(due - monotonic(), 0.0), LONGEST_WAIT))
        except Empty:
            return True
        if request is None:
            return False
        request()
        return True


def _nothing() -> None:
    """What `wake` asks for."""
