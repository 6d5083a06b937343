"""`Publisher`: what streams are sent goes to Redis too, by a thread of its own.

It takes from a stream what a journal takes (journal/recorder.py), record by record, and appends it
to a stream of Redis in batches, each by one script (scripts.py). The reader hands over and goes on;
nothing of Redis is waited for there. While Redis is away what comes waits in memory, up to
`buffer_events`; beyond that the oldest go. Then a record of kind "dropped" says how many and from
when to when, and the whole state follows it as soon as the stream has something to read.

Threads: the queue is a deque, whose ends any thread may use. `_lock` guards who uses the publisher
and the thread's beginning and end. All else is the thread's, but for what says otherwise.
"""

from __future__ import annotations

import os
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from itertools import islice
from math import inf
from time import time_ns
from typing import Any, NoReturn

from ..clock import monotonic
from ..errors import PublisherError
from ..fork import OwnerProcess
from ..journal.format import kind_of, label_of, line_of, time_of
from ..journal.recorder import Recorder
from ..logs import fields, log
from .connecting import connect, shown
from .scripts import ACQUIRE, APPEND, FENCED, MISSING, RELEASE, Keys

__all__ = ["Publisher"]

# So many records go in one call of the script.
BATCH = 500
# So many calls go to the server before their answers are read.
PIPELINE = 20
# How often Redis is tried again while it is away, seconds.
RETRY = 0.5
# An owner that has not said so for so long is gone, and how often it says so, seconds.
LEASE, RENEWAL = 5.0, 1.5
# How long is waited at the end for what is to be sent yet, seconds.
LAST_RECORDS = 3.0


class Publisher:
    """Publishes what streams are sent to Redis, for `RemoteStream` and whoever reads streams.

    It may be shared by the streams of a process. It begins when the first of them starts, and ends
    when the last has ended.

    Args:
        url: of a Redis or Valkey: ``redis://[user:password@]host:port/db``, ``rediss://`` for TLS,
            ``unix://``.
        prefix: what all keys begin with.
        max_length: about so many records are kept of each stream.
        buffer_events: so many wait in memory at the most while Redis is away.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
        ImportError: redis-py is not there (extra "redis").
    """

    def __init__(
        self,
        url: str,
        prefix: str = "fastpos",
        max_length: int = 100_000,
        *,
        buffer_events: int = 100_000,
    ) -> None:
        connect(url)  # whether that can be
        if not isinstance(prefix, str) or not prefix or "{" in prefix or "}" in prefix:
            raise ValueError(f"prefix must be a text without braces, not {prefix!r}")
        self.url = url
        self.prefix = prefix
        self.max_length = _count("max_length", max_length)
        self.buffer_events = _count("buffer_events", buffer_events)
        self.who = f"{socket.gethostname()}:{os.getpid()}"
        """What the owner's key says."""
        self._lock = threading.Lock()
        self._users = 0
        self._thread: _Sender | None = None
        self._owner = OwnerProcess()
        self._owner.in_child = self._leave_to_parent
        self.recorders: tuple[Recorder, ...] = ()
        """Who publishes; replaced under `_lock`."""
        self.on_fenced: Callable[[str], object] | None = None
        """Called with the name of a stream that another publishes now, on a thread of this."""
        self.failure: PublisherError | None = None
        """What hinders it, or did last; None where nothing did. For anybody."""
        self.is_full = False
        """Never: the oldest go."""
        self.wants_states = True
        """Whether streams are to say all that they know whenever they were subscribed."""
        self.state_every = max(self.max_length // 2, 1)
        """And after so many records, so that Redis has one of all that it keeps."""
        self.buffer_bytes = 1 << 62
        self.is_failing = False
        """Whether nothing can be sent; the thread's, for anybody to see."""

    def __repr__(self) -> str:
        return f"<Publisher {shown(self.url)} {self.prefix}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a Publisher can't be copied or pickled")

    # --- the recorders' ---------------------------------------------------------------------

    def enter(self, recorder: Recorder) -> deque[Any]:
        """Have `recorder` publish; give the queue that it puts entries into."""
        with self._lock:
            if self._users == 0:
                self._owner.claim()
                thread = _Sender(self)
                thread.start()
                self._thread = thread
            self._users += 1
            self.recorders = (*self.recorders, recorder)
            assert self._thread is not None
            return self._thread.entries

    def fall_behind(self) -> None:
        """Not called: the oldest go, and nothing is refused."""

    def leave(self, recorder: Recorder) -> Callable[[], None] | None:
        """Have it publish no more; give what waits until it has sent what it was handed."""
        return partial(self._let_go, recorder)

    def _let_go(self, recorder: Recorder) -> None:
        with self._lock:
            if self._owner.is_another or not self._users:
                return
            self._users -= 1
            thread = self._thread
            if self._users == 0:
                self._thread = None
        if thread is not None:
            thread.let_go(recorder, last=self._thread is None)
        with self._lock:
            self.recorders = tuple(each for each in self.recorders if each is not recorder)

    def hurry(self) -> None:
        """Have what waits sent soon."""
        thread = self._thread
        if thread is not None:
            thread.wake.set()

    @property
    def is_asleep(self) -> bool:
        """Whether the thread waits for `hurry`."""
        thread = self._thread
        return thread is not None and thread.is_asleep

    def _leave_to_parent(self) -> None:
        self._users, self._thread, self.recorders = 0, None, ()


