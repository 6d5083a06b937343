"""The command: every fault in so many rounds, each in an order of its own, then the table."""

from __future__ import annotations

import argparse
import platform
import random
import shlex
import sys
import textwrap
import time
from pathlib import Path

from fastpos.wire.inflate import inflater
from tests.chaos.faults import FAULTS, Fault
from tests.chaos.report import put_into, table
from tests.chaos.rig import EVENTS_PER_S, SETTINGS
from tests.chaos.trial import Outcome, try_fault


def main() -> int:
    """Run what the command line says; give the exit status: 0 if nothing was wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description="Put faults into a stream's way, and measure what it makes of them.",
    )
    parser.add_argument("faults", nargs="*", metavar="FAULT", help="part of a fault's name")
    parser.add_argument("--seed", type=int, help="a random one unless told; it is printed")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--readme", type=Path, help="put the table in, if all went well")
    options = parser.parse_args()
    chosen = [f for f in FAULTS if any(w in f.id for w in options.faults or [""])]
    if not chosen:
        parser.error(f"no such fault; there are: {', '.join(sorted({f.name for f in FAULTS}))}")
    seed = random.randrange(10**6) if options.seed is None else options.seed

    began = time.monotonic()
    print(f"--seed {seed}", flush=True)
    outcomes = [
        outcome
        for number in range(options.rounds)
        for outcome in _round(chosen, f"{seed} {number}")
    ]
    print(f"\n{table(outcomes)}\n")
    wrong = [outcome for outcome in outcomes if outcome.problems]
    print(f"{len(outcomes)} trials in {time.monotonic() - began:.0f} s, {len(wrong)} went wrong")
    if options.readme is not None and not wrong:
        words = [f"--seed {seed}", f"--rounds {options.rounds}", *map(shlex.quote, options.faults)]
        command = f"python -m tests.chaos {' '.join(words)}"
        text = table(outcomes)
        put_into(options.readme, f"{_settings(outcomes, command)}\n\n{text}")
        print(f"wrote {options.readme}")
    return 1 if wrong else 0


def _round(faults: list[Fault], seed: str) -> list[Outcome]:
    order = random.Random(seed).sample(faults, len(faults))
    outcomes = []
    for fault in order:
        outcome = try_fault(fault, seed)
        outcomes.append(outcome)
        print(f"{'WRONG' if outcome.problems else 'good':5} {fault.id}", flush=True)
        for problem in outcome.problems:
            print(f"      {problem}", flush=True)
    return outcomes


def _settings(outcomes: list[Outcome], command: str) -> str:
    settings = ", ".join(f"`{name}={seconds:g}`" for name, seconds in SETTINGS.items())
    text = (
        f"The worst of {len(outcomes)} trials with {settings} and {EVENTS_PER_S} events a second, "
        f"on {platform.python_implementation()} {platform.python_version()}, {inflater}, "
        f"{platform.system()} {platform.machine()}:"
    )
    return f"{textwrap.fill(text, 100)} `{command}`."


if __name__ == "__main__":
    sys.exit(main())
