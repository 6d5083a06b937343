"""What others say, fit to be shown: in a message, a log record, on a terminal.

A server, a proxy or whatever answers in their place may say anything: escape sequences that move a
terminal's cursor, line breaks that forge log records, letters that are read from right to left, and
more of it than anybody wants to read. All that is shown of it goes through `printable`, after the
credentials were taken out.
"""

from __future__ import annotations

__all__ = ["LIMIT", "printable"]

LIMIT = 200
"""How much of a text is shown, characters."""


def printable(text: str, limit: int = LIMIT) -> str:
    """Give `text` on one line, with escapes like ``\\x1b`` for what is not printable.

    Args:
        text: whatever was said.
        limit: the most characters to give; where there are more, the last is an ellipsis.
    """
    shown = text[: limit + 1]
    if not shown.isprintable():
        shown = "".join([char if char.isprintable() else _escaped(char) for char in shown])
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
