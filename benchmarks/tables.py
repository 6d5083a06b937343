"""Groups as text for a terminal and as Markdown."""

from benchmarks.results import Group

__all__ = ["as_markdown", "as_text"]


def as_text(group: Group) -> str:
    titles, lines = group.table()
    widths = [max(map(len, column)) for column in zip(titles, *lines, strict=True)]
    text = [
        cells[0].ljust(widths[0])
        + "".join(
            "  " + cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)
        )
        for cells in (titles, *lines)
    ]
    return "\n".join([*text, *group.notes()])


def as_markdown(group: Group) -> str:
    titles, lines = group.table()
    rule = ["---", *("---:" for _ in titles[1:])]
    table = "\n".join("| " + " | ".join(cells) + " |" for cells in (titles, rule, *lines))
    notes = "\n".join(f"- {note}" for note in group.notes())
    return f"## {group.title}\n\n{table}\n" + (f"\n{notes}\n" if notes else "")
