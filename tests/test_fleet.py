"""Many streams on few threads, over real sockets."""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest

from fastpos import (
    AuthenticationError,
    FastposError,
    Fleet,
    Position,
    PositionStream,
    ReconnectPolicy,
    Snapshot,
)
from fastpos.net.connection import Connection
from fastpos.runtime.crew import Crew
from fastpos.runtime.link import Buffers, Link
from fastpos.runtime.loop import LONGEST_WAIT, SNAPSHOT_THREADS
from fastpos.simulator import Exchange
from tests.support.bench import Bench
from tests.support.certificates import Certificates
from tests.support.connections import concurrently
from tests.support.programs import said
from tests.support.pushes import order
from tests.support.recording import SOON, Recorder, logged, until

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

NewStream = Callable[..., PositionStream]


@pytest.fixture
def new_fleet(new_stream: NewStream) -> Iterator[Callable[..., Fleet]]:
    """Makes fleets, and stops them when the test ends."""
    fleets: list[Fleet] = []

    def new(*streams: PositionStream, **options: Any) -> Fleet:
        fleets.append(Fleet(streams, **{"connect_rate": None, **options}))
        return fleets[-1]

    yield new
    for fleet in fleets:
        fleet.stop()


NewFleet = Callable[..., Fleet]


def ours() -> list[str]:
    """The names of the threads that are not the simulator's."""
    names = [thread.name for thread in threading.enumerate()]
    return sorted(n for n in names if n.startswith("fastpos-") and "-exchange-" not in n)


# --- as alone -------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True])
def test_each_stream_gets_what_is_its_own(
    new_stream: NewStream, new_fleet: NewFleet, certificates: Certificates, tls: bool
) -> None:
    with ExitStack() as rigs:
        options = {"ssl_context": certificates.good.context()} if tls else {}
        exchanges = [rigs.enter_context(Exchange(**options)) for _ in range(5)]
        recorders = [Recorder() for _ in exchanges]
        streams = [
            new_stream(
                exchange,
                name=f"account-{number}",
                ssl_context=certificates.client_context() if tls else None,
                **recorder.callbacks,
            )
            for number, (exchange, recorder) in enumerate(zip(exchanges, recorders, strict=True))
        ]
        fleet = new_fleet(*streams).start()
        assert fleet.wait_ready(SOON)
        until(lambda: len(ours()) == 2, what="that the threads which connect have ended")
        for number, exchange in enumerate(exchanges):
            for id in range(number + 1):
                exchange.push(order(id))
            exchange.open_position(volume=number + 1)
        for number, (stream, recorder) in enumerate(zip(streams, recorders, strict=True)):
            recorder.wait("on_position")
            assert [int(event.order_id) for event in recorder.on_order] == [*range(number + 1)]
            told = {event.stream for _, event in recorder.calls}
            assert told == {stream.name} == {stream.stats.stream}
            assert [position.volume for position in stream.positions.values()] == [number + 1]
            assert stream.stats.events == {"Order": number + 1, "AccountUpdate": 1}
        assert fleet.stats[:5] == (5, 5, 0, 0, 0)
        assert fleet.stats.messages == sum(stream.stats.messages for stream in streams)
        fleet.stop()
        for exchange, recorder in zip(exchanges, recorders, strict=True):
            assert exchange.violations == []
            assert exchange.wait_for("unsub", SOON)
            assert recorder.on_disconnect[-1].reason == "stopped"
            assert recorder.on_error == []
        assert ours() == []
        assert not fleet.wait_ready(0)


def test_a_lost_connection_comes_back_and_a_snapshot_is_taken(
    bench: Bench, new_fleet: NewFleet
) -> None:
    id = bench.exchange.open_position()
    snapshot = Snapshot([Position(id=id, volume=7)], [])
    stream = bench.new(snapshot=lambda: snapshot)
    with new_fleet(stream):
        until(lambda: stream.synced, what="a snapshot")
        bench.exchange.drop()
        ready = bench.wait("on_ready", 2)[1]
        assert ready.gap_s > 0
        bench.wait("on_synced", 2)
        assert stream.positions[id].volume == 7
    assert bench.recorder.on_disconnect[0].retry_in_s is not None


