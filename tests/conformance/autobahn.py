"""The client side of the Autobahn suite: an echo on fastpos' own WebSocket layer.

    python -m tests.conformance.autobahn --url ws://127.0.0.1:9001 --agent fastpos

runs every case that the fuzzing server offers, has it write its report, and prints what it thought
of each. Exit status 1 if a case failed or ended uncleanly.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol
from urllib.parse import urlencode

from tests.conformance.fuzzingserver import read_reports

__all__ = ["EchoConnection", "Opener", "list_cases", "open_echo", "run_case", "run_cases"]

TIMEOUT = 60.0
"""Seconds for an opening handshake, and for the server to say anything at all."""


class EchoConnection(Protocol):
    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Complete messages with their opcode (1 or 2), until the connection has ended."""

    def send(self, payload: bytes, opcode: int) -> None: ...

    def close(self) -> None:
        """Lets go of the socket; harmless on a connection that has ended."""


Opener = Callable[[str, float], EchoConnection]


def open_echo(url: str, timeout: float) -> EchoConnection:
    """The layer under test; the only place here that knows it."""
    from tests.conformance.echo import Echo  # noqa: PLC0415 -- the rig runs without it

    return Echo(url, timeout)


def ask(opener: Opener, url: str) -> str:
    """The one message with which the server answers a request that is not a case."""
    connection = opener(url, TIMEOUT)
    try:
        return "".join(payload.decode() for _, payload in connection.messages())
    finally:
        connection.close()


def list_cases(url: str, opener: Opener = open_echo) -> dict[int, str]:
    """The case identifiers (`"1.1.1"`) by the number under which the server runs them."""
    count = int(ask(opener, f"{url}/getCaseCount"))
    return {
        number: str(json.loads(ask(opener, f"{url}/getCaseInfo?case={number}"))["id"])
        for number in range(1, count + 1)
    }


def run_case(url: str, agent: str, number: int, opener: Opener = open_echo) -> Exception | None:
    """Echoes until the server ends the case; what the layer raised is told, not judged.

    Many cases are violations of the protocol, so an exception is often right: the server alone
    knows which.
    """
    query = urlencode({"case": number, "agent": agent})
    try:
        connection = opener(f"{url}/runCase?{query}", TIMEOUT)
        try:
            for opcode, payload in connection.messages():
                connection.send(payload, opcode)
        finally:
            connection.close()
    except Exception as error:
        return error
    return None


def run_cases(
    url: str,
    agent: str,
    patterns: list[str] | None = None,
    opener: Opener = open_echo,
    verbose: bool = False,
) -> dict[str, tuple[int, Exception | None]]:
    """Runs the cases that match a pattern and asks for the report; numbers and exceptions by case.

    Without patterns the server is not asked for the cases' names, and its numbers stand for them.
    """
    if patterns is None:
        count = int(ask(opener, f"{url}/getCaseCount"))
        chosen = {number: str(number) for number in range(1, count + 1)}
    else:
        chosen = {
            number: case
            for number, case in list_cases(url, opener).items()
            if any(fnmatch.fnmatchcase(case, pattern) for pattern in patterns)
        }
    raised = {}
    for number, case in chosen.items():
        started = time.monotonic()
        error = run_case(url, agent, number, opener)
        raised[case] = (number, error)
        if verbose:
            ended = "" if error is None else f"  {type(error).__name__}: {error}"
            print(f"{case:<8} {time.monotonic() - started:7.3f} s{ended}", flush=True)
    ask(opener, f"{url}/updateReports?{urlencode({'agent': agent})}")
    return raised


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--url", default="ws://127.0.0.1:9001")
    parser.add_argument("--agent", default="fastpos")
    parser.add_argument("--cases", default="*", help="comma-separated patterns, such as 1.*,7.9.*")
    parser.add_argument(
        "--reports", type=Path, help="the server's outdir: the ends of connections are judged too"
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="print each case as it ends")
    options = parser.parse_args()

    url = options.url.rstrip("/")
    started = time.monotonic()
    raised = run_cases(
        url, options.agent, options.cases.split(","), open_echo, verbose=options.verbose
    )
    elapsed = time.monotonic() - started

    bad = []
    behaviors: Counter[str] = Counter()
    if options.reports is not None:
        results = read_reports(options.reports, options.agent)
        closes: Counter[str] = Counter()
        for case in raised:
            result = results[case]
            behaviors[result.behavior] += 1
            closes[result.behavior_close] += 1
            if result.failed or result.unclean:
                bad.append(f"{case}: {result.behavior}, end: {result.behavior_close}")
        print("ends:", _counted(closes))
    else:
        # A server elsewhere tells its verdict on the messages only; the rest is in its report.
        for case, (number, _) in raised.items():
            query = urlencode({"case": number, "agent": options.agent})
            status = json.loads(ask(open_echo, f"{url}/getCaseStatus?{query}"))["behavior"]
            behaviors[status] += 1
            if status in ("FAILED", "UNIMPLEMENTED"):
                bad.append(f"{case}: {status}")
    print("cases:", _counted(behaviors))
    for line in bad:
        print(line)
    print(f"{len(raised)} cases in {elapsed:.1f} s, {len(bad)} bad")
    return 1 if bad else 0


def _counted(counter: Counter[str]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counter.most_common())


if __name__ == "__main__":
    sys.exit(main())
