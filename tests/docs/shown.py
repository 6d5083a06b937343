"""What a page shows as output, compared with what came.

It is compared to the letter, but for what differs in each run: times of day, dates, nanoseconds
since the epoch, numbers of seconds and milliseconds, ports, addresses of objects. A `…` stands for
anything on its line, and a line that is nothing but `…` for any number of lines.
"""

from __future__ import annotations

import re

__all__ = ["pattern_of"]

_DIFFERS = re.compile(
    r"(?P<time>\b\d\d:\d\d:\d\d(?:[.,]\d+)?)"
    r"|(?P<date>\b\d{4}-\d\d-\d\d\b)"
    r"|(?P<nanoseconds>\b\d{19}\b)"
    r"|(?P<duration>\b\d+(?:\.\d+)?(?= m?s\b))"
    r"|(?P<port>(?<=127\.0\.0\.1:)\d+|(?<=localhost:)\d+)"
    r"|(?P<address>\b0x[0-9a-f]+\b)"
    r"|(?P<anything>…)"
)
_FORMS = {
    "time": r"\d\d:\d\d:\d\d(?:[.,]\d+)?",
    "date": r"\d{4}-\d\d-\d\d",
    "nanoseconds": r"\d{19}",
    "duration": r"\d+(?:\.\d+)?",
    "port": r"\d+",
    "address": r"0x[0-9a-f]+",
    "anything": r"[^\n]*?",
}


def _line(text: str) -> str:
    pattern, at = "", 0
    for found in _DIFFERS.finditer(text):
        pattern += re.escape(text[at : found.start()]) + _FORMS[str(found.lastgroup)]
        at = found.end()
    return pattern + re.escape(text[at:]) + r"[ ]*\n"


def pattern_of(shown: str) -> re.Pattern[str]:
    """Give what the output must match that is shown so, from its first line on."""
    lines = shown.rstrip("\n").split("\n") if shown.strip() else []
    return re.compile(
        "".join(
            r"(?:[^\n]*\n)*?" if line.strip() == "…" else _line(line.rstrip()) for line in lines
        )
    )
