"""Under gevent, in a program that has patched the standard library before anything else.

The program runs in a process of its own; the exchange is in this one, and is not patched.
"""

from __future__ import annotations

import socket
from contextlib import AbstractContextManager
from pathlib import Path
from subprocess import Popen
from textwrap import dedent

import pytest

from fastpos.journal import read
from fastpos.simulator import Exchange
from tests.support.certificates import Certificates
from tests.support.frames import PING, frame
from tests.support.programs import finish, interrupted, read_until, streaming
from tests.support.pushes import order, push_frame
from tests.support.servers import ScriptedServer, serve_subscription

pytest.importorskip("gevent")
pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidy")]

PATCHED = """
from gevent import monkey
monkey.patch_all()
"""
PREAMBLE = """
import queue
import gevent

faulthandler.dump_traceback_later(50, exit=True)
context = ssl.create_default_context(cafile=words[0]) if words[0] else None
ready, orders, errors = queue.Queue(), queue.Queue(), []
stream = new(
    ssl_context=context, ping_interval=0.2, pong_timeout=2.0,
    on_ready=ready.put, on_order=orders.put, on_error=errors.append,
)
last_turn, longest = time.monotonic(), 0.0

def others():  # what else runs in the program must get its turns
    global last_turn, longest
    while True:
        now = time.monotonic()
        longest, last_turn = max(longest, now - last_turn), now
        time.sleep(0.01)

gevent.spawn(others)

def say(*words):
    print(*words, flush=True)

def stop_in_time():
    began = time.monotonic()
    stream.stop(20)
    say("stopped", time.monotonic() - began < 8)
"""


def program(
    server: Exchange | ScriptedServer, body: str, certificates: Certificates | None = None
) -> AbstractContextManager[Popen[str]]:
    """Of a stream that is connected to `server`, over TLS if there are certificates."""
    authority = str(certificates.authority) if certificates else ""
    return streaming(server, PREAMBLE + dedent(body), authority, first=PATCHED)


@pytest.fixture(params=["tcp", "tls"])
def tls(request: pytest.FixtureRequest, certificates: Certificates) -> Certificates | None:
    return certificates if request.param == "tls" else None


def test_a_stream_and_its_faults(tls: Certificates | None) -> None:
    body = """
        stream.start()
        assert stream.wait_ready(10)
        ready.get(timeout=10)
        for _ in range(3):
            say("ready", orders.get(timeout=10).order_id)
            ready.get(timeout=10)
        say("ready", orders.get(timeout=10).order_id)
        gevent.spawn(stop_in_time).get()
        say("others had their turns", longest < 5)
    """
    context = tls.good.context() if tls else None
    with Exchange(ssl_context=context) as exchange, program(exchange, body, tls) as process:
        assert exchange.wait_for_subscribers(1, 10)
        faults = (
            exchange.drop,
            lambda: exchange.drop(clean=True),
            lambda: exchange.stall(handshakes=True, closes=True),  # no pong comes
        )
        for number, fault in enumerate(faults):
            exchange.push(order(number))
            assert read_until(process, "ready") == f"ready {number}\n"
            fault()
            assert exchange.wait_for("sub", 15, number + 2)
        exchange.resume()
        exchange.push(order(7))
        assert read_until(process, "ready") == "ready 7\n"
        assert finish(process) == "stopped True\nothers had their turns True\n"
        assert exchange.connections[-1].close_code == 1000
        assert exchange.violations == []


def test_peer_that_does_not_read(tls: Certificates | None) -> None:
    """A send that would wait must not hold up a stop()."""
    pings = frame(PING, b"x" * 125) * 1000

    def serve(peer: socket.socket) -> None:
        serve_subscription(peer)
        peer.sendall(push_frame(order(1)))
        while True:  # ends when the client has
            peer.sendall(pings)

    body = """
        stream = new(ssl_context=context, on_order=orders.put, on_error=errors.append).start()
        orders.get(timeout=10)
        while not stream.stats.disconnects:
            time.sleep(0.01)
        say(list(stream.stats.disconnects))
        orders.get(timeout=10)
        stop_in_time()
    """
    context = tls.good.context() if tls else None
    with ScriptedServer(serve, context) as server, program(server, body, tls) as process:
        assert "does not read" in read_until(process, "[")
        assert finish(process) == "stopped True\n"


def test_stop_in_a_callback(exchange: Exchange) -> None:
    body = """
        stream.on_order(lambda order: stop_in_time())
        stream.run_forever()
        say("returned", stream.join(0))
    """
    with program(exchange, body) as process:
        assert exchange.wait_for_subscribers(1, 10)
        exchange.push(order(1))
        assert finish(process) == "stopped True\nreturned True\n"
    assert exchange.connections[0].close_code == 1000


def test_ctrl_c_in_run_forever(exchange: Exchange) -> None:
    body = """
        try:
            stream.run_forever()
        except KeyboardInterrupt:
            sys.exit(3)
    """
    with program(exchange, body) as process:
        assert exchange.wait_for_subscribers(1, 10)
        assert exchange.wait_for("ping")
        status, err = interrupted(process)
    assert status == 3
    assert "Traceback" not in err  # the exception's name is there: gevent's main loop shows it
    assert exchange.wait_for("close")


def test_a_journal(exchange: Exchange, tmp_path: Path) -> None:
    body = """
        from fastpos.journal import Journal

        journal = Journal(words[1], flush_interval=0.02, segment_bytes=2000)
        stream = new(journal=journal, on_order=orders.put, on_error=errors.append).start()
        assert stream.wait_ready(10)
        for number in range(100):
            orders.get(timeout=10)
        assert journal.flush()
        say("written")
        stop_in_time()
        say("errors", errors, "others had their turns", longest < 5)
    """
    with streaming(exchange, PREAMBLE + dedent(body), "", str(tmp_path), first=PATCHED) as process:
        assert exchange.wait_for_subscribers(1, 10)
        for number in range(100):
            exchange.push(order(number))
        read_until(process, "written")
        kept = [record for record in read(tmp_path) if record.kind == "push"]
        assert len(kept) == 100
        assert finish(process) == "stopped True\nerrors [] others had their turns True\n"
    assert [record.kind for record in read(tmp_path)][-1] == "stopped"


def test_a_program_that_ends_without_a_stop_has_written_its_journal(
    exchange: Exchange, tmp_path: Path
) -> None:
    body = """
        from fastpos.journal import Journal

        journal = Journal(words[1], flush_interval=600.0)
        stream = new(journal=journal, on_order=orders.put).start()
        orders.get(timeout=10)
    """
    with streaming(exchange, PREAMBLE + dedent(body), "", str(tmp_path), first=PATCHED) as process:
        assert exchange.wait_for_subscribers(1, 10)
        exchange.push(order(1))
        finish(process)
    assert [record.kind for record in read(tmp_path)][-1] == "push"
