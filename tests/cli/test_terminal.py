"""The line that says how far something has come: on a terminal, and nowhere else."""

from __future__ import annotations

import io
import sys

import pytest

from fastpos.cli.terminal import StatusLine, how_far


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("done", "total", "seconds", "text"),
    [
        (0, 10, 0.0, "0%, 0.0 s"),
        (1, 100, 5.0, "1%, 5.0 s"),  # too little to tell from
        (25, 100, 30.0, "25%, 30 s, some 1 m 30 s to go"),
        (100, 100, 60.0, "100%, 1 m 00 s"),
        (7, 5, 60.0, "100%, 1 m 00 s"),
        (0, 0, 1.0, "100%, 1.0 s"),
    ],
)
def test_how_far_it_has_come(done: float, total: float, seconds: float, text: str) -> None:
    assert how_far(done, total, seconds) == text


def test_what_is_printed_meanwhile_stands_on_lines_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with StatusLine() as status:
        status.show("trial 1 of 9")
        with status.aside():
            terminal.write("good reset\n")
        status.show("end")
    lines = [line.split("\r")[-1] for line in terminal.getvalue().split("\n")]
    assert lines == ["good reset", ""]
    assert terminal.getvalue().split("\n")[1].startswith("trial 1 of 9\r")


def test_piped_nothing_is_added(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with StatusLine() as status:
        status.show("trial 1 of 9")
        with status.aside():
            print("good reset")
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("good reset\n", "")
