"""Which process a stream runs in: `os.fork()` gives the child a copy that must not be used.

The child has no reader and no ping thread, locks that those held are held for ever there, and the
socket is the parent's: a close frame from the child would end the parent's connection.
"""

from __future__ import annotations

import os

__all__ = ["Forked", "OwnerProcess"]


class Forked(BaseException):
    """This is a copy of the reader, in a child that was forked in a callback."""


class OwnerProcess:
    """The process in which a stream was started first. No lock: it is set once."""

    def __init__(self) -> None:
        self._pid: int | None = None

    def claim(self) -> None:
        """It is this process; raises RuntimeError if it was another."""
        self.check()
        self._pid = os.getpid()

    @property
    def is_another(self) -> bool:
        """Whether it is another process than this one."""
        return self._pid is not None and self._pid != os.getpid()

    def check(self) -> None:
        """Raise RuntimeError if it is another process than this one."""
        if self.is_another:
            raise RuntimeError(
                "the stream was started in another process, before os.fork(); "
                "make a stream of its own in this one"
            )
