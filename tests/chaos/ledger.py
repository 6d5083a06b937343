"""Which numbered events were sent where; tests/support/ledger.py compares them with what came."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tests.support.ledger import Ranges, compare, note, noted

__all__ = ["Ledger"]


class Ledger:
    """The numbers of the events, on which connections each was sent.

    `_lock` guards it all: one thread sends, others ask.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: dict[int, Ranges] = {}
        self._count = 0
        self._unsent = 0

    @property
    def count(self) -> int:
        """How many events happened; they are numbered from 1."""
        with self._lock:
            return self._count

    @property
    def unsent(self) -> int:
        """How many of them were sent on no connection."""
        with self._lock:
            return self._unsent

    def next(self, connections: Sequence[int]) -> int:
        """Give the number of an event that is sent on these connections now, perhaps on none."""
        with self._lock:
            self._count += 1
            self._unsent += not connections
            for connection in connections:
                note(self._on.setdefault(connection, []), self._count)
            return self._count

    def problems(self, sessions: list[list[int]], *, all_arrives: bool) -> list[str]:
        """Say what is wrong with what came.

        Args:
            sessions: the numbers that came after each of the client's subscriptions, of which the
                last one lives.
            all_arrives: every connection was ended in order, or lives, and what was sent on it
                has had the time to arrive.
        """
        with self._lock:
            sent = [(ranges, all_arrives) for _, ranges in sorted(self._on.items())]
        last = len(sessions) - 1
        return compare([(noted(numbers), at == last) for at, numbers in enumerate(sessions)], sent)
