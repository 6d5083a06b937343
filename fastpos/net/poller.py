"""Which of many sockets have something to read.

`selectors` tells it too. But it has the system make room for all sockets in each wait, and makes
something of its own of each that is ready, which takes as long as the rest of a turn of a loop.
So epoll is asked directly where there is one. `gevent` takes it out of `select` when it patches,
and puts a selector of its own in the other's place.
"""

from __future__ import annotations

import select
import selectors
import sys
from contextlib import suppress
from typing import Any, Generic, TypeVar

__all__ = ["Poller"]

T = TypeVar("T")

# Where there is nothing better than select(): so many sockets on Windows, and elsewhere none of a
# higher number.
SELECT_LIMIT = 500 if sys.platform == "win32" else 1024
# So many are told of at once; the others come first the next time.
AT_ONCE = 256


class Poller(Generic[T]):
    """Tells of sockets by what they were watched for. It belongs to one thread."""

    def __init__(self) -> None:
        self._watched: dict[int, T] = {}
        new_epoll = getattr(select, "epoll", None)
        self._epoll: Any = None if new_epoll is None else new_epoll()
        self._selector: Any = None if self._epoll else selectors.DefaultSelector()

    def watch(self, descriptor: int, whose: T) -> None:
        """Have `wait` give `whose` while that socket has something to read.

        Raises:
            OSError, ValueError: the system takes no more.
        """
        if self._epoll:
            self._epoll.register(descriptor, select.EPOLLIN)
        else:
            number = len(self._watched) if sys.platform == "win32" else descriptor
            if number >= SELECT_LIMIT and type(self._selector) is selectors.SelectSelector:
                raise OSError(f"select() takes no more than {SELECT_LIMIT} sockets")
            self._selector.register(descriptor, selectors.EVENT_READ)
        self._watched[descriptor] = whose

    def forget(self, descriptor: int) -> None:
        """Watch that socket no more, if it is watched; it may be closed already."""
        if descriptor in self._watched:
            del self._watched[descriptor]
            with suppress(KeyError, OSError, ValueError):
                (self._epoll or self._selector).unregister(descriptor)

    def wait(self, seconds: float) -> list[T]:
        """Wait so long at most; give whose sockets have something to read, or were ended."""
        watched = self._watched
        if self._epoll:
            ready = self._epoll.poll(seconds, AT_ONCE)
            return [watched[descriptor] for descriptor, _ in ready if descriptor in watched]
        return [watched[key.fd] for key, _ in self._selector.select(seconds)]

    def close(self) -> None:
        """Give it back to the system."""
        (self._epoll or self._selector).close()
