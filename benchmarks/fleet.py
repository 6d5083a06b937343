"""Many streams in one process: what a frame and a stream cost, how late a push is, how that grows.

Each peer's process opens a thousand streams, all at once, and the server sends a frame at a time
to each in turn, evenly spread: that is what a desk's accounts do, and what a burst to one stream
says nothing of, for each frame has a wake-up, a read and a look for its stream of its own.

CPU is that of the peer's process, all its threads; latencies are of all frames. Beside the busy
thread a stream gets the fewer frames, as a thread for each stream can't keep up with more.
Threads and memory are those of the streams: what the process has more than before.
"""

from __future__ import annotations

import collections
import itertools
import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from benchmarks.frames import MIXED
from benchmarks.peers import PEERS
from benchmarks.results import Group, Row, percentile
from benchmarks.spec import Unavailable

if TYPE_CHECKING:
    from benchmarks.groups import Bench

__all__ = ["FLEETS", "SCALED", "fleet", "scale"]

FLEETS = ("app-gzip-json", "picows", "fastpos-native", "fastpos-native-fleet")
# What grows, and how many times the smallest number of streams. With two threads a stream nobody
# gets to thousands.
_GROWING = {
    "fastpos-native-fleet": (1, 10, 40, 80),
    "picows": (1, 10, 40, 80),
    "fastpos-native": (1, 10),
    "app-gzip-json": (1, 10),
}
SCALED = {f"{name}-x{times}": (name, times) for name in _GROWING for times in _GROWING[name]}
# What a process needs for each stream (WebSocketApp: a selector as well), and besides.
_DESCRIPTORS = {"app-gzip-json": 2}
_OTHER_DESCRIPTORS = 100
_FIRST = 2  # streams that pay for what all share
_WARM_UP = 0.5  # seconds for a frame of each kind to each
_numbers = itertools.count()


@dataclass
class _Sent:
    """What came of some seconds of frames."""

    cpu: float
    """Of the peer's process, seconds a frame."""
    latencies: list[float]


class _Many:
    """A peer's process with many streams. Raises `Unavailable` if there can't be so many."""

    def __init__(self, bench: Bench, peer: str, streams: int, tls: bool) -> None:
        self._server = bench.server
        self._name = f"{peer} {next(_numbers)}"
        self._keys: list[str] = []
        self._worker = bench.client(peer, tls)
        try:
            self._grow(peer, streams)
        except RuntimeError as error:  # no thread for it, or no answer
            self._worker.close()
            raise Unavailable(str(error)) from error
        except Unavailable:
            self._worker.close()
            raise

    def _grow(self, peer: str, streams: int) -> None:
        needed = streams * _DESCRIPTORS.get(peer, 1) + _OTHER_DESCRIPTORS
        for process in (self._server, self._worker):
            if (limit := process.hello["descriptors"]) < needed:
                raise Unavailable(
                    f"{streams:,} streams need {needed:,} descriptors, and the limit is {limit:,}: "
                    "raise it with `ulimit -Hn`"
                )
        before = self._ask("threads")
        self._open(_FIRST)
        self.send(_WARM_UP, len(MIXED) / _WARM_UP)
        memory = self._ask("memory", "resident")
        self.ready_s = self._open(streams - _FIRST)
        """How long it took until all were subscribed."""
        self.send(_WARM_UP, len(MIXED) / _WARM_UP)
        self.resident = (self._ask("memory", "resident") - memory) / (streams - _FIRST)
        """Bytes a stream."""
        self.threads = self._ask("threads") - before

    def send(self, seconds: float, rate: float, busy: bool = False) -> _Sent:
        """Has each stream get so many frames a second."""
        self._worker.ask(do="busy", on=busy)
        cpu = self._ask("cpu", "seconds")
        sent = self._server.ask(do="spread", to=self._keys, seconds=seconds, rate=rate)["sent"]
        answer = self._worker.ask(do="called", calls=round(seconds * rate))
        self._worker.ask(do="busy", on=False)
        latencies = [
            (end - start) / 1e9
            for starts, ends in zip(sent, answer["called"], strict=True)
            for start, end in zip(starts, ends, strict=True)
        ]
        return _Sent((answer["cpu"] - cpu) / len(latencies), latencies)

    def close(self) -> None:
        self._worker.close()

    def _open(self, streams: int) -> float:
        first = len(self._keys)
        keys = [f"{self._name} {number}" for number in range(first, first + streams)]
        self._keys += keys
        return float(self._worker.ask(do="open_many", keys=keys)["seconds"])

    def _ask(self, do: str, answer: str = "") -> float:
        return float(self._worker.ask(do=do)[answer or do])


def fleet(bench: Bench, *, tls: bool) -> Group:
    """Side by side, in turns."""
    effort = bench.effort
    rows = {name: Row(PEERS[name].label) for name in FLEETS}
    running: dict[str, _Many] = {}
    try:
        for name, row in rows.items():
            try:
                running[name] = _Many(bench, name, effort.fleet_streams, tls)
            except Unavailable as reason:
                row.missing = str(reason)
        slow, fast = effort.fleet_rates
        turns = {"slow": (slow, False), "fast": (fast, False), "busy": (slow, True)}
        results: dict[tuple[str, str], list[_Sent]] = collections.defaultdict(list)
        for _, (turn, (rate, busy)) in itertools.product(range(effort.fleet_rounds), turns.items()):
            for name, many in running.items():
                results[name, turn].append(many.send(effort.fleet_seconds, rate, busy))
        for name, many in running.items():
            row = rows[name]
            row.seconds = [sent.cpu for sent in results[name, "fast"]]
            slowly = statistics.median(sent.cpu for sent in results[name, "slow"])
            row.extra[f"at {slow}/s"] = slowly * 1e6
            _about(row, many)
            _latencies(row, "", results[name, "fast"])
            _latencies(row, "busy ", results[name, "busy"])
    finally:
        for many in running.values():
            many.close()
    wire = "TLS" if tls else "plain TCP"
    title = f"{effort.fleet_streams:,} streams in a process, {wire}, frames a second each: {fast}"
    name = f"fleet-{'tls' if tls else 'plain'}"
    return Group(name, title, "fleet", rows, against=("picows", "fastpos-native"))


def scale(bench: Bench) -> Group:
    """One after the other: so many are not open side by side."""
    effort = bench.effort
    rate, _ = effort.fleet_rates
    rows = {}
    for key, (name, times) in SCALED.items():
        streams = effort.fleet_smallest * times
        row = rows[key] = Row(f"{PEERS[name].label}: {streams:,}")
        try:
            many = _Many(bench, name, streams, tls=False)
        except Unavailable as reason:
            row.missing = str(reason)
            continue
        try:
            rounds = [many.send(effort.fleet_seconds, rate) for _ in range(effort.fleet_rounds)]
        finally:
            many.close()
        row.seconds = [sent.cpu for sent in rounds]
        _about(row, many)
        _latencies(row, "", rounds)
    title = f"From few streams to many, plain TCP, frames a second each: {rate}"
    return Group("fleet-scale", title, "fleet", rows)


def _about(row: Row, many: _Many) -> None:
    row.extra["KiB a stream"] = many.resident / 1024
    row.extra["threads"] = many.threads
    row.extra["ready s"] = many.ready_s


def _latencies(row: Row, when: str, rounds: list[_Sent]) -> None:
    samples = [latency for sent in rounds for latency in sent.latencies]
    for percent in (50, 99):
        row.extra[f"{when}p{percent} ms"] = percentile(samples, percent) * 1e3
