"""`os.fork()` in the host: the child's copy of a stream refuses, and the parent's goes on."""

from __future__ import annotations

import gc
import logging
import os
import pickle
import signal
import socket
import textwrap
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from fastpos import PositionStream
from fastpos.simulator import Exchange
from tests.support.certificates import Certificates
from tests.support.connections import concurrently
from tests.support.programs import said
from tests.support.pushes import load, order, push_frame
from tests.support.recording import KEY, SOON, Recorder
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
            signal.alarm(10)
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
    "start": lambda stream: stream.start(),
    "run_forever": lambda stream: stream.run_forever(),
    "with": lambda stream: stream.__enter__(),
    "subscribe": lambda stream: stream.subscribe(),
    "unsubscribe": lambda stream: stream.unsubscribe(),
    "wait_ready": lambda stream: stream.wait_ready(5),
    "join": lambda stream: stream.join(5),
    "positions": lambda stream: stream.positions,
    "balances": lambda stream: stream.balances,
    "orders": lambda stream: stream.orders,
    "triggers": lambda stream: stream.triggers,
    "dump": lambda stream: stream.book.dump(),
    "load": lambda stream: stream.book.load("{}"),
}


def outcomes(stream: PositionStream) -> dict[str, str]:
    """What each use of a stream says, and that the rest may be used."""
    said = {}
    for name, use in USES.items():
        try:
            use(stream)
        except RuntimeError as error:
            said[name] = str(error)
        except Exception as error:
            said[name] = repr(error)
    stream.stop()
    stream.__exit__(None, None, None)
    assert stream.stats.connects == 1
    assert stream.synced is False
    assert repr(stream)
    return said


def check_undisturbed(exchange: Exchange, stream: PositionStream, recorder: Recorder) -> None:
    """The stream goes on with its first connection, and is stopped as ever."""
    exchange.push(order(77))
    assert recorder.wait("on_order")[-1].order_id == "77"
    assert stream.wait_ready(0)
    assert len(exchange.connections) == 1
    assert exchange.connections[0].subscribed
    assert exchange.counts["unsub"] == exchange.counts["close"] == 0
    stream.stop()
    assert exchange.wait_for("close")
    assert exchange.connections[0].close_code == 1000
    assert [event.reason for event in recorder.on_disconnect] == ["stopped"]
    assert recorder.on_error == []
    assert exchange.violations == []


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_child_refuses_and_parent_goes_on(
    new_stream: NewStream, recorder: Recorder, certificates: Certificates, tls: bool
) -> None:
    context = certificates.good.context() if tls else None
    with Exchange(ssl_context=context) as exchange:
        ours = certificates.client_context() if tls else None
        stream = new_stream(exchange, ssl_context=ours, ping_interval=0.1).start()
        assert stream.wait_ready(SOON)
        for _ in range(3):
            said = in_child(lambda: outcomes(stream))
            assert said.keys() == USES.keys()
            for name, text in said.items():
                assert "another process" in text, name
        check_undisturbed(exchange, stream, recorder)


