"""`Publisher`: what streams are sent goes to Redis too, by a thread of its own.

It takes from a stream what a journal takes (journal/recorder.py), record by record, and appends it
to a stream of Redis (sender.py). The reader hands over and goes on; nothing of Redis is waited for
there.

WHILE REDIS IS AWAY

* Without a journal what comes waits in memory, up to `buffer_events`; beyond that the oldest go.
  Then a record of kind "dropped" says how many and from when to when, and the whole state follows
  it: a ping goes out, and its pong has the reader tell it, though nothing else may come.
* With a journal nothing waits in memory: it is read from the journal's files, which keep it for the
  next process, too (files.py). Then a publisher is what a stream's recorder hands over to, in the
  journal's place, and passes it on to that.

Threads: `_lock` guards who uses the publisher and the thread's beginning and end.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from ..errors import FastposError, JournalError
from ..fork import OwnerProcess
from ..logs import fields, log
from .connecting import connect, shown
from .files import Files
from .memory import Memory
from .outbox import Tally
from .sender import Sender

if TYPE_CHECKING:
    from ..journal.journal import Journal
    from ..journal.recorder import Recorder

__all__ = ["Publisher", "PublisherStats"]


class PublisherStats(NamedTuple):
    """What a publisher is doing at this moment, in numbers."""

    sent: int
    """Records that Redis has taken, since the publisher was made."""
    lost: int
    """Records that were let go of as too much waited, or that Redis has lost, since then."""
    waiting: int
    """Records that wait in memory."""
    lag_s: float
    """How long ago the oldest came of what Redis does not have, seconds. While Redis is away and a
    journal has what comes: for how long it has been away, at the least."""
    is_failing: bool
    """Whether nothing can be published."""
    fenced: int
    """How many of its streams another publishes."""


class Publisher:
    """Publishes what streams are sent to Redis, for `RemoteStream` and whoever reads streams.

    It may be shared by the streams of a process. It begins when the first of them starts, and ends
    when the last has ended.

    Args:
        url: of a Redis or Valkey: ``redis://[user:password@]host:port/db``, ``rediss://`` for TLS,
            ``unix://``.
        prefix: what all keys begin with.
        max_length: about so many records are kept of each stream.
        journal: where its streams write down what comes; what could not be sent, by this process or
            the last, is read from there. A stream with this publisher has this journal, too.
        buffer_events: so many wait in memory at the most while Redis is away, without a journal;
            and what comes meanwhile where it does not answer at all, for 5 seconds.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
        ImportError: redis-py is not there (extra "redis").
    """

    def __init__(
        self,
        url: str,
        prefix: str = "fastpos",
        max_length: int = 100_000,
        journal: Journal | None = None,
        *,
        buffer_events: int = 100_000,
    ) -> None:
        connect(url)  # whether that can be
        if not isinstance(prefix, str) or not prefix or "{" in prefix or "}" in prefix:
            raise ValueError(f"prefix must be a text without braces, not {prefix!r}")
        self.url = url
        self.prefix = prefix
        self.max_length: int = _count("max_length", max_length)
        self.buffer_events: int = _count("buffer_events", buffer_events)
        self.journal = journal
        if journal is not None:
            from ..journal.journal import Journal  # noqa: PLC0415 -- who has one has imported it

            if not isinstance(journal, Journal):
                raise TypeError(f"journal must be a Journal, not {type(journal).__name__}")
        self.who: str = f"{socket.gethostname()}:{os.getpid()}"
        """What the owner's key says."""
        self._lock = threading.Lock()
        self._users = 0
        self._sender: Sender | None = None  # replaced under `_lock`; anybody looks
        self._tally = Tally()
        self._entries: deque[Any] = deque()
        self.on_fenced: Callable[[str], object] | None = None
        """Called with the name of a stream that another publishes now, on a thread of this."""
        self._owner = OwnerProcess()
        self._owner.in_child = self._leave_to_parent

    def __repr__(self) -> str:
        return f"<Publisher {shown(self.url)} {self.prefix}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Publisher can't be copied or pickled")

    @property
    def stats(self) -> PublisherStats:
        """What it is doing at this moment; waits for nobody."""
        sender, tally = self._sender, self._tally
        return PublisherStats(
            sent=tally.sent,
            lost=tally.lost,
            waiting=0 if sender is None else sender.waiting,
            lag_s=0.0 if sender is None else sender.lag_s,
            is_failing=sender is not None and sender.is_failing,
            fenced=0 if sender is None else sender.fenced,
        )

    # --- the recorders' ---------------------------------------------------------------------

    wants_states = True
    """Streams are to say all that they know whenever they were subscribed."""

    @property
    def state_every(self) -> int:
        """And after so many records, so that Redis has one of all that it keeps."""
        return max(self.max_length // 2, 1)

    def enter(self, recorder: Recorder) -> deque[Any]:
        """Have `recorder` publish; give the queue that it puts entries into.

        Raises:
            JournalError: the journal can't be written.
        """
        entries = None if self.journal is None else self.journal.enter(recorder)
        try:
            with self._lock:
                if self._users == 0:
                    self._owner.claim()
                    self._begin()
                self._users += 1
                assert self._sender is not None
                try:
                    self._sender.enter(recorder)
                except OSError:
                    self._users -= 1
                    if self._users == 0:
                        self._sender.finish()
                        self._sender = None
                    raise
                return self._entries if entries is None else entries
        except BaseException as error:
            if self.journal is not None:
                finish = self.journal.leave(recorder)
                if finish is not None:
                    finish()
                if isinstance(error, OSError):
                    message = f"the journal can't be read in {self.journal.folder}: {error}"
                    raise JournalError(message) from error
            raise

    def _begin(self) -> None:
        source: Memory | Files
        if self.journal is None:
            source = Memory(self.buffer_events)
            self._entries = source.entries
        else:
            source = Files(self.journal)
        sender = Sender(
            self.url,
            self.prefix,
            self.max_length,
            self.who,
            source,
            self._was_fenced,
            self._tally,
        )
        sender.start()
        self._sender = sender

    def leave(self, recorder: Recorder) -> Callable[[], None] | None:
        """Have it publish no more, after what it has handed over.

        Returns:
            What must be called yet, as it was the last; it waits until all is written and sent.
            What any other has is sent meanwhile.
        """
        wait = None if self.journal is None else self.journal.leave(recorder)
        with self._lock:
            if self._owner.is_another or self._sender is None:
                return wait
            sender = self._sender
            sender.leave(recorder)
            self._users -= 1
            if self._users:
                return wait
            self._sender = None

        def finish() -> None:
            if wait is not None:
                wait()
            sender.finish()

        return finish

    def hurry(self) -> None:
        """Have what waits taken soon."""
        sender = self._sender
        if self.journal is not None:
            self.journal.hurry()
        if sender is not None and sender.is_asleep:
            sender.wake.set()

    @property
    def is_asleep(self) -> bool:
        """Whether `hurry` is to be called when something comes."""
        sender = self._sender
        if sender is not None and sender.is_asleep:
            return True
        return self.journal is not None and self.journal.is_asleep

    @property
    def failure(self) -> FastposError | None:
        """What hinders the journal; what hinders publishing each recorder is told (`trouble`)."""
        return None if self.journal is None else self.journal.failure

    @property
    def is_failing(self) -> bool:
        """Whether the journal is hindered now."""
        return self.journal is not None and self.journal.is_failing

    def _was_fenced(self, name: str) -> None:
        if self.on_fenced is not None:
            try:
                self.on_fenced(name)
            except Exception:  # the others' records are to be sent
                log.exception("on_fenced fails", extra=fields("publisher_failed", stream=name))

    def fall_behind(self) -> None:
        """Note that something is not taken, as too much waits in the journal."""
        if self.journal is not None:
            self.journal.fall_behind()

    @property
    def is_full(self) -> bool:
        """Whether nothing more is taken: never where it waits in memory, as the oldest go."""
        if self.journal is not None:
            return self.journal.is_full
        sender = self._sender
        return sender is not None and sender.is_broken

    @property
    def buffer_bytes(self) -> int:
        """How much of a stream may wait, bytes."""
        return 1 << 62 if self.journal is None else self.journal.buffer_bytes

    def _leave_to_parent(self) -> None:
        self._lock = threading.Lock()  # which somebody may hold
        if self._sender is not None:
            self._sender.abandon()
        self._users, self._sender = 0, None


def _count(name: str, value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value
