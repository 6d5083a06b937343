"""Truth after a gap: when a snapshot is asked for, and what becomes of the answer.

From `begin` on the book keeps a journal of the pushes, so that what a snapshot says, which is as
old as its call, can have the pushes since then laid over it. A snapshot that the journal does not
reach back to is of no use, and another is asked for. After a failure the next call waits, as the
policy and the source itself say.

No thread and no clock here, and nobody is called: the reader thread asks what to do (`is_due`) and
says what happened (`asked`, `take`, `failed`); runtime/snapshots.py has the threads. `interrupt` is
for any thread: it sets flags which the reader's next step goes by.
"""

from __future__ import annotations

from ..errors import SnapshotError
from ..logs import fields, log
from ..model.events import Position, Synced
from ..model.snapshot import Snapshot
from ..reconnect import ReconnectPolicy
from .book import Book

__all__ = ["Synchronizer"]


class Synchronizer:
    """Brings the book up to date after each gap. Times are seconds of any one clock.

    Args:
        has_source: whether there is anybody to ask; without, `synced` stays False.
        policy: when to ask again.
        book: into which snapshots are merged.
    """

    __slots__ = (
        "_barred_until", "_begun", "_book", "_due", "_failures", "_gap_s", "_interrupted",
        "_policy", "_wanted", "has_source", "synced",
    )  # fmt: skip

    def __init__(self, has_source: bool, policy: ReconnectPolicy, book: Book) -> None:
        self.has_source: bool = has_source
        """Whether there is anybody to ask; a replay says so, who was."""
        self._policy = policy
        self._book = book
        self.synced: bool = False
        """Whether the book is what the account is; for anybody to look at."""
        self._wanted = False
        self._begun = False  # between `begin` and `end`
        self._interrupted = False  # set by any thread, taken back by `begin`
        self._gap_s: float | None = None  # None until the first snapshot was merged
        self._failures = 0
        self._due = 0.0
        self._barred_until = 0.0  # the source asked to be left alone

    # --- anybody's --------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Pushes are not wanted until the next `begin`."""
        self._interrupted = True
        self.synced = False
        self._book.interrupt()

    def adopt(self, synced: bool, gap_s: float | None) -> None:
        """Know what another does: whether the book is what the account is, and `gap_s`."""
        self.synced = synced
        self._gap_s = gap_s
        self._wanted = False

    @property
    def gap_s(self) -> float | None:
        """How long no pushes came, in all, since the last snapshot; None: there was none yet."""
        return self._gap_s

    @property
    def is_open(self) -> bool:
        """Whether pushes come, as far as is known: since `begin`, and not interrupted."""
        return self._begun and not self._interrupted

    @property
    def interrupted(self) -> bool:
        """Whether that is so, and `begin` has not come yet."""
        return self._interrupted

    @property
    def pending(self) -> bool:
        """Whether a snapshot is wanted."""
        return self._wanted or (self.synced and self._book.contradicted)

    # --- the reader's -----------------------------------------------------------------------

    def begin(self, gap_s: float | None) -> None:
        """The stream is subscribed, after a gap of so many seconds (None: it is the first time)."""
        if self._begun or self._interrupted:  # it was paused, and pushes on their way still came
            self.end()
        self._begun = True
        self._interrupted = False
        if not self.has_source:
            return
        if gap_s is None or self._gap_s is None:
            self._gap_s = None
        else:
            self._gap_s += gap_s
        self._book.begin_journal()
        self._failures = 0
        self._due = self._barred_until
        self._wanted = True

    def end(self) -> None:
        """Pushes come no more."""
        self._begun = self._wanted = self.synced = False
        self._book.end_journal()
        self._book.mark_stale()

    def doubt(self, now: float) -> bool:
        """Want another snapshot if pushes say that the last one was wrong; whether that is so."""
        if self._wanted or not self.pending:
            return False
        log.warning(
            "pushes tell of a position that the snapshot did not have; asking for a new one",
            extra=fields("snapshot_contradicted"),
        )
        self.synced = False
        self._wanted = True
        self._book.begin_journal()
        self._failures += 1  # it may say the same again
        self._due = max(now + self._policy.delay(self._failures), self._barred_until)
        return True

    def is_due(self, now: float) -> bool:
        """Whether to ask for a snapshot now, if none is asked for already."""
        return self._wanted and now >= self._due

    def asked(self) -> None:
        """A snapshot is asked for in this moment."""
        if not self._book.journal_is_whole:
            self._book.begin_journal()

    def is_lost(self) -> bool:
        """Whether more pushes came since the question than the journal holds; says so once."""
        if self._book.journal_is_whole:
            return False
        log.warning(
            "more pushes came than the journal holds; asking for a new snapshot",
            extra=fields("journal_overflow"),
        )
        return True

    def take(self, snapshot: Snapshot, now_ns: int) -> list[tuple[str, object]]:
        """Merge the answer; give what is to be told, each with the callback's name.

        Raises:
            SnapshotError: it is of no use. Nothing has changed then.
        """
        try:
            events = self._book.merge(snapshot, now_ns)
        except (TypeError, ValueError) as error:
            raise SnapshotError(f"unusable snapshot: {error}") from None
        self._wanted = False
        self.synced = True
        if self._interrupted:  # meanwhile, and perhaps before `synced` was set
            self.end()
        return self.merged(events, now_ns)

    def merged(self, events: list[Position], now_ns: int) -> list[tuple[str, object]]:
        """A snapshot was merged, here or elsewhere, and this has changed by it; give what is to be
        told, each with the callback's name."""
        changes = [event.change for event in events]
        synced = Synced(
            gap_s=self._gap_s,
            created=changes.count("CREATE"),
            updated=changes.count("UPDATE"),
            deleted=changes.count("DELETE"),
            received_ns=now_ns,
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
        return [*(("on_position", event) for event in events), ("on_synced", synced)]

    def failed(self, error: SnapshotError, now: float) -> list[tuple[str, object]]:
        """There was no answer, or none of use; give what is to be told."""
        self._failures += 1
        self._due = now + self._policy.delay(self._failures)
        if error.retry_after is not None:
            self._barred_until = now + error.retry_after
            self._due = max(self._due, self._barred_until)
        return [("on_error", error)]