def test_pings_go_out_while_a_callback_takes_its_time(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet, caplog: pytest.LogCaptureFixture
) -> None:
    with Exchange() as other:
        slow = bench.new(name="slow", slow_callback_s=0.1)
        slow.on_order = bench.gate
        options = {"ping_interval": 0.1, "pong_timeout": 1.0}
        fleet = new_fleet(slow, new_stream(other, **options), bench.new(name="beside", **options))
        with fleet:
            assert fleet.wait_ready(SOON)
            bench.push(1)
            assert bench.entered.wait(SOON)
            for exchange in (other, bench.exchange):
                assert exchange.wait_for("ping", SOON, exchange.counts["ping"] + 8)
            assert slow.stats.current_callback is not None
            bench.open.set()
            # The others may have had a long turn before, where the machine had no time for them.
            until(lambda: fleet.stats.slowest_turn == "slow" and fleet.stats.slowest_turn_s > 0.1)
            assert fleet.stats.ready == 3
        assert [event.reason for event in bench.recorder.on_disconnect] == ["stopped"] * 3


def test_a_dead_connection_is_noticed(bench: Bench, new_fleet: NewFleet) -> None:
    with new_fleet(bench.new(ping_interval=0.1, pong_timeout=0.1)) as fleet:
        assert fleet.wait_ready(SOON)
        bench.exchange.stall()
        assert "no pong" in bench.wait("on_disconnect")[0].reason
        bench.exchange.resume()
        bench.wait("on_ready", 2)


def test_pausing(bench: Bench, new_fleet: NewFleet) -> None:
    stream = bench.new()
    stream.unsubscribe()
    with new_fleet(stream):
        assert bench.exchange.wait_for_clients(1)
        assert not stream.wait_ready(0.1)
        stream.subscribe()
        assert stream.wait_ready(SOON)
        stream.unsubscribe()
        assert bench.exchange.wait_for("unsub")


# --- one does not suffer from another -------------------------------------------------------------


def test_what_ends_or_troubles_one_is_nothing_to_the_others(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet
) -> None:
    with Exchange() as odd, socket.create_server(("127.0.0.1", 0)) as silent:
        hung = f"ws://127.0.0.1:{silent.getsockname()[1]}/"
        good, refused = bench.new(), new_stream(odd, api_key="wrong", name="refused")
        noisy = new_stream(odd, name="noisy", on_order=_raising)
        fleet = new_fleet(good, refused, noisy, new_stream(hung, connect_timeout=SOON))
        with fleet:
            assert good.wait_ready(SOON)
            assert noisy.wait_ready(SOON)
            with pytest.raises(AuthenticationError):
                refused.join(SOON)
            odd.push(order(1))
            odd.push_bytes(b"no gzip")
            until(lambda: noisy.stats.callback_errors == noisy.stats.decode_errors == 1)
            for number in range(100):
                bench.push(number)
            bench.wait("on_order", 100)
            assert good.stats.connects == noisy.stats.connects == 1
            assert fleet.stats[:5] == (4, 2, 1, 0, 1)
            assert list(fleet.streams) == [good.name, "refused", "noisy", *list(fleet.streams)[3:]]


def _raising(_: object) -> None:
    raise ValueError("in a callback")


def test_a_flood_is_read_by_turns(bench: Bench, new_stream: NewStream, new_fleet: NewFleet) -> None:
    sent, seen = threading.Event(), []
    with Exchange() as flooding:
        flood = new_stream(flooding, name="flood", on_order=lambda _: sent.wait(SOON))
        other = bench.new()
        other.on_order(lambda _: seen.append(flood.stats.events["Order"]))
        with new_fleet(flood, other) as fleet:
            assert fleet.wait_ready(SOON)
            for number in range(5000):
                flooding.push(order(number))
            bench.push(1)
            until(other._driver.link._connection.unread)  # type: ignore[union-attr]
            sent.set()
            until(lambda: flood.stats.events["Order"] == 5000 and seen)
            assert seen[0] < 5000


# --- connecting -----------------------------------------------------------------------------------


def test_so_many_connect_in_a_second_and_at_once(bench: Bench, new_fleet: NewFleet) -> None:
    streams = [bench.new() for _ in range(8)]
    began = time.monotonic()
    with new_fleet(*streams, connect_rate=20, connect_threads=2) as fleet:
        assert fleet.wait_ready(SOON)
    came = sorted(connection.connected_at for connection in bench.exchange.connections)
    assert len(came) == 8
    # From before the first, as that may have come late.
    assert came[-1] - began >= 7 / 20


