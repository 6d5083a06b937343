"""A program that runs on a terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time

from tests.support.programs import ROOT


class Terminal:
    """`fastpos` with standard error on a terminal of 60 columns, and standard output in a pipe."""

    def __init__(self, words: tuple[str, ...], **environment: str) -> None:
        self._ours, self._theirs = pty.openpty()
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
        self.before = termios.tcgetattr(self._theirs)
        self.shown = ""
        self.process = subprocess.Popen(
            [sys.executable, "-u", "-m", "fastpos", *words],
            stdin=self._theirs,
            stdout=subprocess.PIPE,
            stderr=self._theirs,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )

    def read_until(self, pattern: str, timeout: float = 20) -> re.Match[str]:
        deadline = time.monotonic() + timeout
        while True:
            found = re.search(pattern, self.shown)
            if found is not None:
                return found
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern} did not come: {self.shown!r}"
            if select.select([self._ours], [], [], left)[0]:
                self.shown += os.read(self._ours, 65536).decode()

    def end(self) -> str:
        """Wait for its end; give what it printed to standard output."""
        printed, _ = self.process.communicate(timeout=20)
        while select.select([self._ours], [], [], 0)[0]:
            self.shown += os.read(self._ours, 65536).decode()
        assert termios.tcgetattr(self._theirs) == self.before
        return printed

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        os.close(self._ours)
        os.close(self._theirs)

    def screen(self) -> list[str]:
        """What stands on the terminal."""
        lines, column = [""], 0
        for character in self.shown:
            if character == "\n":
                lines.append("")
                column = 0
            elif character == "\r":
                column = 0
            else:
                assert character.isprintable(), repr(character)
                assert column < 59, "it would be wrapped"
                text = lines[-1].ljust(column)
                lines[-1] = text[:column] + character + text[column + 1 :]
                column += 1
        return [each.rstrip() for each in lines]