def test_locks_that_are_held_at_the_fork(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    """They are held in the child for ever."""
    stream = new_stream(exchange).start()
    assert stream.wait_ready(SOON)
    link = stream._driver._link
    assert link is not None
    assert link._connection._transport is not None
    held, release = threading.Event(), threading.Event()

    def hold() -> None:
        with ExitStack() as locks:
            for lock in (
                link._lock,
                link._connection._lock,
                link._connection._transport._lock,
            ):
                locks.enter_context(lock)
            held.set()
            release.wait(SOON)

    holder = threading.Thread(target=hold)
    holder.start()
    assert held.wait(SOON)
    try:
        said = in_child(lambda: outcomes(stream))
    finally:
        release.set()
        holder.join(SOON)
    assert all("another process" in text for text in said.values())
    check_undisturbed(exchange, stream, recorder)


def test_copy_that_is_collected(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = new_stream(exchange).start()
    assert stream.wait_ready(SOON)

    def forget() -> int:
        vars(stream).clear()
        return gc.collect()

    in_child(forget)
    check_undisturbed(exchange, stream, recorder)


def test_stream_of_its_own_in_the_child(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = new_stream(exchange).start()
    assert stream.wait_ready(SOON)

    def another() -> tuple[bool, list[str]]:
        with new_stream(exchange) as own:
            return own.wait_ready(SOON), list(own.positions)

    assert in_child(another) == (True, [])
    assert exchange.wait_for_clients(1)
    assert exchange.connections[1].close_code == 1000
    assert exchange.connections[0].subscribed
    exchange.push(order(77))
    recorder.wait("on_order")


def test_stream_that_was_not_started_may_be_started_in_the_child(
    exchange: Exchange, new_stream: NewStream
) -> None:
    """A program may make its streams, and then turn itself into a daemon."""
    stream = new_stream(exchange)

    def start() -> bool:
        with stream:
            return stream.wait_ready(SOON) and stream.positions == {}

    assert in_child(start) is True
    assert exchange.wait_for_clients(0)
    with stream:
        assert stream.wait_ready(SOON)


PREAMBLE = """
import atexit, os, signal, sys, time, warnings
warnings.simplefilter("ignore", DeprecationWarning)
from fastpos import PositionStream

url, key, dispatch = sys.argv[1:]
stream = PositionStream(
    url, api_key=key, broker=1003, proxy="", ping_interval=0.1, dispatch=dispatch
)

def wait_for_child():
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print("child ended with", status, flush=True)
"""


def run(server: Exchange | ScriptedServer, body: str, dispatch: str = "reader") -> str:
    """What a program prints; it must not complain, and it ends by itself."""
    key = server.api_key if isinstance(server, Exchange) else KEY
    return said(PREAMBLE + textwrap.dedent(body), server.url, key, dispatch)


def test_interpreter_exit_of_the_child(exchange: Exchange) -> None:
    body = """
        atexit.register(stream.stop)
        with stream:
            assert stream.wait_ready(10)
            child = os.fork()
            if child == 0:
                signal.alarm(10)
                sys.exit(3)
            wait_for_child()
            before = stream.stats.last_pong_ns or 0
            while (stream.stats.last_pong_ns or 0) <= before:
                time.sleep(0.01)
            print("connects", stream.stats.connects, stream.stats.disconnects)
    """
    assert run(exchange, body) == "child ended with 3\nconnects 1 {}\n"
    assert exchange.counts["unsub"] == exchange.counts["close"] == 1
    assert exchange.connections[0].close_code == 1000


def test_child_that_leaves_run_forever(exchange: Exchange) -> None:
    """By an exit in the callback in which it was forked."""
    body = """
    child = None

    @stream.on_order
    def fork(order):
        global child
        if order.order_id == "2":
            stream.stop()
            return
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            sys.exit(0)
        wait_for_child()

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
    child = None

    def fork(event):
        global child
        if child is None:
            child = os.fork()
            if child:
                wait_for_child()
            else:
                signal.alarm(10)

    def told(event):
        print("child" if child == 0 else "parent", type(event).__name__, flush=True)
        if getattr(event, "order_id", None) == "2":
            stream.stop()

    stream.{where}(fork)
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
    child = None

    def source():
        print("asked by", "child" if child == 0 else "parent", flush=True)
        stream.stop()
        return Snapshot([], [])

    def fork(event):
        global child
        child = os.fork()
        if child:
            wait_for_child()
        else:
            signal.alarm(10)

    from fastpos import Snapshot
    stream = PositionStream(
        url, api_key=key, broker=1003, proxy="", on_ready=fork, snapshot=source
    )
    try:
        stream.run_forever()
    except RuntimeError:
        time.sleep(0.2)  # for a thread that was started
    """
    assert run(exchange, body) == "child ended with 0\nasked by parent\n"
