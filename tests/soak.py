"""Fifty streams in one process, under faults, for a while: `python -m tests.soak --minutes 30`.

The exchanges are in a process of their own. Each numbers all that it pushes, and notes for every
connection which numbers were queued on it; each stream notes the numbers that its functions were
called with, connection by connection. Half of the streams are driven by two `Fleet`s, one of which
has callback threads, and of those one a second is taken out and put in again. Beside them a thread
computes half of the time.

At the end, exit status 1 unless all of these hold:

- events: what was received on a connection is what was queued on it, from the first number on,
  without a gap, a repetition or a change of order, up to where the connection broke. All of it
  where the connection was closed in an orderly way, and on the last one. So every number that a
  stream did not get is accounted for: pushed while it was not subscribed, or lost with a
  connection that broke;
- memory: over the last third of the time, the straight lines fitted to the resident memory and to
  Python's allocated blocks rise by less than 2 % and 1 % or, if that is more, by less than three
  times the standard deviation of the samples around the line. glibc is told to keep one arena and
  no caches for single threads, or a hundred caches that fill slowly would look like a leak;
- threads are as many in every sample, but for those with which the fleets connect; descriptors as
  many at the end, when all are subscribed, as at the beginning, and after the stop as before the
  start;
- a thousand starts and stops more, of streams and of fleets, leave no thread, no descriptor and no
  memory (not with `--journal`);
- no stream has ended, no function has raised, and the exchanges saw no violation of the protocol.

With `--journal` all streams write one journal, and it is replayed, compiled and pure: every
function is called with the same events in the same order, and what is known at the end is what was.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import multiprocessing
import os
import random
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, TextIO

from fastpos import (
    CallbackError,
    DecodeError,
    Disconnect,
    Fleet,
    PositionStream,
    ReconnectPolicy,
)
from fastpos.cli.terminal import StatusLine, how_far
from fastpos.journal import Journal, read
from fastpos.journal.replay import Players
from fastpos.simulator import Connection, Exchange
from fastpos.wire.inflate import inflater
from tests.support.certificates import Certificates, make_certificates
from tests.support.digest import Digest
from tests.support.ledger import Ranges, compare, count, note

EXCHANGES = 5
OVER_TLS = 2  # of them
CONNECT_THREADS = 4  # of a fleet
CALLBACK_THREADS = 3  # of the second
PATIENCE = 60.0  # seconds for all streams to be subscribed again
# Of positions, orders and triggers. All are open nearly always, or what a stream knows would grow:
# a closing that is lost in a gap leaves something behind.
IDS = range(1, 11)
EVENTS = ["on_position", "on_order", "on_trigger", "on_adl_price", "on_system_close", "on_unknown"]
SETTINGS: dict[str, Any] = {
    "proxy": "",
    "ping_interval": 1.0,
    "pong_timeout": 1.0,
    "connect_timeout": 5.0,
    "subscribe_timeout": 2.0,
    "reconnect": ReconnectPolicy(initial=0.2, maximum=2.0),
}
PAGE, MIB = os.sysconf("SC_PAGE_SIZE"), 1 << 20

# --- the exchanges' process -----------------------------------------------------------------------


class BusyExchange(Exchange):
    """Trades and fails on two threads; numbers what it pushes, and notes on which connections."""

    def __init__(self, clients: int, seed: str, **options: Any) -> None:
        super().__init__(**options)
        self.last = 0
        self.queued: defaultdict[int, Ranges] = defaultdict(list)
        self.failed: Counter[str] = Counter()
        self.problems: list[str] = []
        self.closed: set[int] = set()
        """The connections that it has closed; the others were by their clients, or broke."""
        self._clients = clients
        self._stopping = threading.Event()
        self._busy = [
            threading.Thread(target=self._trade, args=(random.Random(f"{seed} trade"),)),
            threading.Thread(target=self._fail, args=(random.Random(f"{seed} faults"),)),
        ]
        self._failures: dict[str, tuple[Callable[[], object], float]] = {
            # what is done, and after how many seconds it is undone
            "reset": (self.drop, 0),
            "reset of one": (self._drop_one, 0),
            "reset of another": (self._drop_one, 0),
            "close": (lambda: self.drop(clean=True), 0),
            "end without a close": (lambda: self.drop(clean=True, code=None), 0),
            "system close": (self.system_close, 0),
            "short stall": (self.stall, 0.5),
            "stall": (self.stall, 4),
            "no pongs": (lambda: self.stall(pushes=True, handshakes=True, closes=True), 4),
            "never read": (self.never_read, 4),
            "garbage": (self._push_garbage, 0),
            "more garbage": (lambda: [self._push_garbage() for _ in range(10)], 0),
            "half a frame": (self.truncate_frame, 0),
            "half a frame and the end": (lambda: self.truncate_frame(end=True), 0),
            "too large a frame": (lambda: self.announce_frame(1 << 24), 0),
            "bad bytes": (lambda: self.send_raw(b"\xff\xff\xff"), 0),
            "trickle": (lambda: self.trickle(7, 0.001), 2),
            "no upgrade": (lambda: (self.refuse_upgrade(503), self.drop()), 2),
            "no greeting": (lambda: (self.silent_connect(2), self.drop()), 0),
            "no reply": (lambda: (self.ignore_subscription(2), self.drop()), 0),
            "refusal": (lambda: (self.refuse_subscription(times=2), self.drop()), 0),
            "WebSocket pings": (lambda: self.ws_ping(b"soak"), 0),
        }

    def push(self, message: Any) -> int:
        return self._push_next(lambda number: self._push_of({**message, "n": number}))

    def _push_garbage(self) -> None:
        self._push_next(lambda number: bytes([0x82, 16]) + b"garbage %08d" % number)

    def _push_next(self, frame: Callable[[int], bytes]) -> int:
        with self._lock:
            self.last += 1
            if not self.faults.pushes:
                return 0
            data = frame(self.last)
            takers = [r for r in self._live if r.subscribed and self._put(r, data)]
            for record in takers:
                note(self.queued[record.number], self.last)
            return len(takers)

    def _close(self, record: Connection, code: int | None, reason: str) -> None:
        self.closed.add(record.number)
        super()._close(record, code, reason)

    def begin(self) -> None:
        for thread in self._busy:
            thread.start()

    def finish(self) -> int:
        """The number of the last push, which all have to get."""
        self._stopping.set()
        for thread in self._busy:
            thread.join()
        self.clear_faults()
        before = len(self.connections)
        self.drop(clean=True)  # half a frame may be the last that some of them got

        back = lambda: sum(each.subscribed for each in self.connections[before:])  # noqa: E731
        if not self.wait_for(lambda: back() == self._clients, PATIENCE):
            self.problems.append("not all subscribed at the end")
        self.push({"channel": "SYSTEM", "et": "end of the soak"})
        return self.last

    def _trade(self, dice: random.Random) -> None:
        due = time.monotonic()
        for id in IDS:
            self.open_position(position_id=id)
            self._order(id, "order", "orderId", "1")
            self._order(id, "trigOrder", "triggerOrderId", "1")
        while not self._stopping.wait(max(due - time.monotonic(), 0)):
            due += 0.5
            self.tick()
            if dice.random() < 0.3:
                for _ in range(dice.choice((1, 5, 50, 200))):
                    self._event(dice)

    def _event(self, dice: random.Random) -> None:
        kind, id = dice.random(), dice.choice(IDS)
        if kind < 0.4:
            self.update_position(id, volume=dice.randrange(1, 1000))
        elif kind < 0.5:
            self.set_balance("USDT", available=dice.randrange(10**6))
        elif kind < 0.8:
            self._order(id, "order", "orderId", "231")
        elif kind < 0.9:
            self._order(id, "trigOrder", "triggerOrderId", "21")
        else:
            self.close_position(id)
            self.open_position(position_id=id)

    def _order(self, id: int, channel: str, key: str, actions: str) -> None:
        for action in actions:
            body = {key: str(id), "volume": 10, "orderAction": action}
            self.push({"channel": channel, channel: body})

    def _fail(self, dice: random.Random) -> None:
        while not self._stopping.wait(dice.uniform(0.2, 3.0)):
            name = dice.choice(list(self._failures))
            self.failed[name] += 1
            do, seconds = self._failures[name]
            do()
            if seconds:
                self._stopping.wait(seconds)
                self.clear_faults()
            if not self.wait_for_subscribers(self._clients, PATIENCE):
                self.problems.append(f"not all subscribed {PATIENCE:g} s after: {name}")
                return

    def _drop_one(self) -> None:
        """The one that has been subscribed for longest."""
        for connection in [c for c in self.connections[-50:] if c.subscribed][:1]:
            self.drop(connection=connection)


def serve(pipe: Pipe, streams: int, seed: int, certificates: Certificates) -> None:
    """Runs in a process of its own; the answers to what is asked over the pipe."""
    exchanges = []
    for number in range(EXCHANGES):
        clients = len(range(number, streams, EXCHANGES))
        context = certificates.good.context() if number < OVER_TLS else None
        exchanges.append(BusyExchange(clients, f"{seed} {number}", ssl_context=context).start())
    first = exchanges[0]
    pipe.send(([exchange.url for exchange in exchanges], first.api_key, first.broker))
    pipe.recv()
    for exchange in exchanges:
        exchange.begin()
    pipe.recv()
    pipe.send([exchange.finish() for exchange in exchanges])
    pipe.recv()
    report: defaultdict[int, list[tuple[Ranges, bool]]] = defaultdict(list)
    faults: Counter[str] = Counter()
    problems: list[str] = []
    for exchange in exchanges:
        for connection in exchange.connections:
            number = connection.number
            ordered = number in exchange.closed and connection.close_code in (1000, 1001)
            stream = int(connection.headers["X-Stream"])
            report[stream].append((exchange.queued[number], ordered))
        faults.update(exchange.failed)
        problems += exchange.problems
        problems += [f"violation: {text}" for text in exchange.violations]
    pipe.send((report, faults, problems))
    for exchange in exchanges:
        exchange.stop()


# --- the streams' process -------------------------------------------------------------------------


class Listener:
    """Notes what one stream's functions are called with; runs on one thread at a time.

    What a connection brought is written to a file when it has ended, so as not to grow.
    """

    def __init__(self, number: int, file: TextIO, lock: threading.Lock) -> None:
        self._number = number
        self._file = file
        self._lock = lock  # of all listeners, for `file`, which is not safe for several threads
        self._ranges: Ranges = []
        self.events = 0
        self.latest = 0
        self.raised = 0

    @property
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        own = {name: getattr(self, name) for name in ("on_account", "on_error", "on_disconnect")}
        return {**dict.fromkeys(EVENTS, self.on_event), **own}

    def on_event(self, event: Any) -> None:
        self._note(event.raw["n"])

    def on_account(self, event: Any) -> None:
        if event.position is None:  # else on_position was called with it
            self._note(event.raw["n"])

    def on_error(self, error: Exception) -> None:
        if isinstance(error, DecodeError) and error.data.startswith(b"garbage "):
            self._note(int(error.data.split()[1]))
        elif isinstance(error, CallbackError):
            self.raised += 1

    def on_disconnect(self, event: Disconnect) -> None:
        line = json.dumps([self._number, self._ranges, event.reason == "stopped"])
        self._ranges = []
        with self._lock:
            self._file.write(line + "\n")

    def _note(self, number: int) -> None:
        self.events += 1
        self.latest = number
        note(self._ranges, number)


def written(path: Path, streams: int) -> list[list[tuple[Ranges, bool | None]]]:
    """By stream and connection: what came, and whether it lived to the end (see `compare`)."""
    found: list[list[tuple[Ranges, bool | None]]] = [[] for _ in range(streams)]
    for line in path.read_text().splitlines():
        number, ranges, stopped = json.loads(line)
        found[number].append((ranges, None if stopped else False))
    for sessions in found:
        if sessions and sessions[-1][1] is None:
            sessions[-1] = sessions[-1][0], True
    return found


# What a process has at one moment.
Sample = dict[str, float]
TUNABLES = "glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0"


def keep_memory_tidy(program: str) -> None:
    """Begin this program anew where malloc keeps what only looks like a leak."""
    if "GLIBC_TUNABLES" not in os.environ:  # is read when a process begins
        os.environ["GLIBC_TUNABLES"] = TUNABLES
        os.execv(sys.executable, [sys.executable, "-m", program, *sys.argv[1:]])


def sample(collect: bool = True) -> Sample:
    """Take a sample; collecting garbage first holds up all threads for long where there is much."""
    if collect:
        gc.collect()
    return {
        "at": time.monotonic(),
        "resident": int(Path("/proc/self/statm").read_text().split()[1]) * PAGE / MIB,
        "blocks": sys.getallocatedblocks(),
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def sample_without(threads: float) -> Sample:
    """Take one when so many threads are left. One that has ended is listed by the system a moment
    longer than by Python, and one that has opened a connection may not have come to its end."""
    deadline = time.monotonic() + 10.0
    while (taken := sample())["threads"] > threads and time.monotonic() < deadline:
        time.sleep(0.01)
    return taken


def rise(samples: list[Sample], what: str) -> tuple[float, float, float]:
    """Of a line fitted to the samples: its rise, the spread around it, and its middle."""
    times = [each["at"] for each in samples]
    values = [each[what] for each in samples]
    slope, start = statistics.linear_regression(times, values)
    spread = statistics.pstdev(
        value - start - slope * at for at, value in zip(times, values, strict=True)
    )
    return slope * (times[-1] - times[0]), spread, statistics.fmean(values)


def grows(samples: list[Sample]) -> list[str]:
    """Say what of the memory has grown over the last third of the samples."""
    problems = []
    tail = samples[len(samples) * 2 // 3 :]
    # Pages stay resident that malloc has taken back: 0.6 MiB within 40 s are no leak.
    for what, unit, noise in (("resident", "MiB", 0.02), ("blocks", "blocks", 0.01)):
        risen, spread, middle = rise(tail, what)
        allowed = max(middle * noise, 3 * spread)
        print(
            f"memory, {what}: {samples[0][what]:.1f} {unit} at the beginning, {middle:.1f} in the "
            f"last third, where it rises by {risen:+.2f}; allowed {allowed:.2f} ({spread=:.2f})"
        )
        if risen > allowed:
            problems.append(f"memory, {what}: rises by {risen:.2f} {unit}")
    return problems


def compute(stop: threading.Event) -> None:
    """A busy thread of the host's: takes the GIL for half of the time."""
    while not stop.wait(0.02):
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            sum(range(1000))


