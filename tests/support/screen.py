"""`fastpos` on a terminal, with all that is typed and shown: its own session, a size, a screen."""

from __future__ import annotations

import codecs
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType
from typing import Any

from tests.support.programs import ROOT

# What a program may say to the terminal. Anything else fails the test: nobody else may speak to it.
_SAID = re.compile(
    r"\x1b\[\?(?P<mode>1049|25|7)(?P<switch>[hl])"
    r"|\x1b\[(?P<row>\d+);(?P<column>\d+)H"
    r"|\x1b\[(?P<style>[\d;]*)m"
    r"|\x1b\[(?P<erase>2J|K)"
    r"|(?P<text>[^\x00-\x1f\x7f]+)"
    r"|(?P<control>[\r\n])"
)

# Has the terminal be the one that the session's Ctrl-C comes from, and becomes the program.
_CONTROL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
    "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])"
)


class Emulator:
    """A terminal's screens, as far as they are used."""

    def __init__(self, columns: int, lines: int) -> None:
        self.columns, self.lines = columns, lines
        self.next = columns, lines
        """Its size, from the next time on that all is drawn anew."""
        self.modes = {"1049": False, "25": True, "7": True}
        self.styles: set[str] = set()
        """What was asked for with SGR."""
        self._screens: dict[bool, dict[int, str]] = {False: {}, True: {}}
        self._at = {False: (1, 1), True: (1, 1)}

    @property
    def is_sane(self) -> bool:
        """Whether it is as a shell wants it: its own screen, a cursor, lines that wrap."""
        return self.modes == {"1049": False, "25": True, "7": True}

    @property
    def is_other(self) -> bool:
        """Whether the other screen is shown."""
        return self.modes["1049"]

    def show(self, data: str) -> str:
        """Take what was said; give what is not whole yet."""
        at = 0
        while at < len(data):
            found = _SAID.match(data, at)
            if found is None:
                is_begun = data[at] == "\x1b" and len(data) - at < 12
                assert is_begun, repr(data[at : at + 40])
                break
            self._take(found)
            at = found.end()
        return data[at:]

    def _take(self, found: re.Match[str]) -> None:
        screen = self._screens[self.is_other]
        row, column = self._at[self.is_other]
        if found["mode"]:
            self.modes[found["mode"]] = found["switch"] == "h"
            return
        if found["row"]:
            row, column = int(found["row"]), int(found["column"])
        elif found["style"] is not None:
            self.styles.add(found["style"])
        elif found["erase"] == "2J":
            screen.clear()
            self.columns, self.lines = self.next
        elif found["erase"]:
            screen[row] = screen.get(row, "")[: column - 1]
        elif found["control"] == "\r":
            column = 1
        elif found["control"]:
            row += 1
        else:
            text = found["text"]
            line = screen.get(row, "").ljust(column - 1)
            screen[row] = line[: column - 1] + text + line[column - 1 + len(text) :]
            column += len(text)
            if self.is_other:
                assert len(screen[row]) <= self.columns, screen[row]
                assert row <= self.lines, (row, text)
        self._at[self.is_other] = row, column

    def text(self) -> str:
        """Give what stands on the screen that is shown."""
        screen = self._screens[self.is_other]
        return "\n".join(screen.get(n, "").rstrip() for n in range(1, max(screen, default=0) + 1))


class ScreenProgram:
    """A program on a terminal of its own, which it controls. Killed in the end.

    Args:
        words: `fastpos`' words, or what stands after -c.
        columns, lines: the terminal's size.
        environment: of the program, beside ours; None takes a name out.
    """

    def __init__(
        self, *words: str, columns: int = 80, lines: int = 24, **environment: str | None
    ) -> None:
        self.emulator = Emulator(columns, lines)
        self._ours, self._theirs = pty.openpty()
        self.resize(columns, lines)
        self.before = termios.tcgetattr(self._theirs)
        usual = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "PYTHONPATH": str(ROOT)}
        merged: dict[str, Any] = {**os.environ, **usual, "LC_ALL": None, "LC_CTYPE": None}
        merged |= {"NO_COLOR": None, "COLORTERM": None, **environment}
        script = words[0] == "-c"
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CONTROL, *(() if script else ("-m", "fastpos")), *words],
            stdin=self._theirs,
            stdout=self._theirs,
            stderr=self._theirs,
            env={name: value for name, value in merged.items() if value is not None},
            start_new_session=True,
        )
        self.raw = ""
        self._data = ""  # has been read and not shown
        self._rest = ""  # begins something that is not whole
        self._decoder = codecs.getincrementaldecoder("utf-8")()

    def resize(self, columns: int, lines: int) -> None:
        self.emulator.next = columns, lines
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def read_until(self, *patterns: str, timeout: float = 20) -> str:
        """Read until all of them stand on the screen; give what stands there."""
        deadline = time.monotonic() + timeout
        while not all(re.search(each, self.emulator.text()) for each in patterns):
            left = deadline - time.monotonic()
            assert left > 0, f"{patterns} did not come:\n{self.emulator.text()}"
            self._read(left)
        return self.emulator.text()

    def _read(self, timeout: float) -> None:
        """Take what comes, but not more than is seen of one screen, before another is shown."""
        if not self._data and select.select([self._ours], [], [], timeout)[0]:
            self._data = self._decoder.decode(os.read(self._ours, 1024))
            self.raw += self._data
        at = self._data.find("\x1b[?1049", 1)
        some = self._data if at < 0 else self._data[:at]
        self._data = self._data[len(some) :]
        self._rest = self.emulator.show(self._rest + some)

    def end(self, timeout: float = 20) -> int:
        """Wait for its end; it must have left the terminal as it was. Give its exit status."""
        deadline = time.monotonic() + timeout
        while (
            self.process.poll() is None or self._data or select.select([self._ours], [], [], 0)[0]
        ):
            assert time.monotonic() < deadline, self.emulator.text()
            self._read(0.05)
        assert self.emulator.is_sane, self.emulator.modes
        assert termios.tcgetattr(self._theirs) == self.before
        return self.process.returncode

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def __enter__(self) -> ScreenProgram:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self._ours)
        os.close(self._theirs)