def test_who_has_a_position_connects_first(bench: Bench, new_fleet: NewFleet) -> None:
    asked: list[int] = []  # for their keys

    def key(number: int) -> str:
        asked.append(number)
        return bench.exchange.api_key

    streams = [bench.new(api_key=partial(key, number)) for number in range(6)]
    fleet = new_fleet(*streams, connect_rate=50, connect_threads=1)
    streams[4].book.load(
        '{"version":1,"positions":[{"complete":true,"wire":{"id":7,"pv":1}}],'
        '"balances":[],"orders":[],"triggers":[]}'
    )
    with fleet:
        assert fleet.wait_ready(SOON)
    assert asked == [4, 0, 1, 2, 3, 5]


def test_who_is_told_to_slow_down_slows_down_all_of_the_host(
    bench: Bench, new_fleet: NewFleet
) -> None:
    bench.exchange.refuse_upgrade(429, headers={"Retry-After": "1"}, times=1)
    streams = [bench.new() for _ in range(4)]
    waiting: list[int] = []
    for stream in streams:
        stream.on_disconnect(lambda _: waiting.append(fleet.stats.waiting))
    with new_fleet(*streams, connect_threads=1) as fleet:
        refused = bench.wait("on_disconnect")[0]
        assert refused.retry_in_s >= 1
        until(lambda: waiting)
        assert waiting[0] == 3
        assert fleet.wait_ready(SOON)
    first = min(connection.connected_at for connection in bench.exchange.connections)
    told = bench.recorder.times["on_disconnect"][0]
    assert first - told > 0.8


def test_new_streams_that_hang_leave_a_thread_to_those_that_were_in_service(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = f"ws://127.0.0.1:{silent.getsockname()[1]}/"
        fleet = new_fleet(bench.new(ping_interval=0.1), connect_threads=4).start()
        assert fleet.wait_ready(SOON)
        for _ in range(6):
            fleet.add(new_stream(hung, connect_timeout=60))
        until(lambda: fleet.stats.connecting == 3)
        bench.exchange.drop()
        assert bench.wait("on_ready", 2)
        assert fleet.stats[:4] == (7, 1, 3, 3)
        used = time.process_time()  # the others wait without looking all the time
        assert bench.exchange.wait_for("ping", SOON, bench.exchange.counts["ping"] + 20)
        assert time.process_time() - used < 1.0


def test_a_fleet_that_connects_is_stopped_at_once(bench: Bench, new_fleet: NewFleet) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hung = f"ws://127.0.0.1:{silent.getsockname()[1]}/"
        fleet = new_fleet(
            *(
                PositionStream(hung, api_key="k", broker=1, proxy="", connect_timeout=60)
                for _ in range(5)
            ),
            connect_threads=2,
        ).start()
        until(lambda: fleet.stats.connecting == 2)
        began = time.monotonic()
        fleet.stop(20.0)
        assert time.monotonic() - began < 8.0
    assert fleet.stats.ended == 5
    assert ours() == []


# --- adding and removing --------------------------------------------------------------------------


def test_streams_come_and_go_while_it_runs(bench: Bench, new_fleet: NewFleet) -> None:
    first, second = bench.new(name="first"), bench.new(name="second")
    with new_fleet() as fleet:
        assert fleet.wait_ready(SOON)
        assert fleet.add(first) is first
        first.on_order(lambda _: fleet.add(second))
        assert first.wait_ready(SOON)
        bench.push(1)
        until(lambda: second.name in fleet.streams and second.wait_ready(SOON))
        first.on_order = lambda _: fleet.remove(first)
        bench.push(2)
        assert first.join(SOON)
        assert [*fleet.streams] == ["second"]
        assert second.stats.disconnects == {}
    fleet.remove(second)
    first.on_order = None
    with first, new_fleet(second):  # each may go elsewhere
        assert first.wait_ready(SOON)
        assert second.wait_ready(SOON)


def test_what_does_not_fit_is_refused(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet
) -> None:
    stream, thread = bench.new(name="one"), bench.new(dispatch="thread")
    fleet = new_fleet(stream)
    for odd, error, words in (
        (stream, ValueError, "name one"),
        (bench.new(name="one"), ValueError, "name one"),
        (thread, ValueError, "dispatch"),
        ("a stream", TypeError, "PositionStream"),
    ):
        with pytest.raises(error, match=words):
            fleet.add(odd)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="in a fleet already"):
        new_fleet().add(stream)
    with bench.new() as running, pytest.raises(RuntimeError, match="running"):
        fleet.add(running)
    for start in (stream.start, stream.run_forever):
        with pytest.raises(RuntimeError, match="in a fleet"):
            start()
    with pytest.raises(ValueError, match="not in the fleet"):
        fleet.remove(thread)
    assert [*fleet.streams.values()] == [stream]
    with pytest.raises(TypeError, match="copied"):
        __import__("copy").copy(fleet)


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("connect_rate", 0, ValueError),
        ("connect_rate", "20", TypeError),
        ("connect_rate", True, TypeError),
        ("connect_threads", 0, ValueError),
        ("connect_threads", 1.5, TypeError),
    ],
)
def test_arguments(name: str, value: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=name):
        Fleet(**{name: value})


