"""The ping thread: keeps the schedules of connections, and does what others may not wait for.

It does nothing that takes long, so that a callback which takes its time delays no ping. And because
it does not, whoever may not wait for a lock (a signal handler) has it done here: a request is put
into a queue whose `put` may be entered again at any point. What is sent by somebody else than the
reader is sent from here.

Shared is only the queue; `_watched` is the ping thread's own.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from math import inf
from queue import Empty, SimpleQueue
from typing import Protocol

from ..clock import asleep, monotonic
from ..logs import fields, log

__all__ = ["Pinger", "Scheduled"]

# The thread looks at least so often whether the machine has slept, seconds.
LONGEST_WAIT = 1.0
# What counts as sleep, seconds.
SLEEP = 0.5


class Scheduled(Protocol):
    """What has a schedule."""

    @property
    def has_ended(self) -> bool:
        """Whether nothing is left to be looked after."""

    def woke(self, now: float) -> None:
        """Note that the machine has slept; `keep_schedule` is called next."""

    def keep_schedule(self, now: float) -> float:
        """Do what is due; give when there is next something to do, `math.inf` for never."""


class Pinger:
    """One thread for the schedules of any number of connections."""

    def __init__(self) -> None:
        self._requests: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._watched: tuple[Scheduled, ...] = ()
        self._asleep = asleep()  # how long it has slept, as far as that was noticed

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

    def watch(self, scheduled: Scheduled) -> None:
        """Look after `scheduled`, until it has ended. For anybody."""
        self._requests.put(partial(self._watch, scheduled))

    # --- the thread ---------------------------------------------------------------------------

    def _watch(self, scheduled: Scheduled) -> None:
        self._watched = (*(other for other in self._watched if not other.has_ended), scheduled)

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
        self._look_for_sleep()
        due = inf
        for scheduled in self._watched:
            due = min(due, scheduled.keep_schedule(monotonic()))
        try:
            request = self._requests.get(timeout=min(max(due - monotonic(), 0.0), LONGEST_WAIT))
        except Empty:
            return True
        if request is None:
            return False
        request()
        return True

    def _look_for_sleep(self) -> None:
        slept = asleep() - self._asleep
        if slept > SLEEP:
            extra = fields("slept", seconds=slept)
            log.warning("the machine has slept for %.0f s", slept, extra=extra)
            for scheduled in self._watched:
                scheduled.woke(monotonic())
        self._asleep += max(slept, 0.0)


def _nothing() -> None:
    """What `wake` asks for."""
