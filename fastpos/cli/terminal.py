"""A line on a terminal that says how it goes, and is written anew in its place.

Threads: any; `_lock` guards what is shown.
"""

from __future__ import annotations

import os
import sys
import threading
from contextlib import suppress
from types import TracebackType

__all__ = ["StatusLine"]

# Where a terminal does not say how wide it is, characters.
WIDTH = 80


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
        """Show this instead of what was shown, as much of it as there is room for."""
        if self.is_shown:
            with self._lock:
                old, self._text = self._text, text[: self._width() - 1]
                self._write("\r" + self._text.ljust(len(old)))

    def write(self, text: str) -> None:
        """Write whole lines, above it."""
        with self._lock:
            self._write(self._erased() + text + self._text)

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
