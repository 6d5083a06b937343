"""A publisher with a journal is killed at random moments: `python -m tests.published_kills`.

Each time a process of its own follows an exchange that numbers its pushes, publishes them to a real
Redis, and says on a pipe, which outlives it, what number it has received when. It is sent SIGKILL,
and the next one goes on with the same journal. Now and then Redis is killed, too. A consumer in a
group, with redis-py alone, reads and acknowledges all the while. Exit status 1 unless at the end
all of these hold:

- whatever was received `flush_interval` before each kill has come to the consumer;
- by its ids nothing has come twice, and what came has the order of the pushes;
- the journal's pushes of the stream are those that came, one for one.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from fastpos.journal import read
from fastpos.simulator import Exchange
from tests.kills import FLUSH, Pushes
from tests.support.redis_server import RedisServer

_NUMBER = re.compile(rb'"n":(\d+)')

_CHILD = """
import os, sys
from fastpos import PositionStream
from fastpos.journal import Journal
from fastpos.redis import Publisher

url, key, broker, folder, flush, redis = sys.argv[1:]
journal = Journal(folder, flush_interval=float(flush), segment_bytes=100_000)

def note(event):
    os.write(1, b"%d %d\\n" % (event.raw["n"], event.received_ns))

PositionStream(
    url, api_key=key, broker=int(broker), publisher=Publisher(redis, journal=journal),
    name="killed", on_unknown=note
).run_forever()
"""


class Consumer(threading.Thread):
    """A member of a group: reads, and acknowledges."""

    def __init__(self, server: RedisServer) -> None:
        super().__init__()
        self._server = server
        self.ending = False
        self.got: list[tuple[str, dict[str, str]]] = []

    def run(self) -> None:
        key = "fastpos:{killed}:events"
        from redis import Redis  # noqa: PLC0415 -- an extra
        from redis.backoff import NoBackoff  # noqa: PLC0415
        from redis.retry import Retry  # noqa: PLC0415

        # One that tries again by itself would go on after what it was given and has not got.
        once = Retry(NoBackoff(), 0)
        client: Any = Redis(port=self._server.port, decode_responses=True, retry=once)
        client.xgroup_create(key, "risk", id="0", mkstream=True)
        since = ">"
        while True:
            try:
                answer = client.xreadgroup("risk", "one", {key: since}, count=500, block=100)
                found = answer[0][1] if answer else []
                if found:
                    self.got += found
                    client.xack(key, "risk", *[id for id, _ in found])
                elif since != ">":
                    since = ">"
                elif self.ending:
                    return
            except Exception:  # Redis is away; what was not acknowledged is read again
                since = "0"
                time.sleep(0.05)


def live_once(exchange: Exchange, folder: Path, redis: str, seconds: float) -> list[int]:
    """Have a process live for so long after its first push; gives what is due of it."""
    command = [sys.executable, "-c", _CHILD, exchange.url, exchange.api_key, str(exchange.broker)]
    command += [str(folder), str(FLUSH), redis]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline()]
        reader = threading.Thread(target=lambda: lines.extend(process.stdout or ()))
        reader.start()
        time.sleep(seconds)  # the moment of the kill, which is what is tried
        killed_ns = time.time_ns()
        process.send_signal(signal.SIGKILL)
        reader.join()
    received = [[*map(int, line.split())] for line in lines if line.endswith(b"\n")]
    return [number for number, ns in received if ns < killed_ns - FLUSH * 1e9]


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--times", type=int, default=20)
    parser.add_argument("--keep", help="a folder in which what led to a fault is put")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    random.seed(options.seed)
    print(f"seed {options.seed}")
    due: list[int] = []
    server = RedisServer(persistent=True)
    with tempfile.TemporaryDirectory() as folder, server, Exchange() as exchange, Pushes(exchange):
        consumer = Consumer(server)
        consumer.start()
        path = Path(folder) / "day"
        for number in range(1, options.times + 1):
            if number % 5 == 0:
                threading.Timer(random.uniform(0.2, 0.8), server.restart, (0.3,)).start()
            due += live_once(exchange, path, server.url, random.uniform(0.0, 6 * FLUSH))
            print(f"{number} kills, {len(due)} pushes due, {len(consumer.got)} records came")
        last = _end(exchange, path, server)
        consumer.ending = True
        consumer.join()
        wrong = check(due, consumer.got, path)
        if wrong and options.keep:
            shutil.copytree(path, options.keep)
            Path(options.keep, "got").write_text(repr(consumer.got))
        print(f"{len(dict(consumer.got))} records, the last run's id is {last}")
    for what in wrong:
        print(what)
    print("all is well" if not wrong else "there are faults")
    return bool(wrong)


def _end(exchange: Exchange, folder: Path, server: RedisServer) -> str:
    """Have one more process send what the last has left, and end in order."""
    code = _CHILD.replace(").run_forever()", ").start()\nimport time; time.sleep(2); stream.stop()")
    code = code.replace("PositionStream(\n", "stream = PositionStream(\n")
    command = [sys.executable, "-c", code, exchange.url, exchange.api_key, str(exchange.broker)]
    command += [str(folder), str(FLUSH), server.url]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=60)
    return str(server.client().xrevrange("fastpos:{killed}:events", count=1)[0][0])


def check(due: list[int], got: list[tuple[str, dict[str, str]]], folder: Path) -> list[str]:
    """Give what is wrong, in words."""
    wrong = []
    by_id: dict[tuple[int, ...], str] = {}
    for id, values in got:
        key = tuple(map(int, id.split("-")))
        if by_id.setdefault(key, values["record"]) != values["record"]:
            wrong.append(f"{id} came with another record")
    numbers = _numbers(by_id[key].encode() for key in sorted(by_id))
    if missing := sorted(set(due) - set(numbers)):
        wrong.append(f"{len(missing)} are missing, {missing[:5]} and so on")
    if any(a >= b for a, b in itertools.pairwise(numbers)):
        wrong.append("some came twice, or in another order")
    written = _numbers(record.text for record in read(folder) if record.kind == "push")
    if written != numbers:
        differing = sorted(set(written) ^ set(numbers))[:5]
        wrong.append(f"{len(written)} are in the journal, {len(numbers)} came: {differing}")
    for (epoch, before), (same, after) in itertools.pairwise(sorted(by_id)):
        if after != (before + 1 if same == epoch else 1):
            wrong.append(f"{same}-{after} follows {epoch}-{before}")
    if dropped := [text for text in by_id.values() if '"kind":"dropped"' in text]:
        wrong.append(f"{len(dropped)} records say that something was dropped")
    return wrong


def _numbers(texts: Any) -> list[int]:
    return [int(match[1]) for text in texts if (match := _NUMBER.search(text))]


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    sys.exit(main())