class _Account:
    """What the thread knows of a stream that publishes."""

    def __init__(self, prefix: str, recorder: Recorder) -> None:
        self.recorder = recorder
        self.keys = Keys(prefix, recorder.stream)
        self.label = label_of(recorder.stream)
        self.epoch = 0  # 0: not asked for yet
        self.sequence = 0  # of the first that waits
        self.stored = -1  # of the last that Redis is known to have
        self.waiting: deque[bytes] = deque()  # lines
        self.lost: tuple[int, int, int] | None = None  # how many, since and until when
        self.is_fenced = False
        self.renewed = 0.0  # when the ownership was last told
        self.leaving: tuple[float, threading.Event] | None = None  # until when, and who waits

    def drop_oldest(self, count: int) -> None:
        """Let go of so many lines; the last one's place is taken by the line that tells of it."""
        before = self.lost[0] if self.lost else 0
        dropped = [self.waiting.popleft() for _ in range(count)]
        since = self.lost[1] if self.lost else time_of(dropped[0])
        self.sequence += count
        self.lost = before + count, since, time_of(dropped[-1])

    def batch(self, skip: int) -> tuple[int, list[bytes]]:
        """Give up to `BATCH` lines after the first `skip`, and the sequence number of the first."""
        lines = list(islice(self.waiting, skip, skip + BATCH))
        if self.lost is None or skip:
            return self.sequence + skip, lines
        count, since, until = self.lost
        values = {"count": count, "from_ns": since, "to_ns": until}
        return self.sequence - 1, [line_of(self.label, 0, time_ns(), "dropped", values), *lines]

    def was_sent(self, count: int) -> None:
        """Let go of so many lines that are there."""
        self.lost = None
        for _ in range(count):
            self.waiting.popleft()
        self.sequence += count
        self.stored = self.sequence - 1

    def is_missing(self, last: int) -> None:
        """Take note that Redis has lost what it had after `last`."""
        now = time_ns()
        count, since, _ = self.lost or (0, now, now)
        self.lost = count + self.stored - last, since, now
        self.stored = last


