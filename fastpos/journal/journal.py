"""`Journal`: a folder in which streams write down what came, by a thread of its own.

Who reads a stream hands over bytes and goes on (recorder.py); what is handed over waits in one
queue, in the order in which it came, for the journal's writer (writer.py).

Only when more than `buffer_bytes` wait is something not taken any more: that is counted by the
stream it was for, and noted in the journal where it goes on. An *episode* is the time in which
writing fails, or something is not taken as it is too slow; `failure` tells of it.

Threads: any may use it. `_lock` guards who uses the journal and the writer's beginning and end,
`_episode` an episode's beginning. Of a recorder's counters each has one writer.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from time import time_ns
from types import TracebackType
from typing import Any, NamedTuple, NoReturn

from ..errors import JournalError
from ..fork import OwnerProcess
from ..logs import fields, log
from .segments import FolderLock
from .writer import LAST_WRITES, Left, Writer, Writes

__all__ = ["Journal", "JournalStats", "journal_at"]

FSYNC = ("never", "segment", "flush")


class JournalStats(NamedTuple):
    """What a journal is doing at this moment, in numbers."""

    waiting_bytes: int
    """How much waits to be written, bytes."""
    lag_s: float
    """How long ago the oldest came of what waits, seconds; 0.0 where nothing does."""
    lost: int
    """Records that were not taken, as too much waited, since the journal was made."""
    is_failing: bool
    """Whether writing fails, or something was not taken as it is too slow."""


class Journal:
    """A folder that keeps what streams were sent, for `read` and `replay`.

    It may be shared by the streams of a process. It is opened when the first of them starts, and
    closed when the last has ended; `with journal:` keeps it open as long.

    Args:
        folder: where; it is made if it is not there. No other journal may write there.
        segment_bytes: a file that has become so large is closed, and another begun, bytes.
        segment_seconds: the same for one that is so old, seconds.
        flush_interval: what is older than this survives a `kill -9` of the process, seconds.
        keep_bytes: the oldest files are removed while all together are larger, bytes; None: never.
        fsync: when the disk is waited for, which alone survives a loss of power: "never",
            "segment" (when a file is closed) or "flush" (at each write).
        buffer_bytes: about so much waits at most while nothing can be written, bytes.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        segment_bytes: int = 64 * 1024 * 1024,
        segment_seconds: float = 3600.0,
        flush_interval: float = 0.5,
        keep_bytes: int | None = None,
        fsync: str = "never",
        buffer_bytes: int = 64 * 1024 * 1024,
    ) -> None:
        self.folder: Path = Path(os.path.abspath(folder))  # the process may change its directory
        self.buffer_bytes: int = _size("buffer_bytes", buffer_bytes)
        self.segment_bytes: int = _size("segment_bytes", segment_bytes)
        self.segment_seconds: float = _seconds("segment_seconds", segment_seconds)
        self.interval: float = _seconds("flush_interval", flush_interval) / 2
        self.keep_bytes: int | None = (
            None if keep_bytes is None else _size("keep_bytes", keep_bytes)
        )
        if fsync not in FSYNC:
            raise ValueError(f"fsync must be one of {FSYNC}, not {fsync!r}")
        self.fsync = fsync

        self._lock = threading.Lock()
        self._users = 0  # under `_lock`
        # Who writes, and how many records others have lost who did; as a whole, under `_lock`;
        # anybody looks.
        self._writing: tuple[tuple[Writes, ...], int] = (), 0
        self._writer: Writer | None = None  # the same
        self._last: Writer | None = None  # the same: the one that was told to end
        self._owner = OwnerProcess()
        self._owner.in_child = self._leave_to_parent

        self.wants_states = False
        """Whether streams are to say all that they know whenever they were subscribed: it is known
        from the beginning here."""
        self.state_every = 0
        """And after so many records: not."""
        self.failure: JournalError | None = None
        """The episode that is under way or was last; None where there was none. For anybody."""
        self._episode = threading.Lock()
        self.is_failing: bool = False
        """Whether one is under way; begun under `_episode`, ended by the writer."""
        self.is_full: bool = False
        """Whether nothing more is taken, as too much waits; only the writer ends it, and does so
        in its next turn."""
        self.left: Left = Left(deque(), b"", [])
        """What the last writer has left; under `_lock` or the writer's."""

    def __repr__(self) -> str:
        return f"<Journal {str(self.folder)!r}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Journal can't be copied or pickled: one process writes in a folder")

    # --- anybody's --------------------------------------------------------------------------

    def open(self) -> Journal:
        """Begin to write, or do nothing where that has begun; to be followed by `close`.

        Raises:
            JournalError: the folder can't be written in, or another journal writes there.
        """
        with self._lock:
            if self._owner.is_another:
                self._users, self._writing, self._writer, self._last = 0, ((), 0), None, None
                self.left = Left(deque(), b"", [])
            if self._users == 0:
                self._writer = self._begin()
            self._users += 1
        return self

    def close(self, timeout: float = LAST_WRITES) -> None:
        """End what `open` began.

        Args:
            timeout: for how long the last one waits until all is written, seconds.
        """
        writer = self._release()
        if writer is not None:
            writer.finish(timeout)

    def _release(self) -> Writer | None:
        """End what `open` began; give the writer, which is to be finished, if it was the last."""
        with self._lock:
            if self._owner.is_another or not self._users:
                return None
            self._users -= 1
            if self._users:
                return None
            self._last, self._writer = self._writer, None
            return self._last

    def flush(self, timeout: float = LAST_WRITES) -> bool:
        """Wait until all that was handed over before this is in the file.

        Args:
            timeout: seconds to wait at the most.

        Returns:
            Whether it is.
        """
        writer = self._writer or self._last
        return True if writer is None else writer.flush(timeout)

    def __enter__(self) -> Journal:
        return self.open()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> Writer:
        lock = None
        try:
            lock = FolderLock(self.folder)
            writer = Writer(self, lock)
            self._owner.claim()
            self.is_full = self.is_failing = False
            self._last = None
            writer.start()
        except (OSError, RuntimeError) as error:
            if lock is not None:
                lock.release()
            raise JournalError(f"the journal can't be written in {self.folder}: {error}") from error
        return writer

    def _leave_to_parent(self) -> None:
        """Take note that this is a copy in a forked child: the files are the parent's."""
        self._lock, self._episode = threading.Lock(), threading.Lock()  # which somebody may hold
        writer, self._writer, self._last = self._writer, None, None
        if writer is not None:
            writer.abandon()

    @property
    def stats(self) -> JournalStats:
        """What it is doing at this moment; waits for nobody."""
        oldest_ns, (recorders, lost) = self.oldest_ns, self._writing
        return JournalStats(
            waiting_bytes=self._waiting,
            lag_s=0.0 if oldest_ns is None else max(time_ns() - oldest_ns, 0) / 1e9,
            lost=lost + sum(each.lost for each in recorders),
            is_failing=self.is_failing,
        )

    @property
    def oldest_ns(self) -> int | None:
        """When the oldest came of what waits, nanoseconds since the epoch; None: nothing does."""
        writer = self._writer
        return None if writer is None else writer.oldest_ns

    @property
    def is_anothers(self) -> bool:
        """Whether it was used in another process, from which this one was forked."""
        return self._owner.is_another

    # --- the recorders' ---------------------------------------------------------------------

    def enter(self, recorder: Writes) -> deque[Any]:
        """Have `recorder` write; give the queue that it puts entries into, itself first in each.

        Raises:
            JournalError: see `open`.
        """
        self.open()
        with self._lock:
            assert self._writer is not None
            recorders, lost = self._writing
            self._writing = (*recorders, recorder), lost - recorder.lost
            return self._writer.entries

    def leave(self, recorder: Writes) -> Callable[[], None] | None:
        """Have it write no more, after what it has handed over.

        Returns:
            What must be called yet, as it was the last; it waits until all is written.
        """
        writer = self._release()

        def finish() -> None:
            if writer is not None:
                writer.finish(LAST_WRITES)
            with self._lock:
                recorders, lost = self._writing
                if recorder in recorders:
                    others = tuple(each for each in recorders if each is not recorder)
                    self._writing = others, lost + recorder.lost

        if writer is not None:
            return finish
        finish()
        return None

    def hurry(self) -> None:
        """Have what waits written soon, unless that fails."""
        writer = self._writer
        if writer is None:
            return
        if writer.wake.is_set() and self._waiting > self.buffer_bytes:  # of all together
            self.is_full = True
        if not writer.fails:
            writer.wake.set()

    def fall_behind(self) -> None:
        """Note that something is not taken, as too much waits."""
        self.is_full = True
        self.begin_episode(
            f"the journal in {self.folder} is written too slowly: "
            f"more than {self.buffer_bytes} bytes wait"
        )
        writer = self._writer
        if writer is not None:
            writer.wake.set()

    def begin_episode(self, message: str) -> None:
        """Say what hinders the journal, once an episode."""
        with self._episode:
            if self.is_failing:
                return
            self.failure = JournalError(message)
            self.is_failing = True
        log.error("%s", message, extra=fields("journal_failing", folder=str(self.folder)))

    @property
    def _waiting(self) -> int:
        return sum(each.waiting for each in self.recorders)

    @property
    def is_asleep(self) -> bool:
        """Whether the writer waits for `hurry`, as there was nothing to write."""
        writer = self._writer
        return writer is not None and writer.is_asleep

    @property
    def recorders(self) -> tuple[Writes, ...]:
        """Who writes."""
        return self._writing[0]


# --- one journal for each folder that is named as a path ------------------------------------------

_by_path: dict[str, Journal] = {}
_by_path_lock = threading.Lock()  # guards it; nothing is done under it but looking up


def journal_at(folder: str | os.PathLike[str]) -> Journal:
    """Give the journal in a folder: the same for all streams of this process that name it."""
    path = os.path.realpath(folder)
    with _by_path_lock:
        journal = _by_path.get(path)
        if journal is None or journal.is_anothers:
            journal = _by_path[path] = Journal(folder)
        return journal


def _size(name: str, value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value


def _seconds(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number of seconds, not {type(value).__name__}")
    if not 0 < value <= 86400 * 366:
        raise ValueError(f"{name} must be more than 0 seconds, not {value!r}")
    return float(value)
