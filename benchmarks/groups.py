"""The groups: who is measured beside whom, and what a round of each consists of."""

import contextlib
import itertools
import random
import statistics
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

from benchmarks.decoders import DECODERS
from benchmarks.fleet import FLEETS, SCALED, fleet, scale
from benchmarks.frames import MIXED
from benchmarks.journals import JOURNALS, REREAD, reread
from benchmarks.peers import PEERS
from benchmarks.publishers import PUBLISHED, PUBLISHERS, SIZES, published, sizes
from benchmarks.results import Group, Row
from benchmarks.spec import Unavailable
from benchmarks.takeovers import CLOSING, TAKEOVERS, closing, takeover
from benchmarks.worker import Worker

__all__ = ["FULL", "GROUPS", "QUICK", "Bench", "Effort", "Plan"]

_CLIENTS = (
    "app-gzip-json",
    "app-isal-orjson",
    "websockets",
    "picows",
    "fastpos-pure",
    "fastpos-native",
)
_EMPTY = ("recv-empty", "app-empty", "fastpos-pure-empty", "fastpos-native-empty")
_IDLE = ("app-gzip-json", "fastpos-pure", "fastpos-native")
_IDLE_STREAMS = 10


@dataclass(frozen=True)
class Effort:
    """How much is measured: rounds, and what each holds."""

    rounds: int
    decode_calls: int
    burst_frames: int
    single_frames: int
    busy_rounds: int
    busy_singles: int
    busy_bursts: int
    idle_seconds: int
    fleet_streams: int
    fleet_smallest: int
    fleet_rounds: int
    fleet_seconds: float
    fleet_rates: tuple[int, int]
    reread_records: int
    published_records: int
    takeovers: int
    shared_accounts: int
    closed_accounts: int


FULL = Effort(
    rounds=15,
    decode_calls=3000,
    burst_frames=30_000,
    single_frames=60,
    busy_rounds=10,
    busy_singles=20,
    busy_bursts=6,
    idle_seconds=20,
    fleet_streams=1000,
    fleet_smallest=100,
    fleet_rounds=3,
    fleet_seconds=2,
    fleet_rates=(1, 5),
    reread_records=100_000,
    published_records=100_000,
    takeovers=6,
    shared_accounts=300,
    closed_accounts=1000,
)
QUICK = Effort(
    rounds=3,
    decode_calls=500,
    burst_frames=3000,
    single_frames=20,
    busy_rounds=2,
    busy_singles=5,
    busy_bursts=2,
    idle_seconds=3,
    fleet_streams=50,
    fleet_smallest=5,
    fleet_rounds=1,
    fleet_seconds=0.2,
    fleet_rates=(5, 25),
    reread_records=10_000,
    published_records=20_000,
    takeovers=1,
    shared_accounts=60,
    closed_accounts=100,
)


class _Connected:
    """A peer's process with one open stream to the server."""

    def __init__(self, server: Worker, peer: str, url: str, authority: str) -> None:
        self._server = server
        self.key = f"{peer} {url}"
        self.worker = Worker("benchmarks.client", peer, url, *([authority] if authority else []))
        self.worker.ask(do="open", key=self.key)

    def burst(self, frames: int) -> float:
        """Seconds a frame, from the first byte sent to the last callback."""
        self.worker.ask(do="expect", calls=frames, ends_only=True)
        began: int = self._server.ask(do="send", to=self.key, frames=frames)["began"]
        called = self.worker.hear()["called"]
        return float(called[-1] - began) / 1e9 / frames

    def latencies(self, frames: int, pauses: list[float]) -> list[float]:
        """For each pause: wait, then send so many frames. Seconds from send to callback."""
        self.worker.ask(do="expect", calls=frames * len(pauses))
        sent = self._server.ask(do="stamp", to=self.key, frames=frames, pauses=pauses)["sent"]
        called = self.worker.hear()["called"]
        return [(end - start) / 1e9 for start, end in zip(sent, called, strict=True)]


