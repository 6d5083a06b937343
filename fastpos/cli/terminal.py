"""A terminal: a line on it that says how it goes, and is written anew in its place; and writing.

Threads: any; `_lock` guards what is shown.
"""

from __future__ import annotations

import os
import select
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

__all__ = ["StatusLine", "how_far", "span", "write_all"]

# Where a terminal does not say how wide it is, characters.
WIDTH = 80
# From this part on it is said how long the rest may take.
KNOWN = 0.02


def write_all(descriptor: int, data: bytes) -> None:
    """Write data to a file descriptor, all of it; raises OSError."""
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(descriptor, left) :]
        except BlockingIOError:  # somebody has set it so
            select.select([], [descriptor], [])


def span(seconds: float) -> str:
    """Give how long something takes, in the two units that matter."""
    if seconds < 10:
        return f"{max(seconds, 0.0):.1f} s"
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02} m"
    return f"{whole // 86400} d {whole % 86400 // 3600:02} h"


def how_far(done: float, total: float, seconds: float) -> str:
    """Give how far something has come, how long that took, and how long the rest may take.

    Args:
        done, total: so much of so much.
        seconds: since it began.
    """
    part = min(max(done / total, 0.0), 1.0) if total else 1.0
    text = f"{part:.0%}, {span(seconds)}"
    if KNOWN <= part < 1:
        text += f", some {span(seconds / part - seconds)} to go"
    return text


class StatusLine:
    """The last line on standard error, where that is a terminal; elsewhere it is not shown.

    It is gone when its `with` block is left. A terminal that has gone is no reason to fail.
    """

    def __init__(self) -> None:
        self._file = sys.stderr
        self.is_shown: bool = self._file.isatty()
        """Whether there is a terminal."""
        self._lock = threading.Lock()
        self._text = ""

    def show(self, text: str) -> None:
        """Show this instead of what was shown, as much of it as there is room for; "": nothing."""
        if self.is_shown:
            with self._lock:
                old, self._text = self._text, text[: self._width() - 1]
                blank = f"\r{'':{len(old)}}\r" if len(old) > len(self._text) else "\r"
                self._write(blank + self._text)

    def write(self, text: str) -> None:
        """Write whole lines, above it."""
        with self._lock:
            self._write(self._erased() + text + self._text)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Have the line gone while something else is written to the same terminal."""
        with self._lock:
            if self._text:
                self._write(self._erased())
            try:
                yield
            finally:
                self._write(self._text)

    def flush(self) -> None:
        """Do nothing: all is written."""

    def __enter__(self) -> StatusLine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            if self._text:
                self._write(self._erased())
                self._text = ""

    def _erased(self) -> str:
        return f"\r{'':{len(self._text)}}\r" if self._text else ""

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self._file.fileno()).columns or WIDTH
        except (OSError, ValueError):
            return WIDTH

    def _write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)
            self._file.flush()