def starts_and_stops(new: Callable[[], PositionStream | Fleet]) -> list[str]:
    """Of one stream again and again, and of a new one each time: what they leave behind."""
    problems = []
    stream = new()
    for each_is_new in (False, True):
        for runs in (50, 500):  # at first to warm up
            before = sample()
            for _ in range(runs):
                stream = new() if each_is_new else stream
                stream.start()
                if not stream.wait_ready(PATIENCE):
                    problems.append("a start has led nowhere")
                stream.stop()
            after = sample_without(before["threads"])
        print(f"starts and stops: {runs}, {after['blocks'] - before['blocks']:+} blocks")
        if after["blocks"] - before["blocks"] > runs / 5:
            problems.append("starts and stops leave memory behind")
        if any(after[what] != before[what] for what in ("threads", "descriptors")):
            problems.append(f"starts and stops leave something behind: {before}, {after}")
    return problems


# --- the journal ----------------------------------------------------------------------------------


def known(stream: PositionStream) -> str:
    """What a stream knows, as a digest."""
    end = Digest()
    for store in (stream.positions, stream.balances, stream.orders, stream.triggers):
        for each in store.values():
            end.note(each)
    return end.value


def replay_all(folder: str) -> dict[str, tuple[str, int, str]]:
    """Replay all streams of a journal.

    Returns:
        Of each stream, by name: the digest of the calls, how many there were, and what was known.
    """
    digests: dict[str, Digest] = defaultdict(Digest)

    def new(name: str, number: type) -> PositionStream:
        return PositionStream(
            "ws://127.0.0.1:9", api_key="replay", broker=1, name=name, **digests[name].callbacks
        )

    players = Players(new)
    players.play(read(folder))
    return {
        name: (digests[name].value, digests[name].calls, known(stream))
        for name, stream in players.streams.items()
    }


