"""A stream with a journal is killed at random moments: `python -m tests.kills --times 200`.

Each time a process of its own follows an exchange that numbers its pushes, and says on a pipe,
which outlives it, what number it has received when. It is sent SIGKILL, and the next one goes on in
the same folder. Exit status 1 unless all of these hold:

- the journal is readable after each kill: nothing is told to be altered;
- whatever was received `flush_interval` before the kill is in it, and where the system did not let
  the process run for a while, so much longer before: a thread of its own tells when it did;
- nothing is in it twice, in another order, or with a hole in it;
- what was in it after the last kill still is.

Segments are small, so that some processes die while one is closed and compressed.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path

from fastpos.journal import read
from fastpos.journal.segments import segments
from fastpos.simulator import Exchange

FLUSH = 0.2
_NUMBER = re.compile(rb'"n":(\d+)')

_CHILD = """
import os, sys, threading, time
from fastpos import PositionStream
from fastpos.journal import Journal

url, key, broker, folder, flush = sys.argv[1:]
journal = Journal(folder, flush_interval=float(flush), segment_bytes=30_000)

def note(event):
    os.write(1, b"%d %d\\n" % (event.raw["n"], event.received_ns))

def tick():
    while True:
        os.write(1, b"tick %d\\n" % time.time_ns())
        time.sleep(0.01)

threading.Thread(target=tick, daemon=True).start()
PositionStream(
    url, api_key=key, broker=int(broker), journal=journal, name="killed", on_unknown=note
).run_forever()
"""


class Pushes:
    """Numbers pushes, one after the other, as long as it is entered."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def _run(self) -> None:
        number = 0
        while not self._ending.wait(0.001):
            for _ in range(random.choice((1, 1, 20))):
                number += 1
                self._exchange.push({"channel": "numbers", "n": number, "fill": "x" * 100})


def kill_once(exchange: Exchange, folder: Path, seconds: float) -> tuple[list[int], list[int]]:
    """Have a process live for so long after its first push.

    Returns:
        What it has received, and of that what must be in the journal.
    """
    command = [sys.executable, "-c", _CHILD, exchange.url, exchange.api_key, str(exchange.broker)]
    with subprocess.Popen([*command, str(folder), str(FLUSH)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = []
        while not lines or lines[-1].startswith(b"tick"):  # until its first push
            lines.append(process.stdout.readline())
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        time.sleep(seconds)  # the moment of the kill, which is what is tried
        killed_ns = time.time_ns()
        process.send_signal(signal.SIGKILL)
        reader.join()
    whole = [line.split() for line in lines if line.endswith(b"\n")]
    received = [(int(number), int(ns)) for number, ns in whole if number != b"tick"]
    ticks = [int(ns) for number, ns in whole if number == b"tick"]
    moments = pairwise([*ticks, killed_ns])
    held_up = max((b - a for a, b in moments if b > killed_ns - 2e9), default=0)
    due = [number for number, ns in received if ns < killed_ns - FLUSH * 1e9 - held_up]
    return [number for number, _ in received], due


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}")
    faults = 0
    needed = 0
    with tempfile.TemporaryDirectory() as folder, Exchange() as exchange, Pushes(exchange):
        path = Path(folder) / "day"
        before: list[int] = []  # what was there after the last kill
        for time_number in range(1, options.times + 1):
            received, due = kill_once(exchange, path, random.uniform(0.0, 4 * FLUSH))
            errors: list[Exception] = []
            numbers = [
                int(match[1])
                for record in (read(path, on_error=errors.append) if segments(path) else ())
                if record.kind == "push" and (match := _NUMBER.search(record.text))
            ]
            wrong = [str(error) for error in errors]
            new = numbers[len(before) :]
            if numbers[: len(before)] != before:
                wrong.append("what was there after the last kill is not any more")
            if sorted(set(numbers)) != numbers:
                wrong.append("some are there twice, or in another order")
            if missing := sorted(set(due) - set(new)):
                wrong.append(f"{len(missing)} are missing, {missing[:5]} and so on")
            if new[: len(received)] != received[: len(new)]:  # one may have more of the last
                wrong.append("what is there is not what was received first, without a hole")
            for what in wrong:
                print(f"kill {time_number}: {what}")
            faults += bool(wrong)
            needed += len(due)
            before = numbers
            if sys.stdout.isatty() or time_number % 20 == 0:
                print(f"{time_number} kills, {len(before)} pushes in the journal, {needed} due")
        files = sorted(each.name for each in path.iterdir())
        print(f"{len(files)} files, {sum('.gz' in name for name in files)} of them compressed")
    print("all is well" if not faults else f"{faults} of {options.times} kills left faults")
    return bool(faults)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
