"""The whole screen: of what is known, the time and the terminal's size a renderable, and no more.

The header stands on top. Below it are bands of sections, side by side where it is wide. Of the
lines each band gets first its title, then what makes it useful, then all it wants, the most
important first; the events get the rest.
"""

from __future__ import annotations

from collections.abc import Sequence

from rich.text import Text

from .header import header
from .known import Known
from .paint import Brush, joined
from .sections import Section, sections

__all__ = ["heights", "screen"]

# From this width on sections stand side by side, so far apart.
SIDE_BY_SIDE, BETWEEN = 150, 3

Band = Sequence[tuple[Section, int]]
"""Sections that stand side by side, each with its share of the width, percent."""


def screen(known: Known, now_ns: int, width: int, height: int, brush: Brush) -> Text:
    """Give what is shown: at most `height` lines of at most `width` columns.

    Args:
        known: what is known.
        now_ns: the time, nanoseconds since the epoch.
        width, height: of the terminal, columns and lines.
        brush: with or without what is not ASCII.
    """
    lines = header(known, now_ns, width, brush)[:height]
    by_name = sections(known, now_ns)
    bands: list[Band] = [[(section, 100)] for section in by_name.values()]
    if width >= SIDE_BY_SIDE:
        bands = [
            [(by_name["positions"], 100)],
            [(by_name["orders"], 58), (by_name["triggers"], 42)],
            [(by_name["events"], 58), (by_name["balances"], 42)],
        ]
    shares, has_room = heights(bands, height - len(lines))
    for band, share in zip(bands, shares, strict=True):
        if has_room:
            lines.append(brush.line())
        lines += _band(band, width, share, brush)
    return joined(lines)


def heights(bands: Sequence[Band], room: int) -> tuple[list[int], bool]:
    """Say how many lines each band gets, and whether there is room for an empty one before each."""
    shares = [0] * len(bands)

    def give(number: int, lines: int) -> None:
        nonlocal room
        more = min(max(lines - shares[number], 0), room)
        shares[number] += more
        room -= more

    for number in range(len(bands)):
        give(number, 1)
    for number, band in enumerate(bands):
        least = max(section.least for section, _ in band)
        if least - shares[number] <= room:  # less is of no use
            give(number, least)
    for number, band in enumerate(bands):
        give(number, max(section.wanted for section, _ in band))
    has_room = room >= len(bands)
    shares[-1] += room - len(bands) * has_room
    return shares, has_room


def _band(band: Band, width: int, height: int, brush: Brush) -> list[Text]:
    room = width - BETWEEN * (len(band) - 1)
    widths = [room * share // 100 for _, share in band]
    widths[-1] = room - sum(widths[:-1])
    columns = [
        section.draw(each, height, brush)[:height]
        for (section, _), each in zip(band, widths, strict=True)
    ]
    lines = []
    for number in range(max(map(len, columns))):
        line = brush.line()
        end = 0
        for column, each in zip(columns, widths, strict=True):
            if end:
                end += BETWEEN
                line.append(" " * (end - line.cell_len))
            if number < len(column):
                line.append_text(column[number])
            end += each
        lines.append(line)
    return lines