def compare_replays(
    folder: Path, lived: dict[str, tuple[str, int, str]], environments: dict[str, dict[str, str]]
) -> list[str]:
    """Replay in processes of their own; say what is not as it was."""
    problems = []
    for what, environment in environments.items():
        began = time.monotonic()
        command = [sys.executable, "-m", "tests.soak", "--replay", str(folder)]
        done = subprocess.run(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, check=False
        )
        if done.returncode:
            problems.append(f"replay, {what}: it failed")
            continue
        found = json.loads(done.stdout)
        calls = sum(count for _, count, _ in found.values())
        wrong = [name for name in lived if list(lived[name]) != found.get(name)]
        print(
            f"replay, {what}: {calls} calls of {len(found)} streams in "
            f"{time.monotonic() - began:.0f} s, {len(wrong)} streams not as they were"
        )
        problems += [
            f"replay, {what}: {name}: {lived[name]} lived, {found.get(name)} replayed"
            for name in wrong
        ]
    return problems


def run(
    minutes: float, streams: int, seed: int, directory: Path, journal: bool, status: StatusLine
) -> list[str]:
    """Run it, and tell a terminal how far it has come; give what is wrong."""
    status.show("connecting")
    certificates = make_certificates(directory)
    spawning = multiprocessing.get_context("spawn")
    pipe, theirs = spawning.Pipe()
    process = spawning.Process(target=serve, args=(theirs, streams, seed, certificates))
    process.start()
    theirs.close()
    urls, key, broker = pipe.recv()
    context = ssl.create_default_context(cafile=str(certificates.authority))

    problems: list[str] = []
    stop_computing = threading.Event()
    computing = threading.Thread(target=compute, args=(stop_computing,), daemon=True)
    computing.start()
    with (directory / "received").open("w") as file:
        lock = threading.Lock()
        listeners = [Listener(number, file, lock) for number in range(streams)]

        def new(number: int, **arguments: Any) -> PositionStream:
            return PositionStream(
                urls[number % EXCHANGES],
                api_key=key,
                broker=broker,
                ssl_context=context,
                headers={"X-Stream": str(number)},
                **SETTINGS,
                **arguments,
            )

        # What waits for a callback thread is thrown away when a stream is stopped, and is in the
        # journal; so with a journal there is none.
        callback_threads = 0 if journal else CALLBACK_THREADS
        shared = Journal(directory / "journal", segment_bytes=4 << 20) if journal else None
        everybody = [
            new(number, journal=shared, **listener.callbacks)
            for number, listener in enumerate(listeners)
        ]
        digests = {stream.name: Digest() for stream in everybody if journal}
        for stream in everybody if journal else ():
            for name, function in digests[stream.name].callbacks.items():
                getattr(stream, name)(function)
        alone = everybody[: streams // 2]
        fleets = [
            Fleet(some, connect_rate=None, connect_threads=CONNECT_THREADS, callback_threads=number)
            for some, number in (
                (everybody[len(alone) :: 2], 0),
                (everybody[len(alone) + 1 :: 2], callback_threads),
            )
        ]
        before = sample()
        drivers: list[PositionStream | Fleet] = [*alone, *fleets]
        for each in drivers:
            each.start()
        for number, stream in enumerate(everybody):
            if not stream.wait_ready(PATIENCE):
                problems.append(f"stream {number}: not subscribed within {PATIENCE:g} s")
        samples = [sample()]
        pipe.send("go")
        dice = random.Random(f"{seed} fleet")
        ends = time.monotonic() + minutes * 60
        while (remaining := ends - time.monotonic()) > 0:
            far = how_far(minutes * 60 - remaining, minutes * 60, minutes * 60 - remaining)
            events = sum(listener.events for listener in listeners)
            status.show(f"{far}: {events:,} events, {samples[-1]['resident']:.0f} MiB")
            time.sleep(min(1.0, remaining))
            samples.append(sample())
            fleet = dice.choice(fleets)
            stream = dice.choice([*fleet.streams.values()])
            fleet.remove(stream)
            fleet.add(stream)
        status.show("what is left is delivered, all is ended and compared")
        pipe.send("finish")
        last = pipe.recv()
        deadline = time.monotonic() + PATIENCE
        for number, listener in enumerate(listeners):
            while listener.latest < last[number % EXCHANGES] and time.monotonic() < deadline:
                time.sleep(0.01)
        # Of a stream alone two, and of a fleet.
        threads = int(before["threads"]) + 2 * len(drivers) + callback_threads + journal
        final = sample_without(threads)
        stats = [stream.stats for stream in everybody]
        for each in drivers:
            began = time.monotonic()
            each.stop(PATIENCE)
            if time.monotonic() - began > PATIENCE / 3:  # one alone has 2 s for it
                problems.append(f"{each}: stop() took {time.monotonic() - began:.1f} s")
        for stream in everybody:
            stream.join(0)
        after = sample_without(before["threads"])
    stop_computing.set()
    computing.join()
    status.show("")
    one, another = (partial(new, streams * EXCHANGES + n) for n in (0, EXCHANGES - 1))
    two = partial(Fleet, connect_rate=None)
    starts: tuple[Callable[[], PositionStream | Fleet], ...] = (
        one,
        another,
        lambda: two((one(), another())),
        lambda: two((one(), another()), callback_threads=CALLBACK_THREADS),
    )
    for start in () if journal else starts:  # they have none
        problems += starts_and_stops(start)
    pipe.send("report")
    report, faults, said = pipe.recv()
    process.join()

    problems += said
    received = queued = connections = 0
    lost: list[str] = []
    for number, sessions in enumerate(written(directory / "received", streams)):
        sent, end = report[number], last[number % EXCHANGES]
        connections += len(sent)
        queued += sum(count(ranges) for ranges, _ in sent)
        received += sum(count(ranges) for ranges, _ in sessions)
        found = compare(sessions, sent)
        if not sessions or not sessions[-1][0] or sessions[-1][0][-1][1] != end:
            found.append(f"number {end}, the last, did not come last")
        lost += [f"stream {number}: {problem}" for problem in found]
    problems += lost
    in_gaps = sum(last[number % EXCHANGES] for number in range(streams)) - queued
    if received != sum(listener.events for listener in listeners):
        problems.append("the listeners' files are not whole")
    problems += ["a function raised"] * sum(listener.raised for listener in listeners)

    reasons: Counter[str] = Counter()
    for stat in stats:
        reasons.update(stat.disconnects)
    print(f"{streams} streams, {EXCHANGES} exchanges, {minutes:g} min, seed {seed}, {inflater!r}")
    print(f"faults: {faults.total()}: {', '.join(f'{n} {k}' for k, n in faults.most_common())}")
    print(f"connections: {connections}, disconnects for {len(reasons)} reasons:")
    for reason, times in reasons.most_common(12):
        print(f"  {times:6} {reason}")
    print(
        f"events: {received} received, {in_gaps} pushed in gaps, "
        f"{queued - received} lost with a connection, {len(lost)} not accounted for"
    )
    problems += grows(samples)
    connecting = range(threads, threads + len(fleets) * CONNECT_THREADS + 1)
    for what, steady in (
        (
            "threads",
            final["threads"] == threads and {s["threads"] for s in samples} <= {*connecting},
        ),
        # Of a journal a segment is open or not.
        ("descriptors", abs(final["descriptors"] - samples[0]["descriptors"]) <= journal),
    ):
        moments = (before, samples[0], final, after)
        print(f"{what} before, subscribed first, at the end, after: {[m[what] for m in moments]}")
        if not steady or after[what] != before[what]:
            problems.append(f"{what} are not constant")
    if journal:
        lived = {
            stream.name: (digests[stream.name].value, digests[stream.name].calls, known(stream))
            for stream in everybody
        }
        environments = {"as installed": {}, "pure": {"FASTPOS_PURE": "1"}}
        problems += compare_replays(directory / "journal", lived, environments)
    return problems


def main() -> int:
    parser = argparse.ArgumentParser(description="Many streams under faults, for a while.")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--streams", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--journal", action="store_true", help="write one, and replay it")
    parser.add_argument("--replay", metavar="DIR", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    logging.getLogger("fastpos").setLevel(logging.CRITICAL)
    if arguments.replay:
        print(json.dumps(replay_all(arguments.replay)))
        return 0
    keep_memory_tidy("tests.soak")
    with tempfile.TemporaryDirectory() as directory, StatusLine() as status:
        problems = run(
            arguments.minutes,
            arguments.streams,
            arguments.seed,
            Path(directory),
            arguments.journal,
            status,
        )
    for problem in problems[:20]:
        print(f"FAILED: {problem}")
    print("failed" if problems else "all is well")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
