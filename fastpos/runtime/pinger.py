"""The ping thread: keeps the schedules of connections, and does what others may not wait for.

It does nothing that takes long, so that a callback which takes its time delays no ping. And because
it does not, whoever may not wait for a lock (a signal handler) has it done here: a request is put
into a queue whose `put` may be entered again at any point. What is sent by somebody else than the
reader is sent from here.

A schedule costs nothing while it is not due, however many there are: a heap has the next one.

Shared is only the queue; `_due` and `_heap` are the ping thread's own.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from functools import partial
from heapq import heappop, heappush
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
        self._due: dict[Scheduled, float] = {}  # what is looked after, and when it is next due
        # The same in order. What has changed since stands in it twice, and one of them counts.
        self._heap: list[tuple[float, int, Scheduled]] = []
        self._numbers = itertools.count()  # of two that are due at once, the first comes first
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

    def wake(self, scheduled: Scheduled) -> None:
        """Look at a schedule anew, as it has changed. For anybody."""
        self._requests.put(partial(self._wake, scheduled))

    def watch(self, scheduled: Scheduled) -> None:
        """Look after `scheduled`, until it has ended. For anybody."""
        self._requests.put(partial(self._keep, scheduled))

    def forget(self, scheduled: Scheduled) -> None:
        """Look after it no more. For anybody."""
        self._requests.put(partial(self._due.pop, scheduled, None))

    # --- the thread ---------------------------------------------------------------------------

    def _run(self, interrupted: Callable[[BaseException], None]) -> None:
        while True:
            try:
                if not self._turn():
                    return
            except KeyboardInterrupt as error:
                interrupted(error)
            except Exception:  # without this thread a dead connection would go unnoticed
                self._complain()

    def _turn(self) -> bool:
        """Do what is due, wait for more or for a request; False at the end."""
        self._look_for_sleep()
        now = monotonic()
        due = []
        while self._heap and self._heap[0][0] <= now:
            at, _, scheduled = heappop(self._heap)
            if self._due.get(scheduled) == at:
                due.append(scheduled)
        for scheduled in due:
            self._keep(scheduled)
        next_due = self._heap[0][0] if self._heap else inf
        wait = min(max(next_due - monotonic(), 0.0), LONGEST_WAIT)
        try:
            request = self._requests.get(timeout=wait)
        except Empty:
            return True
        if request is None:
            return False
        request()
        return True

    def _wake(self, scheduled: Scheduled) -> None:
        if scheduled in self._due:
            self._keep(scheduled)

    def _keep(self, scheduled: Scheduled) -> None:
        """Have it do what is due, and note when it wants to be asked again."""
        if scheduled.has_ended:
            self._due.pop(scheduled, None)
            return
        try:
            due = scheduled.keep_schedule(monotonic())
        except Exception:
            self._complain()
            due = monotonic() + LONGEST_WAIT
        self._due[scheduled] = due
        if due != inf:
            heappush(self._heap, (due, next(self._numbers), scheduled))

    def _complain(self) -> None:
        log.exception(
            "the ping thread met an exception, and goes on", extra=fields("internal_error")
        )

    def _look_for_sleep(self) -> None:
        slept = asleep() - self._asleep
        if slept > SLEEP:
            extra = fields("slept", seconds=slept)
            log.warning("the machine has slept for %.0f s", slept, extra=extra)
            for scheduled in tuple(self._due):
                scheduled.woke(monotonic())
                self._keep(scheduled)
        self._asleep += max(slept, 0.0)
