"""`Writer`: the thread that writes a journal's files.

It takes out of the queue what streams have handed over (journal.py) every half `flush_interval`, or
sooner when much waits, makes lines of it, and writes them in one system call. So after a `kill -9`
at any moment all that came `flush_interval` before is in the file.

What can't be written, as the disk is full or the folder is gone, waits, and is tried again with
another file. Between writes a file that is closed is compressed, and the oldest are removed where
all are too much.

Threads: `Writer._run` is the thread, and what is its alone is listed with its attributes. Others
call `start`, `flush`, `finish` and `abandon`; `_lock` guards up to where all is written, for who
waits. The queue is a deque, whose ends any thread may use.
"""

from __future__ import annotations

import atexit
import threading
import weakref
from collections import deque
from contextlib import suppress
from math import inf
from time import time_ns
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .. import __version__
from ..clock import monotonic
from ..errors import JournalError
from ..logs import fields, log
from ..wakeup import Wakeup
from .format import check_line, crc_of, header_line, time_of
from .segments import FolderLock, Segment, compress, leftovers, next_name, sync_folder, written

if TYPE_CHECKING:
    from .journal import Journal

__all__ = ["HURRY", "LAST_WRITES", "Left", "Writer", "Writes"]

# The writer is woken before its time when so much waits of a stream, bytes.
HURRY = 256 * 1024
# So much is written at once, bytes.
CHUNK = 1024 * 1024
# After an end, so long is waited for what is to be written yet, seconds.
LAST_WRITES = 5.0
# How often what failed is tried again at the least, seconds.
RETRY = 0.5


class Writes(Protocol):
    """What makes lines of what it has handed over: a stream's recorder."""

    taken: int

    def lines_of(self, entry: Any) -> bytes:
        """Give the lines of something it has handed over."""

    def time_of(self, entry: Any) -> int | None:
        """When something came that it has handed over, ns since the epoch; None: it is no record.
        For anybody."""

    @property
    def lost(self) -> int:
        """How many records were not taken."""

    def lost_lines(self) -> bytes:
        """Give the lines that tell what was not taken since they were last asked for."""

    @property
    def waiting(self) -> int:
        """How many bytes wait."""


class Left(NamedTuple):
    """What could not be written."""

    entries: deque[Any]
    lines: bytes
    lines_of: list[tuple[Writes, int]]


