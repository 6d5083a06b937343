"""Starting and stopping at bad moments, and what must never be shown."""

from __future__ import annotations

import itertools
import logging
import math
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any
from urllib.parse import quote

import pytest

import fastpos
from fastpos import FastposError, PositionStream
from fastpos.runtime.changes import Changes
from fastpos.runtime.pinger import Pinger
from fastpos.simulator import Exchange
from tests.conftest import QUICK
from tests.support.certificates import Certificates
from tests.support.connections import at_once, concurrently
from tests.support.frames import close_frame, frame, frames, read_frame, text_frame
from tests.support.programs import started
from tests.support.pushes import load, order, push_frame
from tests.support.recording import KEY, SOON, Recorder, until
from tests.support.servers import ScriptedServer, answer_until_close, serve_subscription
from tests.support.upgrade import accept_upgrade, read_request

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]


def own_threads() -> list[threading.Thread]:
    names = ("fastpos-reader-", "fastpos-ping-", "fastpos-callbacks-")
    return [thread for thread in threading.enumerate() if thread.name.startswith(names)]


# --- stop -----------------------------------------------------------------------------------------

PUSHES: dict[str, dict[str, Any]] = {
    "on_position": load("account_update_create"),
    "on_account": load("account_update_default"),
    "on_order": load("order"),
    "on_trigger": load("trig_order"),
    "on_system_close": load("system_close"),
    "on_adl_price": load("adl_price_two"),
    "on_unknown": {"channel": "news"},
    "on_error": {"no": "channel"},
}


@pytest.mark.parametrize("name", [*PUSHES, "on_ready", "on_disconnect"])
@pytest.mark.parametrize("background", [True, False], ids=["start", "run_forever"])
def test_stop_from_each_callback(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, name: str, background: bool
) -> None:
    stream = new_stream(exchange)
    took: list[float] = []

    def leave(_: object) -> None:
        began = time.monotonic()
        stream.stop()
        stream.stop()
        took.append(time.monotonic() - began)

    def push(_: object) -> None:
        if name in PUSHES:
            exchange.push(PUSHES[name])
            exchange.push(order(7))
        elif name == "on_disconnect":
            exchange.drop()

    getattr(stream, name)(leave)
    stream.on_ready(push)
    if background:
        stream.start()
        assert stream.join(SOON)
    else:
        stream.run_forever()
    assert max(took) < 0.5
    if name != "on_disconnect":
        assert recorder.on_disconnect[-1].reason == "stopped"
    # Nothing that came after the push in question.
    assert all(o.order_id != "7" for o in recorder.on_order)
    assert exchange.wait_for_clients(0)
    if name != "on_disconnect":
        assert exchange.connections[0].close_code == 1000
        assert exchange.wait_for("unsub")