# --- the life cycle -------------------------------------------------------------------------------


def test_stop_in_a_callback_and_again(bench: Bench, new_fleet: NewFleet) -> None:
    streams = [bench.new() for _ in range(3)]
    fleet = new_fleet(*streams)
    for _ in range(2):
        fleet.start()
        assert fleet.wait_ready(SOON)
        with pytest.raises(RuntimeError, match="running already"):
            fleet.start()
        streams[0].on_order = lambda _: fleet.stop()
        bench.push(1)
        assert fleet.join(SOON)
        assert all(stream.join(0) for stream in streams)
        assert ours() == []


def test_one_stream_is_stopped_and_the_others_go_on(bench: Bench, new_fleet: NewFleet) -> None:
    first, second = bench.new(), bench.new()
    with new_fleet(first, second) as fleet:
        assert fleet.wait_ready(SOON)
        first.stop()
        assert first.join(SOON)
        bench.push(1)
        bench.wait("on_order")
        assert fleet.wait_ready(SOON)
        assert fleet.stats[:5] == (2, 1, 0, 0, 1)


def test_run_forever_and_what_a_callback_raises_to_end_it(
    bench: Bench, new_fleet: NewFleet
) -> None:
    streams = [bench.new() for _ in range(2)]
    fleet = new_fleet(*streams)

    def leave(_: object) -> None:
        sys.exit(3)

    streams[1].on_order(leave)

    def push() -> None:
        until(lambda: fleet.wait_ready(0), what="that it is ready")
        bench.push(1)

    with concurrently(push), pytest.raises(SystemExit):
        fleet.run_forever()
    assert bench.exchange.wait_for("unsub", SOON, 2)
    assert all(stream.stats.disconnects == {"stopped": 1} for stream in streams)
    with fleet:  # on a thread of its own it ends nothing
        assert fleet.wait_ready(SOON)
        bench.push(2)
        until(lambda: streams[1].stats.callback_errors)
        assert fleet.stats.ready == 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_run_forever(bench: Bench, new_fleet: NewFleet, number: int) -> None:
    fleet = new_fleet(bench.new(), bench.new())

    def send() -> None:
        until(lambda: fleet.wait_ready(0), what="that it is ready")
        signal.pthread_kill(threading.main_thread().ident or 0, number)

    before = signal.signal(signal.SIGTERM, lambda *_: fleet.stop())
    try:
        with concurrently(send):
            if number == signal.SIGINT:
                with pytest.raises(KeyboardInterrupt):
                    fleet.run_forever()
            else:
                fleet.run_forever()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert bench.exchange.wait_for("unsub", SOON, 2)
    assert fleet.join(0)


