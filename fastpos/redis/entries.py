"""`Entries`: the connection to Redis, and what an owner has published of an account there.

An entry of the stream is a record of the owner's, and its id tells which (scripts.py). What is read
is given as it stands there; what follows from it is following.py's matter.

Threads: all is the reader's, but for `cut`, by which the ping thread has it see that the connection
is over: with `only_waiting`, where it waits for entries and for nothing else (`_is_waiting`).
`cut` sets `is_cut`, and the reader takes it back.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from ..journal.format import PUSH, parse, time_of
from ..journal.reader import Record
from .connecting import connect
from .scripts import Keys

__all__ = ["COUNT", "NO_ID", "Entries", "Entry", "Id", "fields_of", "id_of", "record_of", "text_of"]

# So many entries are read at once.
COUNT = 500
# A read waits so long for something to come, milliseconds; and Redis for an answer, seconds.
BLOCK, ANSWER = 1000, 3.0

_PUSH_MARK = b',"kind":"push","json":'

Id = tuple[int, int]
NO_ID: Id = 0, -1
"""Before all records."""
Entry = tuple[bytes, dict[bytes, bytes]]
"""An id as Redis has it, and fields; none where they are kept no more."""


def id_of(raw: bytes) -> Id:
    """Take an id apart."""
    epoch, _, sequence = raw.partition(b"-")
    return int(epoch), int(sequence)


def text_of(id: Id) -> str:
    """Give the id for Redis; one before the first of an epoch is that of the last before it."""
    epoch, sequence = id
    if sequence < 0:
        return f"{epoch - 1}-{2**64 - 1}" if epoch else "0-0"
    return f"{epoch}-{sequence}"


def fields_of(flat: list[bytes] | None) -> dict[bytes, bytes]:
    """Give an entry's fields as redis-py does; none where it is kept no more."""
    return dict(zip(flat[::2], flat[1::2], strict=True)) if flat else {}


def record_of(name: str, values: dict[bytes, bytes]) -> Record:
    """Take a record apart; raises ValueError or KeyError where it is none."""
    line = values[b"record"]
    head, found, rest = line.partition(_PUSH_MARK)
    if found:
        return Record(time_of(head), name, int(head.rpartition(b":")[2]), PUSH, rest[:-1], {})
    (ns, _, connection), kind, text, more = parse(line + b"\n")
    return Record(ns, name, connection, kind, text, more)


class Entries:
    """An account's, read over one connection; what Redis raises comes through.

    Args:
        url: of the server.
        keys: the account's.
    """

    def __init__(self, url: str, keys: Keys) -> None:
        self._url = url
        self.keys = keys
        self.redis: Any = None
        """The client, which has one connection; None: there is none."""
        self.is_cut: bool = False
        """Whether `cut` has ended the present connection."""
        self._is_waiting = False

    def connect(self, timeout: float | None = None) -> None:
        """Connect; an answer may take `timeout` seconds, None: `ANSWER`."""
        client: Any = connect(self._url, ANSWER if timeout is None else timeout)
        self.redis = client.client()
        self.is_cut = False

    def disconnect(self) -> None:
        """Close the connection, if there is one."""
        redis, self.redis = self.redis, None
        if redis is not None:
            with suppress(Exception):
                redis.close()
            with suppress(Exception):
                redis.connection_pool.disconnect()

    def end(self) -> Id:
        """The last there is."""
        found = self.redis.xrevrange(self.keys.events, count=1)
        return id_of(found[0][0]) if found else NO_ID

    def has(self, id: Id) -> bool:
        """Whether it is there."""
        return bool(self.redis.xrange(self.keys.events, text_of(id), text_of(id)))

    def owners_epoch(self) -> int | None:
        """Give the epoch of who publishes; None: nobody does."""
        found = self.redis.get(self.keys.owner)
        return None if found is None else int(found.partition(b" ")[0])

    def since_state(self, end: Id) -> Iterator[tuple[Id, dict[bytes, bytes]]]:
        """Give those from the last state up to `end`; all there are, where there is none."""
        key, begin, before = self.keys.events, "-", text_of(end)
        while found := self.redis.xrevrange(key, max=before, count=COUNT):
            state = next((id for id, values in found if values.get(b"kind") == b"state"), None)
            if state is not None:
                begin = state.decode()
                break
            before = f"({found[-1][0].decode()}"
        while found := self.redis.xrange(key, min=begin, max=text_of(end), count=COUNT):
            for id, values in found:
                yield id_of(id), values
            begin = f"({found[-1][0].decode()}"

    def wait_after(self, id: Id, is_over: Callable[[], bool], count: int = COUNT) -> list[Entry]:
        """Wait for what comes after `id`, for a second at the most; `cut` ends it.

        Args:
            id: the last that is known.
            is_over: whether nobody wants it any more.
            count: give so many at the most.
        """
        self._is_waiting = True
        try:
            if is_over():
                return []
            answer = self.redis.xread({self.keys.events: text_of(id)}, count=count, block=BLOCK)
        finally:
            self._is_waiting = False
        return answer[0][1] if answer else []

    def cut(self, only_waiting: bool = False) -> None:
        """Have the reader, which waits for Redis, see that the connection is over."""
        if only_waiting and not self._is_waiting:
            return
        self.is_cut = True
        with suppress(Exception):
            # Not as a TLS socket's: the reader is in it.
            socket.socket.shutdown(self.redis.connection._sock, socket.SHUT_RDWR)
