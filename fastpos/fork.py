"""Which process a stream runs in: `os.fork()` gives the child a copy that must not be used.

The child has no reader and no ping thread, locks that those held are held for ever there, and the
socket is the parent's: a close frame from the child would end the parent's connection. Nor may the
events be told there that the parent tells, even those that were read already: a function of the
user's that forks returns into the library in both. So Python is asked to say when it has forked,
which costs nothing until it does.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Callable

__all__ = ["Forked", "OwnerProcess"]


class Forked(BaseException):
    """This is a copy of the reader, in a child that was forked in a callback."""


class OwnerProcess:
    """The process in which a stream was started first. No lock: it is set once."""

    __slots__ = ("__weakref__", "_pid", "in_child")

    def __init__(self) -> None:
        self._pid: int | None = None
        self.in_child: Callable[[], object] | None = None
        """Called in a child that was forked off this process, before anything else is done there
        (where the system has `os.fork`)."""

    def claim(self) -> None:
        """It is this process; raises RuntimeError if it was another."""
        self.check()
        self._pid = _process.pid
        _claimed.add(self)

    @property
    def is_another(self) -> bool:
        """Whether it is another process than this one."""
        return self._pid is not None and self._pid != _process.pid

    def check(self) -> None:
        """Raise RuntimeError if it is another process than this one."""
        if self.is_another:
            raise RuntimeError(
                "the stream was started in another process, before os.fork(); "
                "make a stream of its own in this one"
            )


class _Process:
    """This process. Asking the system for its number takes longer than all the rest of it."""

    def __init__(self) -> None:
        self.pid = os.getpid()


_process = _Process()
_claimed: weakref.WeakSet[OwnerProcess] = weakref.WeakSet()


def _forked() -> None:
    _process.pid = os.getpid()
    for owner in tuple(_claimed):
        if owner.in_child is not None:
            owner.in_child()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
