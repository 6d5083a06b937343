"""A table that fits: which columns there is room for, and where they stand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from rich.text import Text

from .paint import Brush, Part, width_of

__all__ = ["Column", "table"]

T = TypeVar("T")
# From this width on columns stand further apart.
WIDE = 100
# Where there is room left, so far at the most.
APART = 4


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column.

    Args:
        title: stands above it.
        priority: where there is no room for all, those with the largest go first; 0 stays.
        cell: what stands in it of a row.
        left: whether it begins at the left; numbers end at the right.
        least: so wide at least, that it does not move with every digit.
        most: what is wider is cut.
    """

    title: str
    priority: int
    cell: Callable[[T, Brush], Part]
    left: bool = False
    least: int = 0
    most: int = 30


def table(
    columns: Sequence[Column[T]], rows: Sequence[T], width: int, brush: Brush
) -> tuple[Text, list[Text]]:
    """Give the line of titles and those of the rows, in so many columns as fit."""
    cells = {
        column.title: [_clean(column.cell(row, brush), brush) for row in rows]
        for column in sorted(columns, key=lambda each: each.priority)
    }
    widths = {
        column.title: max(
            column.least,
            width_of(column.title),
            *(min(width_of(cell.text), column.most) for cell in cells[column.title]),
            0,
        )
        for column in columns
    }
    gap = 1 if width < WIDE else 2
    shown = _that_fit(columns, widths, width, gap)
    if len(shown) > 2:
        taken = sum(widths[column.title] for column in shown) + 1
        gap = min(max((width - taken) // (len(shown) - 2), gap), APART)
    titles = [Part(column.title, "head") for column in shown]
    return _row(shown, titles, widths, gap, width, brush), [
        _row(shown, [cells[c.title][n] for c in shown], widths, gap, width, brush)
        for n in range(len(rows))
    ]


def _clean(cell: Part, brush: Brush) -> Part:
    """Make a cell fit to be shown: what the wire said stands in it as it came."""
    return Part(brush.clean(cell.text), cell.style)


def _that_fit(
    columns: Sequence[Column[T]], widths: dict[str, int], width: int, gap: int
) -> list[Column[T]]:
    fitting: set[str] = set()
    left = width + gap
    for column in sorted(columns, key=lambda each: each.priority):
        takes = widths[column.title] + gap
        if takes <= left or column.priority == 0:
            fitting.add(column.title)
            left -= takes
    return [column for column in columns if column.title in fitting]


def _row(
    columns: Sequence[Column[T]],
    cells: Sequence[Part],
    widths: dict[str, int],
    gap: int,
    width: int,
    brush: Brush,
) -> Text:
    parts: list[Part] = []
    for number, (column, cell) in enumerate(zip(columns, cells, strict=True)):
        if number:  # the first one is a sign of the second
            parts.append(Part(" " * (1 if number == 1 else gap)))
        room = widths[column.title]
        text = cell.text
        if width_of(text) > room:
            text = brush.fit(Text(text), room).plain
        space = Part(" " * (room - width_of(text)))
        here = Part(text, cell.style)
        parts += [here, space] if column.left else [space, here]
    return brush.fit(brush.line(*parts), width)