class Bench:
    """The processes of a run. They start when first needed and stay, so that turns are cheap."""

    def __init__(self, effort: Effort) -> None:
        self.effort = effort
        self._cleanup = contextlib.ExitStack()
        self._workers: dict[tuple[str, ...], Any] = {}
        self._authority = ""

    def __enter__(self) -> "Bench":
        folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory()))
        self.server = self._worker("benchmarks.server", *self._certify(folder))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._cleanup.close()

    def url(self, tls: bool) -> str:
        """Raises `Unavailable` where no certificate could be made."""
        if tls and not self._authority:
            raise Unavailable("trustme is not installed: no certificate")
        scheme, port = ("wss", "tls") if tls else ("ws", "plain")
        return f"{scheme}://127.0.0.1:{self.server.hello[port]}/"

    def connected(self, peer: str, tls: bool) -> _Connected:
        def start() -> _Connected:
            authority = self._authority if tls else ""
            connected = _Connected(self.server, peer, self.url(tls), authority)
            self._cleanup.callback(connected.worker.close)
            return connected

        result = self._once((peer, str(tls)), start)
        assert isinstance(result, _Connected)
        return result

    def client(self, peer: str, tls: bool) -> Worker:
        """A process of a peer that has no stream yet; whoever asks for it closes it."""
        authority = [self._authority] if tls else []
        return Worker("benchmarks.client", peer, self.url(tls), *authority)

    def decoder(self, name: str) -> Worker:
        result = self._once((name,), lambda: self._worker("benchmarks.decoding", name))
        assert isinstance(result, Worker)
        return result

    def _worker(self, module: str, *arguments: str) -> Worker:
        worker = Worker(module, *arguments)
        self._cleanup.callback(worker.close)
        return worker

    def _once(self, key: tuple[str, ...], start: Callable[[], Any]) -> Any:
        if key not in self._workers:
            try:
                self._workers[key] = start()
            except Unavailable as reason:
                self._workers[key] = reason
        if isinstance(self._workers[key], Unavailable):
            raise self._workers[key]
        return self._workers[key]

    def _certify(self, folder: Path) -> list[str]:
        try:
            import trustme  # noqa: PLC0415  (may be missing)
        except ImportError:
            return []
        authority = trustme.CA()
        self._authority = str(folder / "authority.pem")
        authority.cert_pem.write_to_path(self._authority)
        server = folder / "server.pem"
        authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
        return [str(server)]


def _rows(
    labels: dict[str, str], start: Callable[[str], Any]
) -> tuple[dict[str, Row], dict[str, Any]]:
    """A row for each name, and what `start` gave for those that can run here."""
    rows, running = {}, {}
    for name, label in labels.items():
        rows[name] = Row(label)
        try:
            running[name] = start(name)
        except Unavailable as reason:
            rows[name].missing = str(reason)
    return rows, running


def _labels(names: Iterable[str]) -> dict[str, str]:
    return {name: PEERS[name].label for name in names}


