"""What became of each event: the numbers that were sent, held against the numbers that came.

An event is *sent on a connection* when the exchange put it there while that was subscribed. What
of it arrives depends on the connection's end:

- on a connection that lives, and on one that the server ends in order, all of it;
- on one that breaks, all of it up to some event: the rest is lost in the network, and nobody can
  know how far it got. Never is one missing before another that came.

An event that happened while no connection was subscribed was sent on none. The exchange repeats
nothing, so it is lost to every client.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

__all__ = ["Ledger"]


class Ledger:
    """The numbers of the events, on which connections each was sent.

    `_lock` guards it all: one thread sends, others ask.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._on: dict[int, list[int]] = {}
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
                self._on.setdefault(connection, []).append(self._count)
            return self._count

    def problems(self, sessions: list[list[int]], *, all_arrives: bool) -> list[str]:
        """Say what is wrong with what came; nothing, if all is as the top of this file says.

        Args:
            sessions: the numbers that came after each of the client's subscriptions.
            all_arrives: every connection was ended in order, or lives, and what was sent on it
                has had the time to arrive.
        """
        with self._lock:
            sent = dict(sorted(self._on.items()))
        found: list[str] = []
        numbers = [number for session in sessions for number in session]
        if len(numbers) != len(set(numbers)):
            doubled = sorted({number for number in numbers if numbers.count(number) > 1})
            found.append(f"delivered twice: {doubled}")
        for position, session in enumerate(sessions):
            whole = all_arrives or position == len(sessions) - 1
            # A later subscription is on a later connection. One whose answer the client never saw
            # is passed over, and its events are of the outage.
            matching = [
                connection
                for connection, there in sent.items()
                if there[: len(session)] == session and (there == session or not whole)
            ]
            if matching:
                passed_over = [c for c in sent if c < matching[0]]
                sent = {c: there for c, there in sent.items() if c > matching[0]}
            else:
                passed_over = []
                found.append(f"subscription {position + 1}: sent {sent}, came {session}")
            if all_arrives and passed_over:
                found.append(f"nothing came of what was sent on connections {passed_over}")
        if all_arrives and sent and not found:
            found.append(f"nothing came of what was sent on connections {list(sent)}")
        return found
