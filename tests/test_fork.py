"""`os.fork()` in the host: the child's copy of a stream refuses, and the parent's goes on."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import re
import signal
import socket
import textwrap
from collections.abc import Callable
from typing import Any

import pytest

from fastpos import PositionStream
from fastpos.simulator import Exchange
from tests.support.bench import Bench
from tests.support.certificates import Certificates
from tests.support.connections import concurrently
from tests.support.programs import finish, streaming
from tests.support.pushes import load, order, push_frame
from tests.support.recording import SOON, Recorder
from tests.support.servers import ScriptedServer, answer_until_close, serve_subscription

if not hasattr(os, "fork"):
    pytest.skip("no os.fork() here", allow_module_level=True)

NewStream = Callable[..., PositionStream]

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.usefixtures("tidy"),
    # What Python says since 3.12 of every fork of a process with threads.
    pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning"),
]


def in_child(function: Callable[[], Any]) -> Any:
    """What `function` gives in a child; one that hangs is killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            signal.alarm(25)
            # A handler of pytest's may be writing at the fork, and its file stays locked here.
            logging.disable()
            os.close(reader)
            with os.fdopen(writer, "wb") as pipe:
                pipe.write(pickle.dumps(function()))
            status = 0
        finally:
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    return pickle.loads(result)


USES: dict[str, Callable[[PositionStream], object]] = {
    **{
        name: lambda stream, name=name: getattr(stream, name)()  # type: ignore[misc]
        for name in ("start", "run_forever", "__enter__", "subscribe", "unsubscribe")
    },
    **{
        name: lambda stream, name=name: getattr(stream, name)  # type: ignore[misc]
        for name in ("positions", "balances", "orders", "triggers")
    },
    "wait_ready": lambda stream: stream.wait_ready(5),
    "join": lambda stream: stream.join(5),
    "dump": lambda stream: stream.book.dump(),
    "load": lambda stream: stream.book.load("{}"),
}


def check_refusals(stream: PositionStream) -> None:
    """What each use of a stream says in a child; that the rest may be used there."""

    def outcomes() -> dict[str, str]:
        said = {}
        for name, use in USES.items():
            try:
                use(stream)
            except Exception as error:
                said[name] = f"{type(error).__name__}: {error}"
        stream.stop()
        stream.__exit__(None, None, None)
        assert stream.stats.connects == 1
        assert stream.synced is False
        assert repr(stream)
        return said

    said = in_child(outcomes)
    assert said.keys() == USES.keys()
    for name, text in said.items():
        assert re.match("RuntimeError: .*another process", text), name


def check_undisturbed(bench: Bench, stream: PositionStream) -> None:
    """The stream goes on with its first connection, and is stopped as ever."""
    exchange = bench.exchange
    bench.push(77)
    bench.wait("on_order")
    assert bench.orders == [77]
    assert stream.wait_ready(0)
    (connection,) = exchange.connections
    assert connection.subscribed
    assert exchange.counts["unsub"] == exchange.counts["close"] == 0
    stream.stop()
    assert exchange.wait_for("close")
    assert connection.close_code == 1000
    assert [event.reason for event in bench.recorder.on_disconnect] == ["stopped"]
    assert bench.recorder.on_error == []
    assert exchange.violations == []


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_child_refuses_and_parent_goes_on(
    new_stream: NewStream, recorder: Recorder, certificates: Certificates, tls: bool
) -> None:
    with Exchange(ssl_context=certificates.good.context() if tls else None) as exchange:
        bench = Bench(exchange, recorder, new_stream)
        context = certificates.client_context() if tls else None
        stream = bench.start(ssl_context=context, ping_interval=0.1)
        for _ in range(3):
            check_refusals(stream)
        check_undisturbed(bench, stream)


def test_locks_that_are_held_at_the_fork(bench: Bench) -> None:
    """They are held in the child for ever."""
    stream = bench.start()
    link: Any = stream._driver.link

    def hold() -> None:
        with link._lock, link._connection._lock, link._connection._transport._lock:
            bench.gate(None)

    with concurrently(hold):
        assert bench.entered.wait(SOON)
        check_refusals(stream)
        bench.open.set()
    check_undisturbed(bench, stream)


def test_copy_that_is_collected(bench: Bench) -> None:
    stream = bench.start()

    def forget() -> int:
        vars(stream).clear()
        return gc.collect()

    in_child(forget)
    check_undisturbed(bench, stream)


def test_stream_of_its_own_in_the_child(bench: Bench) -> None:
    stream = bench.start()

    def another() -> tuple[bool, list[str]]:
        with bench.new() as own:
            return own.wait_ready(SOON), list(own.positions)

    assert in_child(another) == (True, [])
    assert bench.exchange.wait_for_clients(1)
    first, second = bench.exchange.connections
    assert second.close_code == 1000
    assert first.subscribed
    assert stream.wait_ready(0)
    bench.push(77)
    bench.wait("on_order")