class Writer:
    """A journal's thread, and what is its own, from `Journal.open` to `close`."""

    def __init__(self, journal: Journal, lock: FolderLock) -> None:
        self._journal = journal
        self._folder = journal.folder
        self._folder_lock = lock
        self.entries: deque[Any] = journal.left.entries
        """What waits, the oldest first."""
        self.wake: Wakeup = Wakeup()
        """Set to have it look."""
        self.is_asleep: bool = False
        self.is_late: bool = False
        """Whether somebody has waited for it in vain the last time."""
        self._lock = threading.RLock()  # see wakeup.py
        self._flushed = threading.Condition(self._lock)
        self._handed_over = 0  # under `_lock`: calls of `flush`, and up to which all is written
        self._written = 0
        self._ending = False  # set by `finish`
        self._has_written_all = False  # it has ended, and nothing is left; set by the thread
        self._thread = threading.Thread(target=self._run, name="fastpos-journal", daemon=True)
        # The thread's.
        self._segment: Segment | None = None
        self._begun = 0.0
        self._crc = 0
        self._unwritten = journal.left.lines  # which could not be written
        self._unwritten_of = journal.left.lines_of  # whose they are, and how many bytes
        self._failed_at: float | None = None
        self._closed = leftovers(self._folder)  # to be compressed
        self._compress_after = 0.0  # when to try again; 0: it did not fail
        self._may_be_too_much = journal.keep_bytes is not None
        self._turned = 0.0  # when it wrote last

    @property
    def fails(self) -> bool:
        """Whether writing failed the last time."""
        return self._failed_at is not None

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest came of what waits, ns since the epoch; None: nothing does."""
        lines = self._unwritten
        if lines:
            return time_of(lines)
        try:
            entry = self.entries[0]
        except IndexError:
            return None
        recorder: Writes = entry[0]
        return recorder.time_of(entry)

    def start(self) -> None:
        """Begin; raises RuntimeError where no thread can be started."""
        self._thread.start()
        _writers.add(self)

    def flush(self, timeout: float) -> bool:
        """See `Journal.flush`."""
        deadline = monotonic() + timeout
        with self._lock:
            self._handed_over += 1
            mine = self._handed_over
            self.wake.set()
            while self._written < mine and self._thread.is_alive():
                left = deadline - monotonic()
                if left <= 0:
                    self.is_late = True
                    return False
                self._flushed.wait(min(left, 0.5))
            self.is_late = False
            return self._written >= mine or self._has_written_all

    def finish(self, timeout: float) -> None:
        """Have it write what there is, and end."""
        self._ending = True
        self.wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout)
            self.is_late = self._thread.is_alive()

    def abandon(self) -> None:
        """Give up, in a forked child: nothing here is its own."""
        _writers.discard(self)
        self._folder_lock.release()
        if self._segment is not None:
            self._segment.close()
        self.entries.clear()

    # --- the thread's -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ending:
                self._rest()
                self._turn()
            self._turn()
            self._has_written_all = not (self.entries or self._unwritten)
        except BaseException as error:  # a mistake of ours: it must be seen, and the stream go on
            extra = fields("journal_failed", folder=str(self._folder))
            log.exception("the journal in %s has stopped", self._folder, extra=extra)
            self._journal.is_full = True
            self._journal.is_failing = False  # this is another matter
            self._journal.begin_episode(f"the journal in {self._folder} has stopped: {error!r}")
        finally:
            self._end()

    def _rest(self) -> None:
        """Wait until it is time to write."""
        if not self.entries and self._failed_at is None:
            self.is_asleep = True
            if not self.entries:  # else it came before anybody could see that this sleeps
                self.wake.wait(self._until_next())
            self.is_asleep = False
        if not self._is_waited_for:  # more is to come
            interval = self._journal.interval
            self.wake.wait(interval if self._failed_at is None else min(interval, RETRY))
        self.wake.clear()

    @property
    def _is_waited_for(self) -> bool:
        return self._ending or self._handed_over > self._written

    def _until_next(self) -> float | None:
        """How long there is nothing to do if nothing comes, seconds; None: for ever."""
        due = inf
        if self._segment is not None:
            due = self._begun + self._journal.segment_seconds
        if self._closed:
            due = min(due, self._compress_after)
        return None if due == inf else max(due - monotonic(), 0.01)

    def _turn(self) -> None:
        with self._lock:
            asked = self._handed_over
        written = self._write_all()
        if written:
            with self._lock:
                self._written = asked
                self._flushed.notify_all()
        if self._segment is not None and self._is_old():
            self._close_segment()
        self._tidy()  # which may take its time
        journal = self._journal
        waiting = sum(each.waiting for each in journal.recorders)
        limit = journal.buffer_bytes
        is_full = waiting > (limit / 2 if journal.is_full else limit)
        if written and not is_full:
            journal.is_failing = False
        journal.is_full = is_full

    def _write_all(self) -> bool:
        """Write what there is; whether that worked out."""
        self._turned = monotonic()
        if self._unwritten and not self._write(self._unwritten, self._unwritten_of):
            return False
        entries = self.entries
        left = len(entries)  # what comes meanwhile has its turn
        while left:
            lines: list[bytes] = []
            whose: list[tuple[Writes, int]] = []
            size = 0
            while left and size < CHUNK:
                entry = entries.popleft()
                left -= 1
                recorder = entry[0]
                made = recorder.lines_of(entry)
                lines.append(made)
                whose.append((recorder, entry[1]))
                size += len(made)
            if size and not self._write(b"".join(lines), whose):
                return False
        lost = b"".join([each.lost_lines() for each in self._journal.recorders])
        return not lost or self._write(lost, [])

    def _write(self, lines: bytes, whose: list[tuple[Writes, int]]) -> bool:
        """Write lines; where that fails they are kept."""
        try:
            segment = self._segment
            if segment is None:
                segment = self._new_segment()
            crc = crc_of(lines, self._crc)
            check = check_line(time_ns(), crc)
            segment.write(lines + check, self._journal.fsync == "flush")
        except (OSError, JournalError) as error:
            self._unwritten, self._unwritten_of = lines, whose
            self._failed(error)
            return False
        self._crc = crc_of(check, crc)
        self._unwritten, self._unwritten_of = b"", []
        for recorder, size in whose:
            recorder.taken += size
        self._succeeded()
        if segment.size >= self._journal.segment_bytes:
            self._close_segment()
        return True

    def _new_segment(self) -> Segment:
        self._folder.mkdir(exist_ok=True)  # it may have been removed
        self._folder_lock.hold()
        ns = time_ns()
        header = header_line(ns, {"library": f"fastpos {__version__}"})
        segment = Segment(self._folder / next_name(self._folder, ns), header)
        self._segment, self._begun, self._crc = segment, monotonic(), crc_of(header)
        if self._journal.fsync != "never":
            sync_folder(self._folder)
        return segment

    def _is_old(self) -> bool:
        return monotonic() - self._begun >= self._journal.segment_seconds

    def _close_segment(self) -> None:
        segment, self._segment = self._segment, None
        if segment is None:
            return
        if self._journal.fsync != "never":
            with suppress(OSError):  # `compress` tells
                segment.sync()
        segment.close()
        self._closed.append(segment.path)
        self._may_be_too_much = True

    def _failed(self, error: OSError | JournalError) -> None:
        """Begin an episode, if none is under way, and try another file the next time."""
        segment = self._segment
        if segment is not None and segment.is_empty:  # else each try would leave one
            self._segment = None
            segment.close()
            with suppress(OSError):
                segment.path.unlink()
        self._close_segment()
        self._may_be_too_much = True  # removing makes room
        if self._failed_at is None:
            self._failed_at = monotonic()
            message = f"the journal in {self._folder} can't be written: {error}"
            self._journal.begin_episode(message)

    def _succeeded(self) -> None:
        if self._failed_at is None:
            return
        lasted, self._failed_at = monotonic() - self._failed_at, None
        if not self._journal.is_full:
            # Before it is said: what fails after that is told of anew, be it in this very turn.
            self._journal.is_failing = False
        log.warning(
            "the journal in %s is written again, after %.1f s",
            self._folder,
            lasted,
            extra=fields("journal_again", folder=str(self._folder), seconds=lasted),
        )

    def _tidy(self) -> None:
        """Compress what is closed, and remove what is too much."""
        if self._failed_at is None and self._closed and monotonic() >= self._compress_after:
            self._compress()
        if self._may_be_too_much and self._journal.keep_bytes is not None:
            self._may_be_too_much = False
            with suppress(OSError):  # the next time
                self._remove_oldest(self._journal.keep_bytes)

    def _compress(self) -> None:
        sync = self._journal.fsync != "never"
        self._may_be_too_much = True
        while self._closed:
            try:
                if self._closed[0].exists():  # else it was removed by somebody else
                    compress(self._closed[0], sync, self._write_if_due)
            except OSError as error:
                if not self._compress_after:  # else that was said
                    log.warning(
                        "a segment of the journal can't be compressed, and stays as it is for now: "
                        "%s",
                        error,
                        extra=fields("journal_uncompressed", folder=str(self._folder)),
                    )
                self._compress_after = monotonic() + 10 * RETRY
                return
            del self._closed[0]
        self._compress_after = 0.0

    def _write_if_due(self) -> None:
        """Write between pieces of what takes long."""
        if not self._ending and monotonic() - self._turned >= self._journal.interval:
            self._write_all()

    def _remove_oldest(self, most: int) -> None:
        files = [(path, path.stat().st_size) for path in written(self._folder)]
        total = sum(size for _, size in files)
        for path, size in files:
            if total <= most or (self._segment is not None and path == self._segment.path):
                return
            path.unlink()
            total -= size

    def _end(self) -> None:
        left = len(self.entries) + bool(self._unwritten)
        if left:
            log.error(
                "the journal in %s has ended, and what came last could not be written",
                self._folder,
                extra=fields("journal_incomplete", folder=str(self._folder)),
            )
        self._journal.left = Left(self.entries, self._unwritten, self._unwritten_of)
        try:
            self._close_segment()
            self._tidy()
        finally:
            _writers.discard(self)
            with self._lock:
                self._flushed.notify_all()
            self._folder_lock.release()


# --- at the end of the process --------------------------------------------------------------------

_writers: weakref.WeakSet[Writer] = weakref.WeakSet()  # whose threads run; of this process


@atexit.register
def _at_exit() -> None:
    """Have written what is handed over, where nobody has stopped the streams."""
    for writer in tuple(_writers):
        if not (writer.fails or writer.is_late):
            writer.flush(LAST_WRITES)
