"""`Member`: a group's member that reads an account, and what was told and is to be acknowledged.

ONE READS AT A TIME

Members of a group share the work, but one account's order would be lost if two read it. So the one
that reads holds a lock: a key with its name, which expires after `LOCK` seconds and is taken again
in time. The script that reads for the group renews it, and reads nothing if another has it.

WHAT IS NOT ACKNOWLEDGED

Redis keeps what was given to a member until that has acknowledged it. Who gets the lock claims all
of that, from whatever member, and has it given first, so that nothing is passed over and the order
is kept. A group that Redis has lost is made again where this member was.

Threads: all is the reader's.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from ..clock import monotonic
from .entries import COUNT, NO_ID, Entries, Entry, Id, fields_of, id_of, text_of
from .scripts import HOLD, LET_GO, PRUNE, READ

__all__ = ["Member"]

# The lock lasts so long, seconds, and is taken again so often.
LOCK, RENEWAL = 5.0, 1.5


class Member:
    """What is a group's matter; what Redis raises comes through.

    Args:
        entries: the account's.
        group: the group's name.
        consumer: the member's in it; None: host and process.
    """

    def __init__(self, entries: Entries, group: str, consumer: str | None) -> None:
        self._entries = entries
        self._group = group
        self._consumer = consumer or f"{socket.gethostname()}:{os.getpid()}"
        self._lock_key = f"{entries.keys.events}:{group}"
        self._who = ""  # holds the lock: each run is another
        self._lock_renewed = 0.0
        self._done: list[bytes] = []  # to be acknowledged
        self._has_pending = False  # some may be left that another member did not acknowledge
        self._is_awaited = False  # there is something new, which was not read yet
        self.gone: int = 0
        """How many records nobody acknowledged that are kept no more; whoever says so takes it
        back."""
        self.is_overtaken: bool = False
        """Whether somebody else of the group has read what this one has waited for."""

    def begin(self) -> None:
        """A run begins."""
        self._who = f"{self._consumer} {secrets.token_hex(8)}"
        self._done = []

    # --- the lock ---------------------------------------------------------------------------

    def hold(self) -> int:
        """Take the lock, or take it again: 2 if it was held, 1 if it is now, 0 if not."""
        self._lock_renewed = monotonic()
        redis = self._entries.redis
        return int(redis.eval(HOLD, 1, self._lock_key, self._who, int(LOCK * 1000)))

    @property
    def has_lock(self) -> bool:
        """Whether it is this one that reads."""
        return monotonic() - self._lock_renewed < RENEWAL or self.hold() == 2

    def leave(self, reconnect: Callable[[], None]) -> None:
        """Let others of the group go on at once; `reconnect` has a connection made that does not
        wait long: the present one may have been cut, and who stops it waits."""
        with suppress(Exception):
            reconnect()
            self.acknowledge()
            self._entries.redis.eval(LET_GO, 1, self._lock_key, self._who)

    # --- the group --------------------------------------------------------------------------

    def join(self, told: Id | None) -> bool:
        """Make the group where there is none, and take over what is not acknowledged.

        Args:
            told: the last that was told in this run, where a lost group goes on; None: nothing was.

        Returns:
            Whether Redis has lost all records, and others are there: the group begins with these.
        """
        from redis.exceptions import ResponseError  # noqa: PLC0415 -- an extra

        redis, key, group = self._entries.redis, self._entries.keys.events, self._group
        begin, is_lost = "$", False
        if told is not None:
            epoch = self._entries.owners_epoch()
            is_lost = epoch is not None and epoch < told[0]
            begin = text_of(NO_ID if is_lost else told)
        try:
            redis.xgroup_create(key, group, id=begin, mkstream=True)
        except ResponseError as error:
            if "BUSYGROUP" not in str(error):
                raise
            if is_lost:
                redis.xgroup_setid(key, group, begin)
        start: Any = b"0-0"
        while True:
            start, _, gone = redis.xautoclaim(key, group, self._consumer, 0, start, count=COUNT)
            # What was told here was only not acknowledged.
            self.gone += sum(told is None or id_of(id) > told for id in gone)
            if start in (b"0-0", "0-0"):
                break
        redis.eval(PRUNE, 1, key, group, self._consumer)  # or there would be more and more
        self._has_pending = True
        self._is_awaited = False
        return is_lost

    def end(self) -> Id:
        """The last record that the group has acknowledged: the one before all it has not."""
        redis, key = self._entries.redis, self._entries.keys.events
        pending = redis.xpending_range(key, self._group, "-", "+", 1)
        if pending:
            epoch, sequence = id_of(pending[0]["message_id"])
            return epoch, sequence - 1
        for each in redis.xinfo_groups(key):
            if each["name"] == self._group.encode():
                found = id_of(each["last-delivered-id"])
                return found if found[0] else NO_ID
        return self._entries.end()

    def read(self, last: Id, is_over: Callable[[], bool]) -> list[Entry] | None:
        """Give what the group has not acknowledged; None: another has the lock.

        Args:
            last: where this one is; it waits for what comes after that, for a second at the most.
            is_over: whether nobody wants it any more.
        """
        renewed = monotonic()
        self.is_overtaken = False
        answer = self._entries.redis.eval(
            READ, 2, self._lock_key, self._entries.keys.events, self._who, int(LOCK * 1000),
            self._group, self._consumer, "0" if self._has_pending else ">", COUNT,
        )  # fmt: skip
        if answer is None:
            return None
        self._lock_renewed = renewed
        if self._has_pending:
            self._has_pending = bool(answer)
        elif not answer and self._is_awaited:
            self.is_overtaken = True
        elif not answer:
            self._is_awaited = bool(self._entries.wait_after(last, is_over, count=1))
            return []
        self._is_awaited = False
        return [(id, fields_of(flat)) for id, flat in answer]

    def is_done_with(self, id: bytes) -> None:
        """The functions have returned from it, or it is to be passed over."""
        self._done.append(id)

    def forget(self) -> None:
        """Another may have read meanwhile: what this is done with is not its matter any more."""
        self._done = []

    def acknowledge(self) -> None:
        """Tell Redis of what this is done with."""
        if self._done:
            redis = self._entries.redis
            redis.xack(self._entries.keys.events, self._group, *self._done)
            self._done = []