def test_wait_ready_in_a_callback_on_the_reader_thread(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    """It is that thread that makes the stream ready."""
    said: list[object] = []

    def wait(event: object) -> None:
        try:
            said.append(stream.wait_ready())
        except RuntimeError as error:
            said.append(str(error))

    stream = new_stream(exchange)
    stream.on_ready(wait)
    stream.on_disconnect(wait)
    with stream:
        recorder.wait("on_ready")
        exchange.drop()
        recorder.wait("on_ready", 2)
    ready, waiting, again, stopped = said
    assert (ready, again, stopped) == (True, True, False)
    assert "would wait for itself" in str(waiting)


def test_no_callback_after_stop(new_stream: NewStream, recorder: Recorder) -> None:
    """Even though the server goes on and on."""
    numbers = itertools.count()

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        while True:  # ends when the client has
            peer.sendall(b"".join(push_frame(order(next(numbers))) for _ in range(10)))

    with ScriptedServer(serve) as server:
        stream = new_stream(server.url).start()
        recorder.wait("on_order", 50)
        with at_once(4.0):
            stream.stop(timeout=3.5)
        calls = len(recorder.calls)
        assert stream.join(2.0), "the reader is still there"
        server.wait_finished(1)
        assert len(recorder.calls) == calls
        assert recorder.calls[-1][0] == "on_disconnect"
        assert own_threads() == []


def test_stop_from_many_threads_at_once(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    for run in range(1, 6):
        stream = new_stream(exchange).start()
        assert stream.wait_ready(SOON)
        with at_once(3.0), ExitStack() as threads:
            for _ in range(4):
                threads.enter_context(concurrently(stream.stop))
        assert own_threads() == []
        assert len(recorder.on_disconnect) == run


@pytest.mark.parametrize("where", ["credential", "snapshot"])
def test_stop_in_the_other_functions(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, where: str
) -> None:
    """One runs on the reader thread before there is a connection, one on a thread of its own."""
    took: list[float] = []

    def leave() -> Any:
        began = time.monotonic()
        stream.stop()
        took.append(time.monotonic() - began)
        return exchange.api_key if where == "credential" else None

    option = {"credential": {"api_key": leave}, "snapshot": {"snapshot": leave}}[where]
    stream = new_stream(exchange, **option)
    stream.start()
    assert stream.join(SOON)
    until(lambda: took, what="that stop() has returned")
    assert took[0] < 3.0
    assert own_threads() == []
    assert [event.reason for event in recorder.on_disconnect] == ["stopped"]
    assert recorder.on_error == []
    assert exchange.wait_for_clients(0)
    assert exchange.counts["connect"] == (where == "snapshot")


def test_stop_before_start(exchange: Exchange, new_stream: NewStream) -> None:
    stream = new_stream(exchange)
    with at_once(0.5):
        stream.stop()
        stream.stop()
    assert stream.join(0) is True
    assert stream.wait_ready(0) is False
    assert exchange.connections == []
    with stream:
        assert stream.wait_ready(SOON)
    with at_once(0.5):
        stream.stop()


def test_stop_right_after_start(exchange: Exchange, new_stream: NewStream) -> None:
    """At whatever moment of connecting it comes."""
    for number in range(40):
        stream = new_stream(exchange).start()
        threading.Event().wait(number * 0.0005)
        with at_once(2.0):
            stream.stop()
        assert own_threads() == []
    assert exchange.wait_for_clients(0)
    assert exchange.violations == []


def test_stop_during_back_off(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    exchange.refuse_upgrade(429, headers={"Retry-After": "3600"})
    stream = new_stream(exchange).start()
    (event,) = recorder.wait("on_disconnect")
    assert event.retry_in_s == 3600
    with at_once(1.0):
        stream.stop()
    assert own_threads() == []
    assert len(recorder.on_disconnect) == 1
    assert stream.join(0) is True


def test_callback_that_outlasts_stop(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    release = threading.Event()
    later: list[object] = []  # what another function of the same event gets
    stream = new_stream(exchange)
    stream.on_order(lambda _: release.wait(SOON))
    stream.on_order(later.append)
    stream.start()
    assert stream.wait_ready(SOON)
    for number in range(5):
        exchange.push(order(number))
    exchange.push_bytes(b"garbage")
    recorder.wait("on_order")
    with at_once(1.0):
        stream.stop(timeout=0.3)
    calls = list(recorder.calls)
    with pytest.raises(RuntimeError, match="running"):
        stream.start()
    release.set()
    assert stream.join(SOON)
    assert own_threads() == []
    assert recorder.calls == calls
    assert later == []
    stream.start()  # and all is as before
    assert stream.wait_ready(SOON)
    exchange.push(order(9))
    recorder.wait("on_order", 2)


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "expected"),
    [("start", ["fastpos-ping", "fastpos-reader"]), ("run_forever", ["fastpos-ping"])],
)
def test_threads(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    expected: list[str],
) -> None:
    stop = Pinger.stop

    def stop_late(self: Pinger) -> None:
        threading.Event().wait(0.1)  # as when the machine is busy
        stop(self)

    monkeypatch.setattr(Pinger, "stop", stop_late)
    stream = new_stream(exchange)
    assert own_threads() == []
    with concurrently(getattr(stream, how)):
        recorder.wait("on_ready")
        threads = own_threads()
        stream.stop()
        assert own_threads() == []
    assert sorted(thread.name.rpartition("-")[0] for thread in threads) == expected
    assert len({thread.name.rpartition("-")[2] for thread in threads}) == 1
    assert all(thread.daemon for thread in threads)


@pytest.mark.parametrize("which", ["reader", "ping"])
def test_thread_that_cannot_be_started(
    exchange: Exchange,
    new_stream: NewStream,
    monkeypatch: pytest.MonkeyPatch,
    which: str,
) -> None:
    """The process is out of threads: that is told, and nothing is stuck for ever."""
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith(f"fastpos-{which}-"):
            raise RuntimeError("can't start new thread")
        real(thread)

    stream = new_stream(exchange)
    run = stream.start if which == "reader" else stream.run_forever
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            run()
    with at_once(1.0):
        stream.stop()
    with stream:
        assert stream.wait_ready(SOON)


# --- runs ---------------------------------------------------------------------------------------


def test_what_is_asked_of_a_run_that_has_ended_does_not_touch_the_next(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = new_stream(exchange).start()
    driver = stream._driver
    assert stream.wait_ready(SOON)
    first = driver.last_run
    assert first is not None
    stream.stop()
    stream.start()
    assert stream.wait_ready(SOON)
    driver.stop(first)
    driver.abort(first)
    driver.mute(first)
    assert driver.wait_ended(first, 0)
    exchange.push(order(1))
    recorder.wait("on_order")
    assert len(recorder.on_disconnect) == 1


@pytest.mark.parametrize("timeout", [None, math.inf])
def test_who_has_time_may_say_so(
    exchange: Exchange, new_stream: NewStream, timeout: float | None
) -> None:
    stream = new_stream(exchange).start()
    assert stream.wait_ready(timeout)
    stream.stop(timeout)
    assert stream.join(timeout)


def test_a_condition_is_waited_for() -> None:
    changes, seen = Changes(), threading.Event()
    assert changes.wait_for(lambda: True, 0)
    assert not changes.wait_for(lambda: False, 0.01)
    with at_once(), concurrently(lambda: changes.wait_for(seen.is_set)) as waiting:
        until(lambda: changes._waiting)
        changes.notify()  # for nothing
        assert not waiting.done()
        seen.set()
        changes.notify()
        assert waiting.result(SOON)
    assert changes._waiting == []


def test_a_stop_that_overlaps_the_next_start_leaves_it_alone(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    """As where one thread restarts a stream, and another stops it."""
    stream = new_stream(exchange)
    for number in range(1, 21):
        stream.start()
        assert stream.wait_ready(SOON)
        with at_once(3.0), concurrently(stream.stop):
            assert stream.join(SOON)
            stream.start()
        assert stream.wait_ready(SOON)
        exchange.push(order(number))
        recorder.wait("on_order", number)
        stream.stop()


def test_a_worker_that_runs_for_ever_again_and_again_may_be_stopped_as_often(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    stream = new_stream(exchange)
    over = threading.Event()

    def work() -> None:
        while not over.is_set():
            stream.run_forever()

    with concurrently(work):
        for number in range(1, 21):
            recorder.wait("on_ready", number)
            with at_once(3.0):
                stream.stop()
        recorder.wait("on_ready", 21)
        exchange.push(order(1))
        recorder.wait("on_order")
        over.set()
        stream.stop()


def test_a_start_that_is_interrupted_leaves_a_stream_that_can_be_started(
    exchange: Exchange, new_stream: NewStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Ctrl-C may come before the thread is started, or when it has begun already."""
    stream = new_stream(exchange)
    real = threading.Thread.start
    for begun in (False, True):

        def start(thread: threading.Thread, begun: bool = begun) -> None:
            if thread.name.startswith("fastpos-reader-"):
                if begun:
                    real(thread)
                    assert stream.wait_ready(SOON)
                raise KeyboardInterrupt
            real(thread)

        with monkeypatch.context() as patched:
            patched.setattr(threading.Thread, "start", start)
            with pytest.raises(KeyboardInterrupt):
                stream.start()
        with at_once(3.0):
            assert stream.join(SOON)
        with stream:
            assert stream.wait_ready(SOON)


@pytest.mark.parametrize("dispatch", ["reader", "thread"])
@pytest.mark.parametrize("timeout", [5.0, None])
def test_stop_between_start_and_the_first_step_of_its_thread(
    exchange: Exchange,
    new_stream: NewStream,
    monkeypatch: pytest.MonkeyPatch,
    dispatch: str,
    timeout: float | None,
) -> None:
    """In a signal handler, which runs in the midst of `start`; so it can't wait for what comes."""
    stream = new_stream(exchange, dispatch=dispatch)
    real = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        if thread.name.startswith("fastpos-reader-"):
            with at_once(1.0):
                stream.stop(timeout)
        real(thread)

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", start)
        stream.start()
    with at_once(3.0):
        assert stream.join(SOON)
    assert exchange.connections == []
    with stream:
        assert stream.wait_ready(SOON)


def test_start_after_a_stop_during_a_look_up_of_the_name(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered, release, real = threading.Event(), threading.Event(), socket.getaddrinfo

    def look_up(*args: Any, **options: Any) -> Any:
        entered.set()
        release.wait(SOON)
        return real(*args, **options)

    stream = new_stream(exchange)
    with monkeypatch.context() as patched:
        patched.setattr(socket, "getaddrinfo", look_up)
        stream.start()
        assert entered.wait(SOON)
        with at_once(1.0):
            stream.stop(timeout=0.1)
        release.set()
        assert stream.join(SOON)
    assert recorder.calls == []
    assert exchange.connections == []
    with stream:
        assert stream.wait_ready(SOON)


# --- whole processes ------------------------------------------------------------------------------

PREAMBLE = """
import atexit, faulthandler, signal, sys, threading, time
from fastpos import PositionStream

url, key = sys.argv[1:]
stream = PositionStream(url, api_key=key, broker=1003, proxy="", ping_interval=0.1,
                        on_error=lambda error: None)
stream.on_ready(lambda event: print("ready", flush=True))
stream.on_disconnect(lambda event: print("disconnect", flush=True))

def own():
    return [t.name for t in threading.enumerate() if t.name.startswith("fastpos")]
"""


def script(
    server: Exchange | ScriptedServer, body: str
) -> AbstractContextManager[subprocess.Popen[str]]:
    key = server.api_key if isinstance(server, Exchange) else KEY
    return started("-c", PREAMBLE + textwrap.dedent(body), server.url, key)


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    out, err = process.communicate(timeout=10)
    return out, err


FOREVER = """
    try:
        stream.run_forever()
    except KeyboardInterrupt:
        print("raised again", own(), flush=True)
        stream.stop()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
@pytest.mark.parametrize("phase", ["subscribed", "busy", "callback", "back-off"])
def test_ctrl_c_in_run_forever(exchange: Exchange, phase: str) -> None:
    if phase == "back-off":
        exchange.refuse_upgrade(503, headers={"Retry-After": "60"})
    body = """
    stream.on_order(lambda order: (print("in it", flush=True), time.sleep(60)))
    """
    with script(exchange, body + FOREVER) as process:
        assert process.stdout is not None
        first = "disconnect" if phase == "back-off" else "ready"
        assert process.stdout.readline() == f"{first}\n"
        if phase == "busy":
            exchange.open_position()
            exchange.start_ticking(0.001)
        elif phase == "callback":
            exchange.push(order(1))
            assert process.stdout.readline() == "in it\n"
        process.send_signal(signal.SIGINT)
        out, err = finish(process)
    assert out.endswith("raised again []\n")
    assert err == ""
    assert process.returncode == 0
    assert exchange.wait_for_clients(0)
    if phase != "back-off":
        (connection,) = exchange.connections
        assert connection.close_code == 1000
        assert exchange.wait_for("unsub")


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM for one process there")
def test_stop_in_a_signal_handler_that_interrupts_a_send(exchange: Exchange) -> None:
    """It runs in the middle of whatever the main thread does, even with a lock held."""
    body = """
        from fastpos.net.transport import Transport

        signal.signal(signal.SIGTERM, lambda *_: stream.stop())
        faulthandler.dump_traceback_later(5, exit=True)
        flush = Transport._flush

        def interrupted(self):
            if threading.current_thread() is threading.main_thread() and armed.is_set():
                armed.clear()
                signal.raise_signal(signal.SIGTERM)
            flush(self)

        Transport._flush = interrupted
        armed = threading.Event()
        stream.on_order(lambda _: armed.set())
        stream.run_forever()
        print("returned", own(), flush=True)
    """
    with script(exchange, body) as process:
        assert exchange.wait_for_subscribers(1, 10)
        exchange.push(order(1))
        exchange.ws_ping(b"answer this")
        out, err = finish(process)
    assert err == ""
    assert out.endswith("returned []\n")
    assert process.returncode == 0
    assert exchange.connections[0].close_code == 1000


@pytest.mark.skipif(sys.platform == "win32", reason="signals come to no thread there")
@pytest.mark.parametrize("number", [int(signal.SIGINT), int(signal.SIGTERM)])
def test_a_signal_that_comes_just_before_a_read_waits(exchange: Exchange, number: int) -> None:
    """It ends no system call of the main thread, as it came before; or to another thread, as here.
    Python handles it in the main thread alone, and nothing comes that would end the read."""
    body = f"""
        stream = PositionStream(url, api_key=key, broker=1003, proxy="", ping_interval=60)
        signal.signal(signal.SIGTERM, lambda *_: stream.stop())

        def send_to_this_thread():
            while not (stream._driver._link and stream._driver._link._is_silent()):
                time.sleep(0.01)
            time.sleep(0.1)  # in which the system call begins
            print("sent", flush=True)
            signal.raise_signal({number})

        threading.Thread(target=send_to_this_thread, daemon=True).start()
    """
    with script(exchange, textwrap.dedent(body) + textwrap.dedent(FOREVER)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        began = time.monotonic()
        assert exchange.wait_for("unsub", timeout=1.5)
        assert time.monotonic() - began < 1.5
        _, err = finish(process)
    assert err == ""
    assert exchange.connections[0].close_code == 1000


@pytest.mark.skipif(sys.platform == "win32", reason="signals come to no thread there")
@pytest.mark.long
@pytest.mark.timeout(120)
@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
@pytest.mark.parametrize("what", ["SIGINT", "SIGTERM"])
def test_a_signal_at_any_moment_is_acted_on_within_a_second(
    certificates: Certificates, what: str, tls: bool
) -> None:
    """200 times: right after the subscription, in the midst of the opening; to the main thread, or
    to another one, so that it does not even end a system call of the main one. No push comes."""
    body = f"""
        import random, ssl

        luck = random.Random(7)
        context = ssl._create_unverified_context() if url.startswith("wss") else None
        stream = PositionStream(url, api_key=key, broker=1003, proxy="", ssl_context=context,
                                on_error=lambda error: None)
        signal.signal(signal.SIGTERM, lambda *_: stream.stop())
        ready = threading.Event()
        stream.on_ready(lambda event: ready.set())
        main = threading.main_thread().ident
        sent = 0.0

        def send(after_ready, wait, last):
            global sent
            if after_ready:
                ready.wait(5)
            while stream._driver.last_run is last:
                time.sleep(0)
            time.sleep(wait)
            sent = time.monotonic()
            if luck.random() < 0.9:
                signal.pthread_kill(main, signal.{what})
            else:
                signal.raise_signal(signal.{what})  # to this thread

        longest = 0.0
        for number in range(200):
            ready.clear()
            kill = threading.Thread(
                target=send,
                args=(
                    luck.random() < 0.7,
                    luck.choice([0, 0.002, 0.02]) * luck.random(),
                    stream._driver.last_run,
                ),
            )
            try:
                kill.start()
                stream.run_forever()
            except KeyboardInterrupt:
                pass
            took = time.monotonic() - sent
            if not sent:
                break  # it ended by itself
            longest = max(longest, took)
            kill.join()
            sent = 0.0
        print(number, longest < 1.5 or longest, flush=True)
    """
    with (
        Exchange(ssl_context=certificates.good.context() if tls else None) as exchange,
        script(exchange, body) as process,
    ):
        out, err = process.communicate(timeout=120)
    assert err == ""
    assert out.splitlines()[-1] == "199 True"


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process there")
@pytest.mark.parametrize("dispatch", ["reader", "thread"])
@pytest.mark.parametrize("again", ["in on_disconnect", "while the peer is given time"])
def test_a_second_ctrl_c(again: str, dispatch: str) -> None:
    """It comes while the first is obeyed, and nothing is left behind."""
    body = f"""
        import fastpos, os

        from fastpos.net.connection import Connection

        stream = PositionStream(url, api_key=key, broker=1003, proxy="", dispatch={dispatch!r})
        ctrl_c = lambda: signal.raise_signal(signal.SIGINT)
        ready = threading.Event()
        stream.on_ready(lambda event: ready.set())
        if {again!r} == "in on_disconnect":
            from fastpos.runtime.feed import Feed
            finish = Feed.finish
            Feed.finish = lambda *args: (ctrl_c(), finish(*args))[1]
            Feed.left = lambda *args, left=Feed.left: (ctrl_c(), left(*args))
        else:
            drain = Connection.drain
            Connection.drain = lambda *args: (ctrl_c(), drain(*args))
            leave = type(stream._driver)._leave_callbacks
            type(stream._driver)._leave_callbacks = lambda self: (ctrl_c(), leave(self))

        def sockets():
            paths = [f"/proc/self/fd/{{fd}}" for fd in os.listdir("/proc/self/fd")]
            return [path for path in paths if os.path.islink(path) and "sock" in os.readlink(path)]

        for _ in range(3):
            ready.clear()
            kill = lambda: (ready.wait(5), time.sleep(0.05), os.kill(os.getpid(), signal.SIGINT))
            threading.Thread(target=kill).start()
            try:
                stream.run_forever()
            except KeyboardInterrupt:
                print("raised", flush=True)
            deadline = time.monotonic() + 5
            while own() and time.monotonic() < deadline:
                time.sleep(0.01)
            try:
                stream.join(0)
            except fastpos.FastposError as error:
                print(own(), sockets() if os.path.exists("/proc") else [], error, flush=True)
    """

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        answer_until_close(peer)

    with ScriptedServer(serve) as server, script(server, body) as process:
        out, err = finish(process)
    assert err == ""
    assert out == "raised\n[] [] the stream was ended by KeyboardInterrupt: \n" * 3


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timers there")
@pytest.mark.parametrize("doing", ["looking", "pausing", "starting", "snapshot"])
def test_anything_may_be_called_in_a_signal_handler_that_interrupted_anything(
    exchange: Exchange, doing: str
) -> None:
    """Thousands of times a second, while pushes come; what it waits for must not be what it has
    interrupted."""
    body = f"""
        from fastpos import Snapshot
        from fastpos.rest import AccountSnapshot

        faulthandler.dump_traceback_later(9, exit=True)
        stream = PositionStream(url, api_key=key, broker=1003, proxy="")
        account = AccountSnapshot("http://127.0.0.1:9", "key", "secret", timeout=5, proxy="")
        calls, longest, busy = 0, 0.0, False

        def look():
            return (stream.positions, stream.balances, stream.orders, stream.triggers,
                    stream.book.dump(), stream.synced, stream.stats, stream.name, repr(stream))

        def pause():
            stream.unsubscribe()
            stream.subscribe()

        def start():
            try:
                stream.start()
            except RuntimeError:
                pass
            stream.stop()

        def snapshot():
            try:
                account()
            except Exception:
                pass
            account.close()

        def handle(*_):
            global calls, longest, busy
            if busy:
                return
            busy = True
            began = time.monotonic()
            look()
            account.close()
            if {doing!r} == "pausing" or calls % 50 == 0:
                pause()
            if {doing!r} == "starting":
                stream.stop()
            longest = max(longest, time.monotonic() - began)
            calls += 1
            busy = False

        doing = {{"looking": look, "pausing": pause, "starting": start, "snapshot": snapshot}}
        signal.signal(signal.SIGALRM, handle)
        stream.start()
        assert stream.wait_ready(10)
        end = time.monotonic() + 1.5
        signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0013)
        while time.monotonic() < end:
            doing[{doing!r}]()
        signal.signal(signal.SIGALRM, lambda *_: stream.stop())
        if {doing!r} == "starting":
            start()
        while not stream.join(0):
            look()
        signal.setitimer(signal.ITIMER_REAL, 0, 0)
        print(calls > 3, longest < 4 or longest, own(), flush=True)
    """
    with script(exchange, body) as process:
        exchange.open_position()
        exchange.start_ticking(0.001)
        out, err = process.communicate(timeout=20)
    assert err == ""
    assert out == "True True []\n"


# What leads a stream to where it is when the program ends: `reach` is called there.
REACHED = """
        entered = threading.Event()

        def reach(*_):
            entered.set()
            time.sleep(60)
"""
WHERE = {
    "connecting": "stream.start()",
    "subscribed": "stream.start().wait_ready(10)",
    "busy": """
        stream.start().wait_ready(10)
        deadline = time.monotonic() + 0.3
        while time.monotonic() < deadline:
            pass
    """,
    "callback": """
        stream.on_ready(reach)
        stream.start()
        assert entered.wait(10)
    """,
    "credential": """
        stream = PositionStream(url, api_key=reach, broker=1003, proxy="").start()
        assert entered.wait(10)
    """,
    "snapshot": """
        stream = PositionStream(url, api_key=key, broker=1003, proxy="", snapshot=reach).start()
        assert entered.wait(10)
    """,
    "handshake": """
        import socket

        listener = socket.create_server(("127.0.0.1", 0))
        address = "ws://127.0.0.1:%d/" % listener.getsockname()[1]
        stream = PositionStream(address, api_key=key, broker=1003, proxy="").start()
        accepted, _ = listener.accept()
        accepted.recv(1)
    """,
    "back-off": """
        from fastpos import ReconnectPolicy

        stream = PositionStream(
            "ws://127.0.0.1:9/", api_key=key, broker=1003, proxy="",
            reconnect=ReconnectPolicy(initial=1.0, jitter=0.0), on_error=lambda error: None,
            on_disconnect=lambda event: entered.set(),
        ).start()
        assert entered.wait(10)
    """,
}


@pytest.mark.parametrize("phase", WHERE)
@pytest.mark.parametrize("stopped", [False, True], ids=["without stop", "stop in atexit"])
def test_interpreter_exit_wherever_it_is(exchange: Exchange, phase: str, stopped: bool) -> None:
    if phase == "busy":
        exchange.open_position()
        exchange.start_ticking(0.001)
    body = textwrap.dedent(REACHED) + textwrap.dedent(WHERE[phase])
    if stopped:
        body += textwrap.dedent("""
        def leave():
            began = time.monotonic()
            stream.stop(timeout=0.5)
            print("stopped", time.monotonic() - began < 1, flush=True)

        atexit.register(leave)
        """)
    with script(exchange, body + '\nprint("end", flush=True)') as process:
        out, err = finish(process)
    assert err == ""
    assert "end" in out  # on_ready may print at the same moment
    assert ("stopped True\n" in out) == stopped
    assert process.returncode == 0
    if stopped and phase == "subscribed":
        assert exchange.wait_for("close")
        assert exchange.connections[0].close_code == 1000


def test_main_thread_that_fails_is_not_held_up(exchange: Exchange) -> None:
    body = """
        with stream:
            assert stream.wait_ready(10)
            raise SystemExit(3)
    """
    with script(exchange, body) as process:
        _, err = finish(process)
    assert err == ""
    assert process.returncode == 3
    assert exchange.connections[0].close_code == 1000


# --- credentials ----------------------------------------------------------------------------------

# As long as a JWT is, with characters that travel in another form in URLs and in JSON.
SECRET = "eyJhbGciOiJIUzI1NiJ9." + "Zm9v+YmFy/cXV4" * 20 + ".c2lnbmF0dXJl=="


def shown(recorder: Recorder, stream: PositionStream, error: BaseException | None) -> str:
    """All that a user or a log could get to see."""
    parts = [repr(stream), str(stream), repr(stream.stats), repr(vars(stream))]
    for _, event in recorder.calls:
        parts += [repr(event), str(event)]
    errors = [e for _, e in recorder.calls if isinstance(e, BaseException)]
    errors += [e.error for _, e in recorder.calls if isinstance(e, fastpos.Disconnect) and e.error]
    for each in [*errors, *([error] if error is not None else [])]:
        parts += [repr(each), str(each), repr(vars(each)), repr(each.args)]
        parts += traceback.format_exception(each)
    return "\n".join(parts)


def pieces(secret: str) -> set[str]:
    """Parts of it that are long enough to matter."""
    return {secret[start : start + 12] for start in range(0, len(secret) - 12, 4)}


def http(status: str, headers: str = "", body: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n{body}".encode()


def refusing(answer: bytes) -> Callable[[socket.socket], object]:
    def serve(peer: socket.socket) -> None:
        read_request(peer)
        peer.sendall(answer)

    return serve


def greeting(text: str) -> Callable[[socket.socket], object]:
    def serve(peer: socket.socket) -> None:
        accept_upgrade(peer, text_frame(text))
        list(frames(peer))

    return serve


def answering(text: str) -> Callable[[socket.socket], object]:
    def serve(peer: socket.socket) -> None:
        accept_upgrade(peer, text_frame("connect success"))
        read_frame(peer)
        peer.sendall(text_frame(text))
        list(frames(peer))

    return serve


def sending(data: bytes) -> Callable[[socket.socket], object]:
    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        peer.sendall(data)
        peer.sendall(close_frame(1000))
        list(frames(peer))

    return serve


ECHOES: dict[str, Callable[[str], Callable[[socket.socket], object]]] = {
    "body of a 401": lambda s: refusing(http("401 Unauthorized", body=f"bad key {s}")),
    "body of a 500": lambda s: refusing(http("500 Oops", body=f"bad key {s}")),
    "reason of a 403": lambda s: refusing(http(f"403 bad key {s}")),
    "reason of a 502": lambda s: refusing(http(f"502 bad key {s}")),
    "header": lambda s: refusing(http("400 Bad", f"X-Said: {s}\r\nSet-Cookie: k={s}\r\n")),
    "redirect": lambda s: refusing(http("302 Found", f"Location: https://x.test/?key={s}\r\n")),
    "redirect, quoted": lambda s: refusing(
        http("302 Found", f"Location: https://x.test/?key={quote(s, safe='')}\r\n")
    ),
    "retry-after": lambda s: refusing(http("429 Slow", f"Retry-After: {s}\r\n")),
    "no HTTP": lambda s: refusing(f"who is {s}?\r\n\r\n".encode()),
    "header line": lambda s: refusing(f"HTTP/1.1 200 OK\r\n{s}\r\n\r\n".encode()),
    "protocol header": lambda s: refusing(
        http("101 Switching Protocols", f"Upgrade: {s}\r\nSec-WebSocket-Protocol: {s}\r\n")
    ),
    "greeting": lambda s: greeting(f"who is {s}?"),
    "greeting, late in it": lambda s: greeting("x" * 190 + s),
    "refusal": lambda s: answering(f"bad key {s}"),
    "refusal, late in it": lambda s: answering("x" * 190 + s),
    "refusal in JSON": lambda s: answering(f'{{"event":"sub","error":"bad key","was":"{s}"}}'),
    "text while ready": lambda s: sending(text_frame(f"bad request by {s}")),
    "JSON while ready": lambda s: sending(text_frame(f'{{"event":"sub","token":"{s}"}}')),
    "push of a wrong shape": lambda s: sending(push_frame({"channel": "order", "order": s})),
    "binary while ready": lambda s: sending(frame(0x2, f'{{"channel": "{s}"}}'.encode())),
    "close reason": lambda s: sending(close_frame(1008, f"bad key {s}".encode()[:123])),
}


@pytest.mark.parametrize("with_on_error", [True, False], ids=["on_error", "logged"])
@pytest.mark.parametrize("name", ECHOES)
def test_credential_that_a_server_repeats_is_never_shown(
    new_stream: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    name: str,
    with_on_error: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    options: dict[str, Any] = {} if with_on_error else {"on_error": None}
    options["subscribe_timeout"] = 0.2  # until then a reply may follow what is none
    ended: FastposError | None = None
    with ScriptedServer(ECHOES[name](SECRET)) as server:
        stream = new_stream(server.url, token=SECRET, reconnect=QUICK, **options)
        stream.start()
        recorder.wait("on_disconnect", 1)
        stream.stop()
        try:
            stream.join(SOON)
        except FastposError as error:
            ended = error
    text = shown(recorder, stream, ended) + caplog.text
    text += "".join(repr(record.__dict__) for record in caplog.records)
    leaked = {piece for piece in pieces(SECRET) if piece in text or quote(piece, safe="") in text}
    assert not leaked, f"{len(leaked)} pieces, such as {min(leaked)}"
