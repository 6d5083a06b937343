"""`RemoteStream`: a stream's functions, events and properties, on another machine, from Redis.

What an owner's `Publisher` has appended is put into the same code again, record by record, as a
journal is (journal/records.py): it decodes, merges and calls as the owner's stream did.

WHERE IT BEGINS

Records follow one another, and the owner puts its whole state among them now and then. From the
last state before it a stream goes on silently to where it begins to tell:

* alone, that is the end: then `on_position` tells what is open, `on_ready` that it begins, and all
  that comes from then on is told;
* in a group, it is what the group has not acknowledged yet, or the end for a group that is new.
  A record is acknowledged when the functions have returned. So each is told at least once. One
  member of a group reads an account at a time, or their order would be lost; it holds a lock for as
  long as it says so in time, and the next goes on where it stopped.

Threads: those of a `PositionStream` (runtime/driver.py). The reader alone talks to Redis.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from time import time_ns
from typing import TYPE_CHECKING, Any

from ..clock import monotonic
from ..errors import ConnectionFailed, FastposError, PublisherError
from ..journal.format import parse
from ..journal.reader import Record
from ..journal.records import Records
from ..logs import fields, log
from ..model.events import Disconnect, Ready, Stale
from ..reconnect import ReconnectPolicy
from ..runtime.driver import Driver
from ..runtime.run import Parts, Run
from ..stream import PositionStream
from .connecting import connect, shown
from .scripts import HOLD, Keys

if TYPE_CHECKING:
    from redis import Redis

__all__ = ["RemoteStream"]

# So many records are read at once.
COUNT = 500
# A read waits so long for something to come, milliseconds.
BLOCK = 1000
# The lock of a group's member lasts so long, seconds, and is taken again so often.
LOCK, RENEWAL = 5.0, 1.5
# While another member of the group has the lock, it is asked for so often, seconds.
STANDBY = 0.5


class RemoteStream(PositionStream):
    """A stream that another process follows, from Redis: the same functions, events, properties.

    Args:
        url: of the Redis that its owner publishes to; see `Publisher`.
        name: the stream's there.
        prefix: what the keys begin with.
        group: several processes of one group share the work: each record is told to one of them, at
            least once, and goes on where the last one stopped. None: this one alone gets all, from
            now on.
        consumer: what this one is called in the group; None: host and process.
        reconnect: when to try Redis again while it is away.
        **arguments: callbacks and others of a `PositionStream`: `number`, `dispatch`,
            `queue_size`, `slow_callback_s`.

    Raises:
        TypeError, ValueError: an argument is unusable; the message names it.
        ImportError: redis-py is not there (extra "redis").
    """

    def __init__(
        self,
        url: str,
        name: str,
        prefix: str = "fastpos",
        group: str | None = None,
        consumer: str | None = None,
        *,
        reconnect: ReconnectPolicy | None = None,
        **arguments: Any,
    ) -> None:
        connect(url)  # whether that can be
        for what, value in (("group", group), ("consumer", consumer)):
            if value is not None and not (isinstance(value, str) and value):
                raise ValueError(f"{what} must be a text or None, not {value!r}")
        if group is not None and arguments.get("dispatch") == "thread":
            raise ValueError(
                'a group acknowledges what functions have returned from: dispatch="thread" is not '
                "for it"
            )
        super().__init__(
            "ws://127.0.0.1:9/", api_key="remote", broker=0, name=name, **arguments
        )
        self._url = url
        self._source = _Source(
            url,
            Keys(prefix, name),
            group,
            consumer or f"{socket.gethostname()}:{os.getpid()}",
            reconnect or ReconnectPolicy(initial=0.2, maximum=2.0),
        )
        self._own_driver = self._driver = _RemoteDriver(self._parts, self, self._source)

    def __repr__(self) -> str:
        source = getattr(self, "_source", None)
        return "<RemoteStream>" if source is None else f"<RemoteStream {self.name} {shown(source.url)}>"


class _Source:
    """Where records come from."""

    def __init__(
        self, url: str, keys: Keys, group: str | None, consumer: str, policy: ReconnectPolicy
    ) -> None:
        self.url = url
        self.keys = keys
        self.group = group
        self.consumer = consumer
        self.policy = policy


Id = tuple[int, int]


def _id(raw: bytes) -> Id:
    epoch, _, sequence = raw.partition(b"-")
    return int(epoch), int(sequence)


def _text(id: Id) -> str:
    return f"{id[0]}-{id[1]}"


def _record(values: dict[bytes, bytes]) -> Record:
    head, kind, text, rest = parse(values[b"record"] + b"\n")
    ns, stream, connection = head
    return Record(ns, stream or "", connection, kind, text, rest)


class _RemoteDriver(Driver):
    """Reads what an owner has published, on whatever thread calls `run`."""

    __slots__ = ("_failures", "_gone_at", "_hold", "_is_told", "_last", "_redis", "_records",
                 "_renewed", "_source", "_stream")  # fmt: skip

    def __init__(self, parts: Parts, stream: PositionStream, source: _Source) -> None:
        super().__init__(parts)
        self._stream = stream
        self._source = source
        self._redis: Any = None
        self._records: Records | None = None
        self._last: Id | None = None  # the last record that was put in
        self._is_told = False  # what comes is told, and not only put in
        self._failures = 0
        self._gone_at: float | None = None  # since when the owner or Redis is away
        self._renewed = 0.0
        self._hold: str | None = None  # the script of the lock, as the server calls it

    @property
    def is_ready(self) -> bool:
        """Whether it is what the owner knows."""
        return self._is_told and self._gone_at is None

    def _connect_and_reconnect(self, run: Run) -> None:
        from redis.exceptions import RedisError  # noqa: PLC0415 -- an extra

        self._records = Records(self._stream, self._parts_of_it)
        self._last, self._is_told, self._gone_at = None, False, None
        while not run.stopping:
            try:
                self._follow_records(run)
            except (RedisError, OSError) as error:
                self._away(run, error)
        self._leave()
        self._tell_end()

    def _follow_records(self, run: Run) -> None:
        """Read until it is to stop; raises what Redis does."""
        self._redis = connect(self._source.url)
        if self._source.group is not None and not self._wait_for_lock(run):
            return
        if self._last is None:
            self._begin(run)
        elif self._gone_at is not None:
            self._back()
        while not run.stopping:
            self._read(run)
            self._look_for_owner()
            if self._source.group is not None and not self._renew():
                self._last = None  # another has gone on
                return
'''+"" 
