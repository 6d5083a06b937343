"""Colours and signs: what they mean, and what stands for them where a terminal has none.

Colour is never the only sign: what it says is said by a sign, a word or a symbol too. What the wire
said is made fit to be shown here, and put into `Text`, where no markup is looked for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.text import Text

from ...printable import printable

__all__ = [
    "CLOSE", "NEAR", "STALE", "STYLES", "UNKNOWN", "Brush", "Part", "joined", "spread", "width_of",
]  # fmt: skip

# Near liquidation, close to it, out of date, not sure.
NEAR, CLOSE, STALE, UNKNOWN = "!!", "!", "~", "?"

STYLES = {
    "": "",
    "profit": "green",
    "loss": "red",
    "danger": "bold reverse red",
    "warning": "yellow",
    "stale": "dim",
    "good": "bold reverse green",
    "waiting": "bold reverse yellow",
    "name": "bold",
    "head": "dim",
    "rule": "dim",
    "title": "bold cyan",
}
"""What a style is called here, and what it is to rich."""


class Part(NamedTuple):
    """A piece of a line."""

    text: str
    style: str = ""


class Brush:
    """Makes signs, with or without what is not ASCII.

    Args:
        is_ascii: whether the terminal shows nothing else.
    """

    def __init__(self, is_ascii: bool = False) -> None:
        self.is_ascii = is_ascii
        self.ellipsis = "..." if is_ascii else "…"
        self.rule = "-" if is_ascii else "─"
        self.on, self.off = ("*", "x") if is_ascii else ("●", "✖")
        self.waiting = "?" if is_ascii else "◌"
        self._full, self._empty = ("#", ".") if is_ascii else ("■", "□")

    def clean(self, value: Any, limit: int = 200) -> str:
        """Give whatever the wire said as text that a terminal shows, and does not obey."""
        text = printable(str(value), limit)
        if self.is_ascii and not text.isascii():
            text = text.replace("…", "...").encode("ascii", "backslashreplace").decode("ascii")
        return text

    def bar(self, part: float, length: int) -> str:
        """Give a bar of which so much is full; not empty where it is some, not full if not all."""
        full = round(part * length)
        if 0 < part < 1:
            full = min(max(full, 1), length - 1)
        return self._full * full + self._empty * (length - full)

    def fit(self, line: Text, width: int) -> Text:
        """Shorten a line to a width, and say so where it is."""
        if line.cell_len > width:
            if width > 2 * len(self.ellipsis):
                line.truncate(width - len(self.ellipsis), overflow="crop")
                line.append(self.ellipsis)
            else:
                line.truncate(max(width, 0), overflow="crop")
        return line

    def line(self, *parts: Part) -> Text:
        """Make a line."""
        line = Text(no_wrap=True, overflow="crop", end="")
        for part in parts:
            line.append(part.text, STYLES[part.style])
        return line


def joined(lines: list[Text]) -> Text:
    """Give lines as one text."""
    return Text("\n", end="", no_wrap=True, overflow="crop").join(lines)


def spread(left: Text, right: Text, width: int, brush: Brush) -> Text:
    """Put one text to the left and one to the right; the left one is shortened."""
    brush.fit(left, max(width - right.cell_len - 1, 0))
    left.append(" " * (width - left.cell_len - right.cell_len))
    return brush.fit(left.append_text(right), width)


def width_of(text: str) -> int:
    """Give how many columns a text takes."""
    return cell_len(text)