def decode(bench: Bench, *, read: bool) -> Group:
    labels = {name: spec.label for name, spec in DECODERS.items()}
    rows, running = _rows(labels, bench.decoder)
    for row in rows.values():
        row.parts = {frame: [] for frame in MIXED}
    for frame, worker in itertools.product(MIXED, running.values()):
        worker.ask(frame=frame, calls=bench.effort.decode_calls // 3, read=read)  # to warm up
    for _ in range(2 * bench.effort.rounds):
        for frame in MIXED:
            for name, worker in running.items():
                answer = worker.ask(frame=frame, calls=bench.effort.decode_calls, read=read)
                rows[name].parts[frame].append(answer["seconds"])
    for row in rows.values():
        row.seconds = [statistics.mean(each) for each in zip(*row.parts.values(), strict=True)]
    if read:
        title = "Decode one frame and read every field (mean of three kinds)"
        return Group("decode-read", title, "rate", rows)
    title = "Decode one frame to an event, nothing read (mean of three kinds)"
    return Group("decode", title, "rate", rows, against=("isal-orjson", "floor"))


def burst(bench: Bench, *, tls: bool) -> Group:
    rows = _bursts(bench, _CLIENTS, tls)
    wire = "TLS" if tls else "plain TCP"
    title = f"Socket to callback, a burst of {bench.effort.burst_frames:,} frames, {wire}"
    return Group(f"burst-{_wire(tls)}", title, "rate", rows, against=("picows",))


def journal_burst(bench: Bench) -> Group:
    rows = _bursts(bench, JOURNALS, tls=False)
    title = f"A burst of {bench.effort.burst_frames:,} frames, with a journal and without"
    return Group("journal-burst", title, "rate", rows, against=("fastpos-native",))


def publisher_burst(bench: Bench) -> Group:
    rows = _bursts(bench, PUBLISHERS, tls=False)
    title = f"A burst of {bench.effort.burst_frames:,} frames, with a publisher and without"
    return Group("publisher-burst", title, "rate", rows, against=("fastpos-native",))


def journal_busy(bench: Bench) -> Group:
    rows = _busy(bench, JOURNALS, tls=False, frames=1)
    title = "Latency beside a busy thread, single frames, with a journal and without"
    return Group("journal-busy", title, "latency", rows, against=("fastpos-native",))


def off_socket(bench: Bench, *, tls: bool) -> Group:
    rows = _bursts(bench, _EMPTY, tls)
    wire = "TLS" if tls else "plain TCP"
    title = f"Frames off the socket, nothing decoded, {wire}"
    return Group(f"off-socket-{_wire(tls)}", title, "rate", rows, against=("app-empty",))


def _bursts(bench: Bench, names: Iterable[str], tls: bool) -> dict[str, Row]:
    rows, running = _rows(_labels(names), lambda name: bench.connected(name, tls))
    for client in running.values():
        client.burst(bench.effort.burst_frames // 3)  # to warm up, and for TCP's window to grow
    for _ in range(bench.effort.rounds):
        for name, client in running.items():
            rows[name].seconds.append(client.burst(bench.effort.burst_frames))
    return rows


def latency_idle(bench: Bench, *, tls: bool) -> Group:
    rows, running = _rows(_labels(_CLIENTS), lambda name: bench.connected(name, tls))
    for _ in range(bench.effort.rounds):
        for name, client in running.items():
            # The first frames meet caches that the peer before has filled.
            samples = client.latencies(1, [0.005] * (bench.effort.single_frames + 3))
            rows[name].seconds += samples[3:]
    title = f"Latency, one frame every 5 ms, idle host, {'TLS' if tls else 'plain TCP'}"
    return Group(f"latency-idle-{_wire(tls)}", title, "latency", rows, against=("picows",))


def latency_busy(bench: Bench, *, tls: bool, frames: int) -> Group:
    rows = _busy(bench, _CLIENTS, tls=tls, frames=frames)
    what, wire = "single" if frames == 1 else "burst", "TLS" if tls else "plain TCP"
    kind = "single frames" if frames == 1 else f"bursts of {frames}"
    title = f"Latency beside a busy thread, {kind}, {wire}"
    name = f"latency-busy-{what}-{_wire(tls)}"
    return Group(name, title, "latency", rows, against=("picows",))


def _busy(bench: Bench, names: Iterable[str], *, tls: bool, frames: int) -> dict[str, Row]:
    """With a busy thread beside the client: single frames, or bursts of `frames`.

    Single frames come slowly enough for the slowest peer to be done with the one before, and
    a burst waits for the end of the one before, so each is measured for itself. Pauses vary:
    a fixed one could fall in step with the interpreter's switch interval.
    """
    rows, running = _rows(_labels(names), lambda name: bench.connected(name, tls))
    chance = random.Random(4)
    effort = bench.effort
    for _ in range(effort.busy_rounds):
        for name, client in running.items():
            client.worker.ask(do="busy", on=True)
            samples = rows[name].seconds
            if frames == 1:
                pauses = [chance.uniform(0.05, 0.07) for _ in range(effort.busy_singles)]
                samples += client.latencies(1, pauses)
            else:
                for _ in range(effort.busy_bursts):
                    samples += client.latencies(frames, [chance.uniform(0.03, 0.05)])
            client.worker.ask(do="busy", on=False)
    return rows


def idle(bench: Bench) -> Group:
    """Ten streams more in a process that has one: what each adds, in memory and CPU time.

    Resident memory is the system's view, traced memory is Python's alone, which needs a run of
    its own because tracing costs memory and time itself.
    """
    rows, plain = _rows(_labels(_IDLE), lambda name: _Idle(bench, name))
    traced = {name: _Idle(bench, name, PYTHONTRACEMALLOC="1") for name in plain}
    clients = [*plain.values(), *traced.values()]

    def tick(seconds: int) -> None:
        keys = [key for client in clients for key in client.keys]
        bench.server.ask(do="tick", to=keys, seconds=seconds)

    tick(1)
    for client in clients:
        client.grow(_IDLE_STREAMS)
    tick(1)
    for name, row in rows.items():
        if name in plain:
            row.extra["resident KiB"] = plain[name].grown("resident") / _IDLE_STREAMS / 1024
            row.extra["traced KiB"] = traced[name].grown("traced") / _IDLE_STREAMS / 1024
    before = {name: client.cpu() for name, client in plain.items()}
    tick(bench.effort.idle_seconds)
    for name, client in plain.items():
        spent = client.cpu() - before[name]
        rows[name].seconds = [spent / len(client.keys) / bench.effort.idle_seconds]
    for client in clients:
        client.worker.close()
    return Group("idle", "One more stream, idle but for one tick a second", "idle", rows)


class _Idle:
    """A process with many streams of one peer."""

    def __init__(self, bench: Bench, peer: str, **environment: str) -> None:
        self.worker = Worker("benchmarks.client", peer, bench.url(tls=False), **environment)
        self.keys: list[str] = []
        self._name = f"idle {peer} {sorted(environment)}"
        self._open()  # pays for what all streams share

    def grow(self, streams: int) -> None:
        self._before = self._memory()
        for _ in range(streams):
            self._open()

    def grown(self, measure: str) -> float:
        """Bytes more than before `grow`."""
        return float(self._memory()[measure] - self._before[measure])

    def cpu(self) -> float:
        return float(self.worker.ask(do="cpu")["seconds"])

    def _open(self) -> None:
        self.keys.append(f"{self._name} {len(self.keys)}")
        self.worker.ask(do="open", key=self.keys[-1])

    def _memory(self) -> dict[str, Any]:
        return self.worker.ask(do="memory")


def _wire(tls: bool) -> str:
    return "tls" if tls else "plain"


class Plan(NamedTuple):
    """One group before it is measured."""

    peers: tuple[str, ...]
    run: Callable[[Bench], Group]


GROUPS = {
    "decode": Plan(tuple(DECODERS), lambda bench: decode(bench, read=False)),
    "decode-read": Plan(tuple(DECODERS), lambda bench: decode(bench, read=True)),
    "burst-plain": Plan(_CLIENTS, lambda bench: burst(bench, tls=False)),
    "burst-tls": Plan(_CLIENTS, lambda bench: burst(bench, tls=True)),
    "off-socket-plain": Plan(_EMPTY, lambda bench: off_socket(bench, tls=False)),
    "off-socket-tls": Plan(_EMPTY, lambda bench: off_socket(bench, tls=True)),
    "latency-idle-plain": Plan(_CLIENTS, lambda bench: latency_idle(bench, tls=False)),
    "latency-idle-tls": Plan(_CLIENTS, lambda bench: latency_idle(bench, tls=True)),
    "latency-busy-single-plain": Plan(
        _CLIENTS, lambda bench: latency_busy(bench, tls=False, frames=1)
    ),
    "latency-busy-single-tls": Plan(
        _CLIENTS, lambda bench: latency_busy(bench, tls=True, frames=1)
    ),
    "latency-busy-burst-plain": Plan(
        _CLIENTS, lambda bench: latency_busy(bench, tls=False, frames=50)
    ),
    "latency-busy-burst-tls": Plan(
        _CLIENTS, lambda bench: latency_busy(bench, tls=True, frames=50)
    ),
    "idle": Plan(_IDLE, idle),
    "fleet-plain": Plan(FLEETS, lambda bench: fleet(bench, tls=False)),
    "fleet-tls": Plan(FLEETS, lambda bench: fleet(bench, tls=True)),
    "fleet-scale": Plan(tuple(SCALED), scale),
    "journal-burst": Plan(JOURNALS, journal_burst),
    "journal-busy": Plan(JOURNALS, journal_busy),
    "journal-read": Plan(tuple(REREAD), reread),
    "publisher-burst": Plan(PUBLISHERS, publisher_burst),
    "publisher-rate": Plan(tuple(PUBLISHED), published),
    "publisher-size": Plan(tuple(SIZES), sizes),
    "takeover": Plan(tuple(TAKEOVERS), takeover),
    "closing": Plan(tuple(CLOSING), closing),
}
"""Every group by its name, in the order in which they are shown."""