class _Sender:
    """A publisher's thread. All is its own, but for what `let_go` and the queue's ends touch."""

    def __init__(self, publisher: Publisher) -> None:
        self._publisher = publisher
        self.entries: deque[Any] = deque()
        """What was handed over, the oldest first."""
        self.wake = threading.Event()
        self.is_asleep = False
        self._leaving: deque[tuple[Recorder, threading.Event]] = deque()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="fastpos-publisher", daemon=True)
        self._accounts: dict[Recorder, _Account] = {}
        self._redis: Any = None
        self._hashes: dict[str, str] = {}  # script -> what the server calls it
        self._failed_at: float | None = None
        self._try_after = 0.0

    def start(self) -> None:
        """Begin; raises RuntimeError where no thread can be started."""
        self._thread.start()

    def let_go(self, recorder: Recorder, last: bool) -> None:
        """Have what a stream has handed over sent, for some seconds; `last`: and end."""
        done = threading.Event()
        self._leaving.append((recorder, done))
        self._ending |= last
        self.wake.set()
        if threading.current_thread() is not self._thread:
            done.wait(LAST_RECORDS)
            if last:
                self._thread.join(LAST_RECORDS)

    # --- the thread's -----------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while not self._ending or self._leaving or self._accounts:
                self._rest()
                self._turn()
        except BaseException as error:  # a mistake of ours: it must be seen, and the stream go on
            log.exception("the publisher has stopped", extra=fields("publisher_failed"))
            self._publisher.failure = PublisherError(f"the publisher has stopped: {error}")
        finally:
            for _, done in self._leaving:
                done.set()
            for account in self._accounts.values():
                if account.leaving:
                    account.leaving[1].set()
            if self._redis is not None:
                self._redis.close()

    def _rest(self) -> None:
        """Wait until there is something to do."""
        now = monotonic()
        if self._failed_at is not None:
            wait = self._try_after - now
        elif any(account.waiting for account in self._accounts.values()):
            return
        else:
            wait = (
                min((each.renewed + RENEWAL for each in self._accounts.values()), default=inf) - now
            )
        if wait > 0 and not self._leaving:
            self.is_asleep = True
            if not self.entries or self._failed_at is not None:
                self.wake.wait(min(wait, RENEWAL))
            self.is_asleep = False
        self.wake.clear()

    def _turn(self) -> None:
        self._take()
        now = monotonic()
        if self._failed_at is None or now >= self._try_after:
            try:
                self._connect()
                self._acquire()
                self._send(now)
                self._succeeded()
            except self._errors as error:
                self._failed(error)
        self._end_some(now)

    def _take(self) -> None:
        """Make lines of what was handed over; of too many the oldest go."""
        for _ in range(len(self.entries)):
            entry = self.entries.popleft()
            account = self._account(entry[0])
            if not account.is_fenced:
                account.waiting.extend(account.recorder.lines_of(entry).splitlines(keepends=True))
            account.recorder.taken += entry[1]
        while self._leaving:
            recorder, done = self._leaving.popleft()
            self._account(recorder).leaving = monotonic() + LAST_RECORDS, done
        accounts = self._accounts.values()
        too_many = sum(len(each.waiting) for each in accounts) - self._publisher.buffer_events
        while too_many > 0:
            longest = max(accounts, key=lambda each: len(each.waiting))
            count = min(too_many, max(len(longest.waiting) // 2, 1))
            longest.drop_oldest(count)
            longest.recorder.wants_state = True
            too_many -= count

    def _account(self, recorder: Recorder) -> _Account:
        account = self._accounts.get(recorder)
        if account is None:
            account = self._accounts[recorder] = _Account(self._publisher.prefix, recorder)
        return account

    def _connect(self) -> None:
        if self._redis is None:
            self._redis = connect(self._publisher.url)
            self._hashes = {
                text: self._redis.script_load(text) for text in (ACQUIRE, APPEND, RELEASE)
            }

    def _call(self, pipeline: Any, script: str, keys: list[str], *arguments: Any) -> None:
        pipeline.evalsha(self._hashes[script], len(keys), *keys, *arguments)

    def _acquire(self) -> None:
        """Ask for an epoch for each that has none."""
        new = [each for each in self._accounts.values() if not each.epoch and not each.is_fenced]
        for some in _chunks(new, BATCH):
            pipeline = self._redis.pipeline(transaction=False)
            for account in some:
                keys = account.keys
                names = [keys.events, keys.epoch, keys.owner]
                self._call(pipeline, ACQUIRE, names, self._publisher.who, int(LEASE * 1000))
            for account, epoch in zip(some, pipeline.execute(), strict=True):
                account.epoch, account.renewed = int(epoch), monotonic()

    def _send(self, now: float) -> None:
        """Send what waits, and say of all that they are still there."""
        publisher = self._publisher
        calls: list[tuple[_Account, int, int]] = []
        pipeline = self._redis.pipeline(transaction=False)
        for account in self._accounts.values():
            if account.is_fenced:
                continue
            skip = 0
            while (
                skip < len(account.waiting)
                or (account.lost and not skip)
                or (now - account.renewed >= RENEWAL and not skip)
            ):
                sequence, lines = account.batch(skip)
                records = [part for line in lines for part in (kind_of(line), line[:-1])]
                before = sequence - 1 if skip else account.stored
                self._call(
                    pipeline, APPEND, [account.keys.events, account.keys.owner],
                    account.epoch, sequence, before, publisher.max_length, publisher.who,
                    int(LEASE * 1000), *records,
                )  # fmt: skip
                sent = min(len(account.waiting) - skip, BATCH)
                calls.append((account, sent, skip))
                skip += sent
                account.renewed = now
                if not sent or len(calls) >= PIPELINE:
                    break
            if len(calls) >= PIPELINE:
                break
        failure: Exception | None = None
        answers = pipeline.execute(raise_on_error=False) if calls else ()
        for (account, count, skip), answer in zip(calls, answers, strict=True):
            if isinstance(answer, Exception):
                failure = failure or answer
            elif answer == FENCED:
                self._fence(account)
            elif isinstance(answer, int):
                account.was_sent(count)
            elif not skip:  # else the one before was refused, and comes again with this
                account.is_missing(int(answer.removeprefix(MISSING)))
                account.recorder.wants_state = True
        if failure is not None:
            raise failure

    def _fence(self, account: _Account) -> None:
        """Another publishes the account."""
        if not account.is_fenced:
            account.is_fenced = True
            account.waiting.clear()
            message = (
                f"{account.recorder.stream} is published by another now: it is the owner no more"
            )
            log.error("%s", message, extra=fields("fenced", stream=account.recorder.stream))
            self._publisher.failure = PublisherError(message)
            if self._publisher.on_fenced is not None:
                self._publisher.on_fenced(account.recorder.stream)

    def _end_some(self, now: float) -> None:
        """Let go of what has left, once all of it was sent or its time is up."""
        for recorder, account in tuple(self._accounts.items()):
            if account.leaving is None:
                continue
            until, done = account.leaving
            if account.waiting and now < until:
                continue
            if account.waiting:
                log.error(
                    "%s has ended, and %d records of it could not be published",
                    recorder.stream,
                    len(account.waiting),
                    extra=fields(
                        "unpublished", stream=recorder.stream, records=len(account.waiting)
                    ),
                )
            elif self._failed_at is None and not account.is_fenced and account.epoch:
                with suppress(*self._errors):
                    self._redis.evalsha(
                        self._hashes[RELEASE],
                        1,
                        account.keys.owner,
                        account.epoch,
                        self._publisher.who,
                    )
            del self._accounts[recorder]
            done.set()

    @property
    def _errors(self) -> tuple[type[Exception], ...]:
        from redis.exceptions import RedisError  # noqa: PLC0415 -- an extra

        return RedisError, OSError

    def _failed(self, error: Exception) -> None:
        """Try again, with a new connection, and tell once."""
        self._try_after = monotonic() + RETRY
        if self._redis is not None:
            with suppress(*self._errors):
                self._redis.close()
            self._redis = None
        if self._failed_at is None:
            self._failed_at = monotonic()
            url = shown(self._publisher.url)
            message = f"nothing can be published to {url}: {type(error).__name__}: {error}"
            log.error("%s", message, extra=fields("publisher_failing", url=url))
            self._publisher.failure = PublisherError(message)
            self._publisher.is_failing = True

    def _succeeded(self) -> None:
        if self._failed_at is not None:
            lasted, self._failed_at = monotonic() - self._failed_at, None
            self._publisher.is_failing = False
            url = shown(self._publisher.url)
            log.warning(
                "it is published to %s again, after %.1f s",
                url,
                lasted,
                extra=fields("publisher_again", url=url, seconds=lasted),
            )


def _chunks(items: list[_Account], size: int) -> Iterable[list[_Account]]:
    return (items[n : n + size] for n in range(0, len(items), size))


def _count(name: str, value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")
    return value
