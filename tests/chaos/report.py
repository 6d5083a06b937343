"""What the trials gave, as a table: one row for each fault, the worst of all its trials."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from tests.chaos.faults import FAULTS, Seen
from tests.chaos.trial import Outcome

MARKS = ("<!-- faults -->", "<!-- /faults -->")
HEAD = (
    "| fault | the stream says | noticed in | first retry in | back in "
    "| events | not sent | broken off |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|"
)
# So many different texts are shown of a fault that shows in several; else the first.
SHOWN_REASONS = 3


def table(outcomes: list[Outcome]) -> str:
    """Make the table; faults without an outcome are left out."""
    rows = [HEAD]
    for name in dict.fromkeys(fault.name for fault in FAULTS):
        if of_it := [outcome for outcome in outcomes if outcome.fault.name == name]:
            rows.append(_row(name, of_it))
    return "\n".join(rows)


def _row(name: str, outcomes: list[Outcome]) -> str:
    cases = dict.fromkeys(fault.case for fault in FAULTS if fault.name == name and fault.case)
    noticed = _worst(outcome.noticed_in for outcome in outcomes)
    if noticed:
        noticed += f" of {max(outcome.fault.within for outcome in outcomes):g} s"
    cells = [
        f"{name} ({', '.join(cases)})" if cases else name,
        _reasons(outcomes),
        noticed,
        _worst(outcome.retried_in for outcome in outcomes),
        _worst(outcome.back_in for outcome in outcomes),
        str(sum(outcome.events for outcome in outcomes)),
        str(sum(outcome.unsent for outcome in outcomes)),
        str(sum(outcome.broken_off for outcome in outcomes)),
    ]
    return f"| {' | '.join(cells)} |"


def _worst(values: Iterable[float | None]) -> str:
    there = [value for value in values if value is not None]
    if not there:
        return ""
    worst = max(there)
    return f"{worst:.2f} s" if worst >= 0.1 else f"{max(worst * 1e3, 1):.0f} ms"


def _reasons(outcomes: list[Outcome]) -> str:
    if outcomes[0].fault.seen is Seen.NOT:
        return "nothing, and keeps the connection"
    # The port is another one each time, and says nothing.
    texts = sorted({re.sub(r"localhost:\d+", "HOST", outcome.reason) for outcome in outcomes})
    if len(texts) > SHOWN_REASONS:
        return f"`{texts[0]}`, …"
    return ", ".join(f"`{text}`" for text in texts)


def put_into(readme: Path, text: str) -> None:
    """Write `text` between the marks.

    Raises:
        ValueError: they are not there.
    """
    before, start, rest = readme.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise ValueError(f"{readme} has no {' … '.join(MARKS)}")
    readme.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")
