"""The command: every fault in so many rounds, each in an order of its own, then the table.

The table has one row for each fault: the worst of all its trials.
"""

from __future__ import annotations

import argparse
import logging
import platform
import random
import re
import shlex
import sys
import textwrap
import time
from collections.abc import Iterable
from pathlib import Path

from fastpos.cli.terminal import StatusLine, how_far
from fastpos.wire.inflate import inflater
from tests.chaos.faults import FAULTS, MARKS, Fault, Seen
from tests.chaos.settings import EVENTS_PER_S, SETTINGS
from tests.chaos.trial import Outcome, try_fault

HEAD = (
    "| fault | the stream says | noticed in | first retry in | back in "
    "| events | not sent | broken off |\n"
    "|---|---|---:|---:|---:|---:|---:|---:|"
)
# So many different texts are shown of a fault that shows in several; else the first.
SHOWN_REASONS = 3


def main() -> int:
    """Run what the command line says; give the exit status: 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Put faults into a stream's way, and measure what it makes of them.",
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="part of a fault's name")
    parser.add_argument("--seed", type=int, help="a random one unless told; it is printed")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument(
        "--fleet",
        type=int,
        nargs="?",
        const=50,
        default=1,
        metavar="N",
        help="have the stream be one of a fleet's N (50); the others must notice nothing",
    )
    parser.add_argument("--callback-threads", type=int, default=0, help="of the fleet")
    parser.add_argument("--page", type=Path, help="put the table in, if all went well")
    options = parser.parse_args()
    chosen = [f for f in FAULTS if any(w in f.id for w in options.faults or [""])]
    if not chosen:
        parser.error(f"no such fault; there are: {', '.join(sorted({f.name for f in FAULTS}))}")
    seed = random.randrange(10**6) if options.seed is None else options.seed

    began = time.monotonic()
    print(f"--seed {seed}", flush=True)
    with StatusLine() as status:
        # What is logged stands above the line.
        logging.basicConfig(handlers=[logging.StreamHandler(status)], format="%(message)s")
        progress = _Progress(status, options.rounds * len(chosen))
        outcomes = [
            outcome
            for number in range(options.rounds)
            for outcome in _round(
                progress, chosen, f"{seed} {number}", options.fleet, options.callback_threads
            )
        ]
    print(f"\n{table(outcomes)}\n")
    wrong = [outcome for outcome in outcomes if outcome.problems]
    print(f"{len(outcomes)} trials in {time.monotonic() - began:.0f} s, {len(wrong)} went wrong")
    if options.page is not None and not wrong:
        words = [f"--seed {seed}", f"--rounds {options.rounds}", *map(shlex.quote, options.faults)]
        words += [f"--fleet {options.fleet}"] if options.fleet > 1 else []
        command = f"python -m tests.chaos {' '.join(words)}"
        text = table(outcomes)
        put_into(options.page, f"{_settings(outcomes, command)}\n\n{text}")
        print(f"wrote {options.page}")
    return 1 if wrong else 0


class _Progress:
    """How far it has come: told on a terminal, before each trial."""

    def __init__(self, status: StatusLine, trials: int) -> None:
        self._status = status
        self._trials = trials
        self._begun = 0
        self._wrong = 0
        self._began = time.monotonic()

    def begin(self, fault: Fault) -> None:
        far = how_far(self._begun, self._trials, time.monotonic() - self._began)
        wrong = f", {self._wrong} went wrong" if self._wrong else ""
        self._begun += 1
        self._status.show(f"trial {self._begun} of {self._trials}, {far}{wrong}: {fault.id}")

    def end(self, outcome: Outcome) -> None:
        self._wrong += bool(outcome.problems)
        with self._status.aside():
            print(f"{'WRONG' if outcome.problems else 'good':5} {outcome.fault.id}", flush=True)
            for problem in outcome.problems:
                print(f"      {problem}", flush=True)


def _round(progress: _Progress, faults: list[Fault], seed: str, *driven: int) -> list[Outcome]:
    order = random.Random(seed).sample(faults, len(faults))
    outcomes = []
    for fault in order:
        progress.begin(fault)
        outcome = try_fault(fault, seed, *driven)
        outcomes.append(outcome)
        progress.end(outcome)
    return outcomes


def _settings(outcomes: list[Outcome], command: str) -> str:
    settings = ", ".join(f"`{name}={seconds:g}`" for name, seconds in SETTINGS.items())
    text = (
        f"The worst of {len(outcomes)} trials with {settings} and {EVENTS_PER_S} events a second, "
        f"on {platform.python_implementation()} {platform.python_version()}, {inflater}, "
        f"{platform.system()} {platform.machine()}:"
    )
    return f"{textwrap.fill(text, 100)} `{command}`."


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


def put_into(page: Path, text: str) -> None:
    """Write `text` between the marks.

    Raises:
        ValueError: they are not there.
    """
    before, start, rest = page.read_text(encoding="utf-8").partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not start or not end:
        raise ValueError(f"{page} has no {' … '.join(MARKS)}")
    page.write_text(f"{before}{start}\n\n{text}\n\n{end}{after}", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