def test_stream_that_was_not_started_may_be_started_in_the_child(bench: Bench) -> None:
    """A program may make its streams, and then turn itself into a daemon."""
    stream = bench.new()

    def start() -> bool:
        with stream:
            return stream.wait_ready(SOON) and stream.positions == {}

    assert in_child(start) is True
    assert bench.exchange.wait_for_clients(0)
    with stream:
        assert stream.wait_ready(SOON)


PREAMBLE = """
import warnings
warnings.simplefilter("ignore", DeprecationWarning)
stream = new(ping_interval=0.1, dispatch=words[0])
child = None

def fork():
    global child
    child = os.fork()
    if child == 0:
        signal.alarm(25)
    else:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        print("child ended with", status, flush=True)
    return child == 0
"""


def run(server: Exchange | ScriptedServer, body: str, dispatch: str = "reader") -> str:
    """What a program prints; it must not complain, and it ends by itself."""
    with streaming(server, PREAMBLE + textwrap.dedent(body), dispatch) as process:
        return finish(process)


def test_interpreter_exit_of_the_child(exchange: Exchange) -> None:
    body = """
        atexit.register(stream.stop)
        with stream:
            assert stream.wait_ready(10)
            if fork():
                sys.exit(3)
            before = stream.stats.last_pong_ns or 0
            while (stream.stats.last_pong_ns or 0) <= before:
                time.sleep(0.01)
            print("connects", stream.stats.connects, stream.stats.disconnects)
    """
    assert run(exchange, body) == "child ended with 3\nconnects 1 {}\n"
    assert exchange.wait_for("unsub")
    assert exchange.wait_for("close")
    assert exchange.counts["unsub"] == exchange.counts["close"] == 1
    assert exchange.connections[0].close_code == 1000


def test_child_that_leaves_run_forever(exchange: Exchange) -> None:
    """By an exit in the callback in which it was forked."""
    body = """
    @stream.on_order
    def leave(order):
        if order.order_id == "2":
            stream.stop()
        elif fork():
            sys.exit(0)

    stream.run_forever()
    print("connects", stream.stats.connects, stream.stats.disconnects)
    """
    with concurrently(lambda: run(exchange, body)) as output:
        assert exchange.wait_for_subscribers(1, 10)
        exchange.push(order(1))
        # The child, if it read on, would take what follows.
        assert exchange.wait_for("ping", count=exchange.counts["ping"] + 5)
        exchange.push(order(2))
        assert output.result(30) == "child ended with 0\nconnects 1 {'stopped': 1}\n"
    assert len(exchange.connections) == 1
    assert exchange.wait_for("unsub")
    assert exchange.wait_for("close")
    assert exchange.counts["unsub"] == exchange.counts["close"] == 1


def _both() -> dict[str, Any]:
    """A push that goes to two callbacks."""
    push = load("account_update_create")
    assert push["d"]["a"]
    assert push["d"]["p"]
    return push


@pytest.mark.parametrize("dispatch", ["reader", "thread"])
@pytest.mark.parametrize("where", ["on_position", "on_error", "on_system_close"])
def test_child_gets_nothing_of_what_was_read_before_the_fork(where: str, dispatch: str) -> None:
    """Else a bot that starts a helper trades twice: all this was read at once."""
    forking = {"on_position": _both(), "on_error": {"channel": "order", "order": 5}}.get(
        where, load("system_close")
    )
    rest = [_both(), order(1), {"channel": "order", "order": 5}, load("adl_price_two"), order(2)]
    body = f"""
    def told(event):
        print("child" if child == 0 else "parent", type(event).__name__, flush=True)
        if getattr(event, "order_id", None) == "2":
            stream.stop()

    stream.{where}(lambda event: child is None and fork())
    for name in "position account order adl_price error system_close disconnect".split():
        getattr(stream, "on_" + name)(told)
    stream.start()
    stream.join()
    """

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        peer.sendall(b"".join(push_frame(push) for push in [forking, *rest]))
        answer_until_close(peer)

    with ScriptedServer(serve) as server:
        lines = run(server, body, dispatch).splitlines()
    assert lines[0] == "child ended with 0"
    assert [line for line in lines if line.startswith("child")] == lines[:1]
    names = [line.partition(" ")[2] for line in lines[1:]]
    assert names[-2:] == ["Order", "Disconnect"]
    assert names.count("Order") == 2


def test_child_asks_for_no_snapshot(exchange: Exchange) -> None:
    body = """
    def source():
        print("asked by", "child" if child == 0 else "parent", flush=True)
        stream.stop()
        return Snapshot([], [])

    stream = new(on_ready=lambda event: fork(), snapshot=source)
    try:
        stream.run_forever()
    except RuntimeError:
        time.sleep(0.2)  # for a thread that was started
    """
    assert run(exchange, body) == "child ended with 0\nasked by parent\n"