FORKS = """import os, time, warnings
from fastpos import Fleet, PositionStream
from fastpos.simulator import Exchange
from tests.support.pushes import order

warnings.simplefilter("ignore")  # of threads beside a fork
with Exchange() as exchange:
    got, pids = [], []
    def handle(event):
        got.append(event.order_id)
        if len(got) == 1:
            pids.append(os.fork())
    streams = [
        PositionStream(exchange.url, api_key=exchange.api_key, broker=exchange.broker)
        for _ in range(2)
    ]
    streams[0].on_order(handle)
    fleet = Fleet(streams)
    parent = os.getpid()
    fleet.start()
    assert fleet.wait_ready(20)
    for number in range(3):
        exchange.push(order(number))
    deadline = time.monotonic() + 20
    while len(got) < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    pid, status = os.waitpid(pids[0], 0)
    print(status, got, fleet.stats.ready)
    fleet.stop()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_child_that_is_forked_in_a_callback_gets_nothing_and_does_nothing() -> None:
    output = said(FORKS)
    assert output.split() == ["0", "['0',", "'1',", "'2']", "2"]


def test_snapshots_are_asked_for_on_a_few_threads(bench: Bench, new_fleet: NewFleet) -> None:
    asking: list[int] = []
    most: list[int] = []

    def source() -> Snapshot:
        asking.append(1)
        most.append(len(asking))
        bench.gate(None)
        asking.pop()
        return Snapshot([], [])

    streams = [bench.new(snapshot=source) for _ in range(SNAPSHOT_THREADS + 4)]
    with new_fleet(*streams) as fleet:
        assert fleet.wait_ready(SOON)
        until(lambda: len(asking) == SNAPSHOT_THREADS)
        bench.open.set()
        until(lambda: all(stream.synced for stream in streams))
        assert max(most) == SNAPSHOT_THREADS


# --- callback threads -----------------------------------------------------------------------------


def test_with_callback_threads_a_slow_function_holds_one_of_them(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet
) -> None:
    names: dict[str, set[str]] = {"slow": set(), "quick": set()}

    def note(event: Any) -> None:
        names[event.stream].add(threading.current_thread().name)

    with Exchange() as other:
        slow = new_stream(other, name="slow", queue_size=10)
        slow.on_order = bench.gate
        slow.on_order(note)
        quick = bench.new(name="quick")
        quick.on_order(note)
        with new_fleet(slow, quick, callback_threads=2) as fleet:
            assert fleet.wait_ready(SOON)
            other.push(order(1))
            assert bench.entered.wait(SOON)
            bench.push(*range(100))
            bench.wait("on_order", 100)
            assert bench.orders == [*range(100)]
            assert slow.stats.current_callback is not None
            with pytest.raises(RuntimeError, match="in a fleet"):
                slow.start()
            bench.open.set()
            until(lambda: names["slow"])
    for threads in names.values():
        assert all(name.startswith("fastpos-callbacks-") for name in threads)
    assert ours() == []


def test_a_full_queue_leaves_its_stream_unread_and_nothing_is_lost(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet, caplog: pytest.LogCaptureFixture
) -> None:
    with Exchange() as other:
        got: list[int] = []
        options = {"ping_interval": 0.1, "pong_timeout": 1.0}
        slow = new_stream(other, name="slow", on_order=bench.gate, queue_size=5, **options)
        slow.on_order(lambda event: got.append(int(event.order_id)))
        with new_fleet(slow, bench.new(), callback_threads=2) as fleet:
            assert fleet.wait_ready(SOON)
            for number in range(3000):
                other.push(order(number))
            until(lambda: logged(caplog, "queue_full"), what="a full queue")
            read = slow.stats.messages
            bench.push(1)
            bench.wait("on_order")
            assert other.wait_for("ping", SOON, other.counts["ping"] + 15)
            assert slow.stats.messages == read < 3000
            bench.open.set()
            until(lambda: len(got) == 3000, 20)
            assert got == [*range(3000)]
            assert slow.stats.disconnects == {}
            error = bench.recorder.on_error[0]
            assert ("queue is full" in str(error), error.stream) == (True, "slow")


@pytest.mark.parametrize("trouble", ["attempts", "snapshots"])
def test_a_full_queue_holds_up_whatever_would_bring_more_to_tell(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet, trouble: str
) -> None:
    tried: dict[str, int] = {"slow": 0, "quick": 0}

    def key(name: str) -> str:
        tried[name] += trouble == "attempts"
        return bench.exchange.api_key

    def source(name: str) -> Snapshot:
        tried[name] += trouble == "snapshots"
        raise OSError("no snapshot")

    slow, quick = (
        bench.new(
            name=name, queue_size=4, api_key=partial(key, name), snapshot=partial(source, name)
        )
        for name in tried
    )
    slow.on_disconnect(bench.gate)
    slow.on_order(bench.gate)
    with new_fleet(slow, quick, callback_threads=2) as fleet:
        assert fleet.wait_ready(SOON)
        if trouble == "attempts":
            bench.exchange.refuse_upgrade(503)
            bench.exchange.drop()
        else:
            bench.push(1)
        assert bench.entered.wait(SOON)
        before = dict(tried)
        until(lambda: tried["quick"] > before["quick"] + 6)
        assert slow.stats.queue_depth <= 6
        assert tried["slow"] <= before["slow"] + 7
        bench.exchange.clear_faults()
        bench.open.set()
        assert fleet.wait_ready(SOON)
        until(lambda: tried["slow"] > before["slow"] + 7 * (trouble == "snapshots"))


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_what_waits_is_not_delivered_after_a_stop(
    bench: Bench, new_fleet: NewFleet, threads: int
) -> None:
    stream = bench.new(on_order=bench.gate)
    fleet = new_fleet(stream, bench.new(), callback_threads=threads).start()
    assert fleet.wait_ready(SOON)
    bench.push(*range(50))
    assert bench.entered.wait(SOON)
    with concurrently(fleet.stop) as stopping:
        until(lambda: stream.stats.current_callback_s > 0.2)
        bench.open.set()
        stopping.result(SOON)
    assert fleet.join(SOON)
    assert stream.join(0)
    assert stream.stats.disconnects == {"stopped": 1}
    assert len(bench.orders) < 100
    assert ours() == []


@pytest.mark.parametrize("threads", [0, 2])
def test_a_callback_that_outlasts_a_stop_is_left_to_finish(
    bench: Bench, new_fleet: NewFleet, threads: int
) -> None:
    stream = bench.new(on_order=bench.gate)
    fleet = new_fleet(stream, callback_threads=threads).start()
    assert fleet.wait_ready(SOON)
    bench.push(1, 2)
    assert bench.entered.wait(SOON)
    began = time.monotonic()
    fleet.stop(timeout=0.3)
    assert time.monotonic() - began < SOON / 2
    assert not fleet.join(0)
    bench.open.set()
    assert fleet.join(SOON)
    assert bench.recorder.on_disconnect == []  # nothing is called after that


def test_stop_in_a_callback_on_a_thread_of_a_pool(bench: Bench, new_fleet: NewFleet) -> None:
    stream = bench.new()
    fleet = new_fleet(stream, bench.new(), callback_threads=2)
    stream.on_order(lambda _: fleet.stop())
    fleet.start()
    assert fleet.wait_ready(SOON)
    bench.push(1)
    assert fleet.join(SOON)
    assert ours() == []


def test_no_thread_is_left_when_the_fleet_has_ended(
    bench: Bench, new_fleet: NewFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, ending = Crew._work, threading.Event()

    def linger(crew: Crew) -> None:
        work(crew)
        ending.wait(SOON)

    monkeypatch.setattr(Crew, "_work", linger)
    fleet = new_fleet(*(bench.new() for _ in range(3))).start()
    assert fleet.wait_ready(SOON)
    assert any(name.startswith("fastpos-connect-") for name in ours())
    with concurrently(fleet.join) as joining:
        fleet.stop(0)
        until(lambda: fleet.stats.ended == 3)
        ending.set()
        assert joining.result(SOON)
    assert ours() == []


# --- what goes wrong ------------------------------------------------------------------------------


def test_one_thread_is_enough_to_connect_many(bench: Bench, new_fleet: NewFleet) -> None:
    with new_fleet(*(bench.new() for _ in range(36)), connect_threads=1) as fleet:
        assert fleet.wait_ready(LONGEST_WAIT * 24)  # none has waited for another's time to look


def test_a_start_that_fails_leaves_nothing_behind(
    bench: Bench, new_fleet: NewFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = bench.new()
    fleet = new_fleet(stream, callback_threads=2)

    def fail(*_: object) -> None:
        raise ImportError("a module of yours")

    for start in (fleet.start, fleet.run_forever):
        with monkeypatch.context() as patched:
            patched.setattr("fastpos.net.upgrade.import_websocket_client", fail)
            with pytest.raises(ImportError):
                start()
        assert fleet.join(0)
        until(lambda: ours() == [])
    with fleet:
        assert fleet.wait_ready(SOON)
        late = bench.new(name="late")
        with monkeypatch.context() as patched:
            patched.setattr("fastpos.net.upgrade.import_websocket_client", fail)
            with pytest.raises(ImportError):
                fleet.add(late)
        assert fleet.add(late).wait_ready(SOON)


def test_an_opening_of_the_run_before_is_nothing_to_the_next(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet
) -> None:
    asked = threading.Event()

    def key() -> str:
        if not asked.is_set():
            asked.set()
            bench.gate(None)
        return bench.exchange.api_key

    with Exchange() as other:
        stream = bench.new(api_key=key)
        fleet = new_fleet(stream, new_stream(other, on_order=lambda _: sys.exit(3)))

        def interrupt() -> None:
            assert bench.entered.wait(SOON)
            other.wait_for_subscribers(1, timeout=SOON)
            other.push(order(1))

        with concurrently(interrupt), pytest.raises(SystemExit):
            fleet.run_forever()
        with fleet:
            assert fleet.wait_ready(SOON)
            bench.open.set()
            bench.push(1, 2)
            bench.wait("on_order", 2)
            assert bench.orders == [1, 2]
            assert len(bench.exchange.connections) == 1


def test_a_policy_that_raises_ends_its_stream_alone(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet
) -> None:
    class Odd(ReconnectPolicy):
        def delay(self, *_: object, **__: object) -> float:
            raise ValueError("no idea")

    with (
        Exchange() as other,
        new_fleet(bench.new(), new_stream(other, reconnect=Odd(), name="odd")) as fleet,
    ):
        assert fleet.wait_ready(SOON)
        other.drop()
        with pytest.raises(FastposError, match="no idea"):
            fleet.streams["odd"].join(SOON)
        bench.push(1)
        bench.wait("on_order")


def test_a_link_does_not_wait_while_there_is_more_that_the_kernel_does_not_have(
    bench: Bench,
) -> None:
    link: Any = Link(Connection("ws://h/"), print, Buffers(), print)  # type: ignore[arg-type]
    link._transport = SimpleNamespace(has_more=True)
    assert link.rest()
    assert not link._waiting
    link._transport.has_more = False
    assert not link.rest()
    assert link._waiting


def test_a_pause_is_kept_and_taken_back_over_a_fleet(bench: Bench, new_fleet: NewFleet) -> None:
    stream = bench.new()
    stream.unsubscribe()
    fleet = new_fleet(stream)
    stream.subscribe()
    fleet.remove(stream)
    with stream:
        assert stream.wait_ready(SOON)
    stream.unsubscribe()
    with new_fleet(stream):
        assert bench.exchange.wait_for_clients(1)
        assert not stream.wait_ready(0.1)


def test_a_signal_handler_that_has_interrupted_add_can_stop(
    bench: Bench, new_fleet: NewFleet
) -> None:
    fleet = new_fleet(bench.new()).start()
    assert fleet.wait_ready(SOON)
    began = time.monotonic()
    with fleet._changing:  # as in the midst of add()
        fleet.stop(12.0)
    assert time.monotonic() - began < 6.0
    assert fleet.join(0)


def test_one_stream_is_removed_in_a_callback_of_another_on_the_same_thread(
    bench: Bench, new_stream: NewStream, new_fleet: NewFleet
) -> None:
    with Exchange() as other:
        first, second = bench.new(), new_stream(other)
        took: list[float] = []

        def remove(_: object) -> None:
            began = time.monotonic()
            fleet.remove(second)
            took.append(time.monotonic() - began)

        first.on_order(remove)
        fleet = new_fleet(first, second, callback_threads=1)
        with fleet:
            assert fleet.wait_ready(SOON)
            bench.push(1)
            assert second.join(SOON)
            until(lambda: took)
            assert took[0] < 3.0


def test_an_exit_in_a_credentials_callable_ends_run_forever(
    bench: Bench, new_fleet: NewFleet
) -> None:
    def leave() -> str:
        sys.exit(3)

    with pytest.raises(SystemExit):
        new_fleet(bench.new(), bench.new(api_key=leave)).run_forever()


def test_streams_of_a_fleet_that_a_callback_has_ended_are_not_in_sync(
    bench: Bench, new_fleet: NewFleet
) -> None:
    streams = [bench.new(snapshot=lambda: Snapshot([], [])) for _ in range(3)]
    streams[0].on_disconnect(lambda _: sys.exit(3))
    fleet = new_fleet(*streams)

    def drop() -> None:
        until(lambda: all(stream.synced for stream in streams))
        bench.exchange.drop()

    with concurrently(drop), pytest.raises(SystemExit):
        fleet.run_forever()
    assert not any(stream.synced for stream in streams)
    assert all(stream.join(0) for stream in streams)
