"""Truth after a gap: asks the snapshot source, and has the book merge what it gives.

The source is called on a thread of its own, one call at a time, so that pushes keep being read.
Everything else happens on the reader thread, which calls `poll` again and again while `pending`.
What the two threads share is a `_Call`: the calling thread fills it and sets `done` last.
`interrupt` is for any thread.
"""

from __future__ import annotations

import itertools
import threading
from time import monotonic, time_ns

from ..errors import SnapshotError
from ..logs import fields, log
from ..model.events import Position, Synced
from ..model.snapshot import Snapshot, SnapshotSource
from ..reconnect import ReconnectPolicy
from ..runtime.callbacks import Callbacks, _shown
from ..runtime.delivery import Delivery
from .book import Book

__all__ = ["POLL_INTERVAL", "Synchronizer"]

# How often the reader looks for a snapshot while nothing else comes, seconds.
POLL_INTERVAL = 0.02
# So many calls may be under way at once: one that takes too long can't be ended.
MAX_CALLS = 3

_numbers = itertools.count(1)


class _Call:
    """One call of the source."""

    def __init__(self, source: SnapshotSource) -> None:
        self._source = source
        self.began = monotonic()
        self.abandoned = False  # the reader's: what it gives is not wanted any more
        self.snapshot: Snapshot | None = None
        self.error: SnapshotError | None = None
        self.done = False
        threading.Thread(
            target=self._run, name=f"fastpos-snapshot-{next(_numbers)}", daemon=True
        ).start()

    def _run(self) -> None:
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
            self.error = SnapshotError(f"the snapshot source raised {said}")
            self.error.__cause__ = error
        finally:
            self.done = True


class Synchronizer:
    """Brings the book up to date after each gap. Belongs to the reader thread.

    Args:
        source: gives a snapshot; None: there is none, and `synced` stays False.
        timeout: seconds after which a call of it counts as failed.
        policy: when to call it again.
        book: into which snapshots are merged.
        callbacks: of which on_position and on_synced are called.
        delivery: calls them.
    """

    def __init__(
        self,
        source: SnapshotSource | None,
        timeout: float,
        policy: ReconnectPolicy,
        book: Book,
        callbacks: Callbacks,
        delivery: Delivery,
    ) -> None:
        self._source = source
        self._timeout = timeout
        self._policy = policy
        self._book = book
        self._callbacks = callbacks
        self._delivery = delivery
        self.synced = False
        """Whether the book is what the account is; for anybody to look at."""
        self.pending = False
        """Whether `poll` wants to be called."""
        self._call: _Call | None = None
        self._overdue: list[_Call] = []
        self._begun = False  # between `begin` and `end`
        self._interrupted = False  # set by any thread, taken back by `begin`
        self._gap_s: float | None = None  # None until the first snapshot was merged
        self._failures = 0
        self._due = 0.0
        self._barred_until = 0.0  # the source asked to be left alone

    def begin(self, gap_s: float | None) -> None:
        """The stream is subscribed, after a gap of so many seconds (None: it is the first time)."""
        if self._begun or self._interrupted:  # it was paused, and pushes on their way still came
            self.end()
        self._begun = True
        self._interrupted = False
        if self._source is None:
            return
        if gap_s is None or self._gap_s is None:
            self._gap_s = None
        else:
            self._gap_s += gap_s
        self._book.begin_journal()
        self._failures = 0
        self._due = self._barred_until
        self.pending = True

    def end(self) -> None:
        """Pushes come no more."""
        self._begun = self.pending = self.synced = False
        if self._call is not None:
            self._call.abandoned = True
        self._book.end_journal()
        self._book.mark_stale()

    def interrupt(self) -> None:
        """Pushes are not wanted until the next `begin`; for any thread."""
        self._interrupted = True
        self.synced = False
        self._book.mark_stale()

    def poll(self) -> None:
        """Do what there is to do, without waiting."""
        if self._interrupted:
            self.end()
            return
        call, now = self._call, monotonic()
        if call is None:
            if now >= self._due:
                self._ask()
            return
        if not call.abandoned and not self._book.journal_is_whole:
            log.warning(
                "more pushes came than the journal holds; asking for a new snapshot",
                extra=fields("journal_overflow"),
            )
            call.abandoned = True
        if call.done:
            self._call = None
            if not call.abandoned:
                self._take(call)
        elif now - call.began > self._timeout:
            self._call = None
            self._overdue.append(call)
            if not call.abandoned:
                self._failed(SnapshotError(f"no snapshot within {self._timeout:g} s"))

    def _ask(self) -> None:
        self._overdue = [call for call in self._overdue if not call.done]
        if len(self._overdue) >= MAX_CALLS or self._source is None:
            return
        if not self._book.journal_is_whole:
            self._book.begin_journal()
        try:
            self._call = _Call(self._source)
        except RuntimeError as error:
            self._failed(SnapshotError(f"no thread for the snapshot: {error}"))

    def _take(self, call: _Call) -> None:
        if call.snapshot is None:
            self._failed(call.error or SnapshotError("no snapshot"))
            return
        try:
            events = self._book.merge(call.snapshot, time_ns())
        except (TypeError, ValueError) as error:
            self._failed(SnapshotError(f"unusable snapshot: {error}"))
        else:
            self._tell(events)

    def _failed(self, error: SnapshotError) -> None:
        self._failures += 1
        now = monotonic()
        self._due = now + self._policy.delay(self._failures)
        if error.retry_after is not None:
            self._barred_until = now + error.retry_after
            self._due = max(self._due, self._barred_until)
        self._delivery.report(error)

    def _tell(self, events: list[Position]) -> None:
        self.pending = False
        self.synced = True
        if self._interrupted:  # meanwhile, and perhaps before `synced` was set
            self.end()
        changes = [event.change for event in events]
        synced = Synced(
            gap_s=self._gap_s,
            created=changes.count("CREATE"),
            updated=changes.count("UPDATE"),
            deleted=changes.count("DELETE"),
            received_ns=time_ns(),
        )
        self._gap_s = 0.0
        extra = fields(
            "synced",
            gap_s=synced.gap_s,
            created=synced.created,
            updated=synced.updated,
            deleted=synced.deleted,
        )
        log.info("synced: %s", synced, extra=extra)
        # All of them, even if one of the functions stops the stream: they are in the book.
        for event in events:
            self._delivery.tell(self._callbacks.on_position, event)
        self._delivery.tell(self._callbacks.on_synced, synced)
