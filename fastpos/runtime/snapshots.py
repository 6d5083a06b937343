"""Calls the snapshot source, each call on another thread, so that pushes keep being read.

One call counts at a time. One that takes too long can't be ended; it is left to itself, and a few
of those may be under way. When to call and what an answer means is in account/synchronizer.py.

Threads: all is the reader thread's, but `interrupt` and looking at `synced`, which are anybody's.
What a call's thread and the reader share is a `_Call`: the one fills it and sets `done` last, the
other looks at nothing else of it before.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from math import inf
from time import time_ns
from typing import TYPE_CHECKING

from ..account.book import Book
from ..account.synchronizer import Synchronizer
from ..clock import monotonic
from ..errors import SnapshotError
from ..model.snapshot import Snapshot, SnapshotSource
from ..reconnect import ReconnectPolicy
from .callbacks import _shown

if TYPE_CHECKING:
    from ..journal.recorder import Recorder, Several

__all__ = ["POLL_INTERVAL", "Snapshots", "on_a_thread_of_its_own"]

# How often the reader looks for a snapshot while nothing else comes, seconds.
POLL_INTERVAL = 0.02
# So many calls may be under way that took too long; then there is none until one of them ends.
MAX_CALLS = 3

_numbers = itertools.count(1)


class _Call:
    """One call of the source."""

    def __init__(self, source: SnapshotSource, at_once: bool) -> None:
        self._source = source
        self.asked = monotonic()
        self.began = self.asked if at_once else inf  # else the thread says it
        self.abandoned = False  # the reader's: what it gives is not wanted any more
        self.snapshot: Snapshot | None = None
        self.error: SnapshotError | None = None
        self.done = False

    def make(self) -> None:
        """Call it; on a thread where that may take its time."""
        if self.abandoned:
            self.done = True
            return
        if self.began == inf:
            self.began = monotonic()
        try:
            given = self._source()
            if not isinstance(given, Snapshot):
                raise TypeError(f"the source gave a {type(given).__name__}, not a Snapshot")
            # They may be generators, and what those do belongs on this thread.
            self.snapshot = Snapshot(
                list(given.positions),
                list(given.balances),
                None if given.orders is None else list(given.orders),
                None if given.triggers is None else list(given.triggers),
            )
        except SnapshotError as error:
            self.error = error
        except BaseException as error:  # it is a user's function
            said = f"{type(error).__name__}: {_shown(str, error)}"
            self.error = SnapshotError(f"the snapshot source raised {said}").advising(
                "It is asked again later; mend the function: what it raised is the __cause__."
            )
            self.error.__cause__ = error
        finally:
            self.done = True


def on_a_thread_of_its_own(job: Callable[[], object]) -> None:
    """Do a job; raises RuntimeError where no thread can be started."""
    name = f"fastpos-snapshot-{next(_numbers)}"
    threading.Thread(target=job, name=name, daemon=True).start()


class Snapshots:
    """Has the book brought up to date after each gap.

    Args:
        source: gives a snapshot; None: there is none, and `synced` stays False.
        timeout: seconds after which a call of it counts as failed.
        policy: when to call it again.
        book: into which snapshots are merged.
        recorder: writes down what comes of it; None: nobody does.
    """

    __slots__ = ("_call", "_overdue", "_recorder", "_source", "_timeout", "do", "rules")

    def __init__(
        self,
        source: SnapshotSource | None,
        timeout: float,
        policy: ReconnectPolicy,
        book: Book,
        recorder: Recorder | Several | None = None,
    ) -> None:
        self._source = source
        self._recorder = recorder
        self._timeout = timeout
        self.rules: Synchronizer = Synchronizer(source is not None, policy, book)
        """When to ask, and what becomes of the answer."""
        self._call: _Call | None = None
        self._overdue: list[_Call] = []
        self.do: Callable[[Callable[[], object]], None] = on_a_thread_of_its_own
        """Has a job done, soon; raises RuntimeError where that can't be."""

    @property
    def has_source(self) -> bool:
        """Whether there is anybody to ask; without, `poll` has nothing to do."""
        return self._source is not None

    @property
    def synced(self) -> bool:
        """Whether the book is what the account is; for anybody to look at."""
        return self.rules.synced

    @property
    def pending(self) -> bool:
        """Whether `poll` wants to be called."""
        return self.rules.pending

    def begin(self, gap_s: float | None) -> None:
        """The stream is subscribed, after a gap of so many seconds (None: it is the first time)."""
        self._abandon()  # of a pause: its answer would be older than the gap's end
        self.rules.begin(gap_s)

    def end(self) -> None:
        """Pushes come no more."""
        self._abandon()
        self.rules.end()

    def interrupt(self) -> None:
        """Pushes are not wanted until the next `begin`; for any thread."""
        self.rules.interrupt()

    def poll(self) -> list[tuple[str, object]]:
        """Do what there is to do, without waiting.

        Returns:
            What is to be told, each with the name of its callback.
        """
        if self.rules.interrupted:
            if self._recorder is not None:
                self._recorder.snapshot_unwanted()
            self.end()
            return []
        call, now = self._call, monotonic()
        if self.rules.doubt(now) and self._recorder is not None:
            self._recorder.snapshot_doubted()
        if call is None:
            return self._ask(now) if self.rules.is_due(now) else []
        if not call.abandoned and self.rules.is_lost():
            call.abandoned = True
        if call.done:
            self._call = None
            if call.abandoned:
                return []
            if call.snapshot is None:
                return self._failed(
                    call.error or SnapshotError("the snapshot source was ended"), now
                )
            now_ns = time_ns()
            try:
                news = self.rules.take(call.snapshot, now_ns)
            except SnapshotError as unusable:
                return self._failed(unusable, now)
            if self._recorder is not None:
                self._recorder.snapshot(call.snapshot, now_ns)
            return news
        if call.began == inf and now - call.asked > self._timeout:
            self._abandon()
            error = SnapshotError("no thread is free for the snapshot: other streams' calls hang")
            error.advising("It is asked again later; more connect_threads= help where many hang.")
            return self._failed(error, now)
        if now - call.began > self._timeout:
            self._call = None
            self._overdue.append(call)
            if not call.abandoned:
                error = SnapshotError(f"no snapshot within {self._timeout:g} s")
                return self._failed(error, now)
        return []

    def _ask(self, now: float) -> list[tuple[str, object]]:
        self._overdue = [call for call in self._overdue if not call.done]
        most = MAX_CALLS if self.do is on_a_thread_of_its_own else 1
        if len(self._overdue) >= most or self._source is None:
            return []
        if self._recorder is not None:
            self._recorder.snapshot_asked()
        self.rules.asked()
        try:
            call = _Call(self._source, self.do is on_a_thread_of_its_own)
            self.do(call.make)
            self._call = call
        except RuntimeError as error:
            return self._failed(SnapshotError(f"no thread for the snapshot: {error}"), now)
        return []

    def _failed(self, error: SnapshotError, now: float) -> list[tuple[str, object]]:
        if self._recorder is not None:
            self._recorder.snapshot_failed(error)
        return self.rules.failed(error, now)

    def _abandon(self) -> None:
        if self._call is not None:
            self._call.abandoned = True
            if self._call.began == inf:  # it waits for a thread yet, and will not be made
                self._call = None
