"""The figures of a results.md, looked up by table, row and column."""

from __future__ import annotations

import re

__all__ = ["Missing", "Results"]


class Missing(Exception):
    """A measured figure is not in results.md; the message says which, and how to get it."""


class Results:
    """The tables of a results.md."""

    def __init__(self, text: str) -> None:
        self._tables: dict[str, dict[str, dict[str, str]]] = {}
        for section in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
            title, _, rest = section.partition("\n")
            lines = [line for line in rest.splitlines() if line.startswith("|")]
            cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
            if len(cells) > 2:
                columns, _, *rows = cells
                self._tables[title.strip()] = {
                    row[0]: dict(zip(columns, row, strict=True)) for row in rows
                }

    def title(self, group: str, pattern: str) -> str:
        """Give the whole title of a table; raises `Missing` as `figure` does."""
        found = [name for name in self._tables if re.fullmatch(pattern, name)]
        if len(found) != 1:
            raise Missing(f"there are {len(found)} tables {pattern!r}, not one{_again(group)}")
        return found[0]

    def figure(self, group: str, pattern: str, row: str, column: str) -> float:
        """Give a cell's number.

        Args:
            group: the benchmark that measures it, for the message.
            pattern: the table's title, as a regular expression.
            row, column: its names.

        Raises:
            Missing: it is not there, or no number.
        """
        title = self.title(group, pattern)
        rows = self._tables[title]
        if row not in rows:
            raise Missing(f"the table {title!r} has no row {row!r}{_again(group)}")
        if column not in rows[row]:
            raise Missing(f"the table {title!r} has no column {column!r}{_again(group)}")
        text = rows[row][column]
        try:
            return float(text.replace(",", ""))
        except ValueError:
            what = f"{title!r}, {row!r}, {column!r}: {text!r} is no number"
            raise Missing(f"{what}{_again(group)}") from None


def _again(group: str) -> str:
    return f": python -m benchmarks.report --update {group}"
