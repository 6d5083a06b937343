"""Ticks of an open position that stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fastpos import PositionStream, Stale
from fastpos.account.ticks import TickWatch
from fastpos.runtime.lookout import TickLookout
from fastpos.simulator import Exchange
from fastpos.wire.credential import Credential
from fastpos.wire.session import Phase, Pong, Session, Timing
from tests.support.frames import text_frame
from tests.support.pushes import order
from tests.support.recording import SOON, Recorder, until

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

LOOKS: list[tuple[str, list[tuple[bool, int, float]], list[float]]] = [
    ("they come", [(True, number, float(number)) for number in range(1, 40)], []),
    ("they stop", [(True, 5, float(number)) for number in range(40)], [11.0]),
    ("they never came", [(True, 0, float(number)) for number in range(40)], []),
    ("none are expected", [(False, 5, float(number)) for number in range(40)], []),
    (
        "they stop again",
        [(True, 5 + number // 20, float(number)) for number in range(60)],
        [11.0, 31.0, 51.0],
    ),
    (
        "a position is opened late",
        [(number >= 20, 5, float(number)) for number in range(40)],
        [31.0],
    ),
]


@pytest.mark.parametrize(("looks", "told"), [case[1:] for case in LOOKS], ids=[c[0] for c in LOOKS])
def test_the_rule(looks: list[tuple[bool, int, float]], told: list[float]) -> None:
    watch = TickWatch(10.0)
    assert [now for expected, ticks, now in looks if watch.look(expected, ticks, now)] == told


def _silences(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    return [vars(r) for r in caplog.records if vars(r).get("fastpos_event") == "stale"]


@pytest.mark.parametrize("dispatch", ["reader", "thread"])
def test_ticks_that_stop_are_told_of_once_until_they_come_again(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    dispatch: str,
) -> None:
    """The reader waits for the next frame all the while: nothing comes, and no ping is due."""
    exchange.open_position()
    threads: list[str] = []
    with new_stream(exchange, tick_timeout=0.3, dispatch=dispatch) as stream:
        stream.on_stale(lambda _: threads.append(threading.current_thread().name))
        assert stream.wait_ready(SOON)
        for episode in (1, 2):
            exchange.tick()
            told = recorder.wait("on_stale", episode)[-1]
            assert isinstance(told, Stale)
            assert told.silent_s is not None
            assert 0.3 <= told.silent_s < SOON
            assert told.reason.startswith("no tick for ")
            assert "position" in told.reason
            pings = exchange.counts["ping"]
            exchange.push(order(episode))
            recorder.wait("on_order", episode)
            assert len(recorder.on_stale) == exchange.counts["ping"] == pings == episode
        # Of what is known no more, nothing is missed.
        exchange.tick()
        stream.unsubscribe()
        assert exchange.wait_for("unsub")
    name = "fastpos-reader-" if dispatch == "reader" else "fastpos-callbacks-"
    assert all(thread.startswith(name) for thread in threads)
    assert len(_silences(caplog)) == 2
    assert recorder.on_error == []


def test_ticks_that_lie_unread_while_a_callback_takes_its_time_are_not_missed(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    exchange.open_position()
    release = threading.Event()
    with new_stream(exchange, tick_timeout=0.2) as stream:
        stream.on_order(lambda _: release.wait(SOON))
        assert stream.wait_ready(SOON)
        exchange.tick()
        recorder.wait("on_adl_price")
        exchange.push(order(1))
        exchange.tick()
        assert exchange.wait_for("ping", SOON)  # by which the question was asked
        release.set()
        until(lambda: stream.stats.last_pong_ns, what="the answer")
        exchange.push(order(2))
        recorder.wait("on_order", 2)
        assert [name for name, _ in recorder.calls if name in ("on_stale", "on_order")] in (
            ["on_order"] * 2,
            ["on_order"] * 2 + ["on_stale"],  # of the silence after that
        )


@pytest.mark.parametrize("why", ["closed", "never ticked", "off", "of before the gap"])
def test_no_tick_is_missed_where_none_is_expected(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, why: str
) -> None:
    id = exchange.open_position()
    timeout = None if why == "off" else 0.15
    with new_stream(exchange, tick_timeout=timeout, ping_interval=0.1, pong_timeout=5.0) as stream:
        assert stream.wait_ready(SOON)
        if why != "never ticked":
            exchange.tick()
            recorder.wait("on_adl_price")
        if why == "closed":
            exchange.close_position(id)
        if why == "of before the gap":  # in which it may have been closed
            exchange.drop()
            recorder.wait("on_ready", 2)
        exchange.update_position(id, volume=3) if why in ("never ticked", "off") else None
        assert exchange.wait_for("ping", SOON, exchange.counts["ping"] + 6)
        exchange.push(order(1))
        recorder.wait("on_order")
        assert recorder.on_stale == []


@pytest.mark.parametrize("tick_between", [True, False])
def test_only_the_pong_of_its_own_ping_confirms_a_silence(tick_between: bool) -> None:
    """One of a ping before it may lie unread in front of the ticks, while a callback runs."""
    session = Session(Credential("token", "secret"), "secret", 1, Timing(30.0, 100.0), 0.0)

    def read(text: str) -> Any:
        data = text_frame(text)
        session.writable(memoryview(bytearray(100)))[: len(data)] = data
        session.wrote(len(data))
        return session.next_event(0.0)

    read("connect success")
    read("sub success")
    assert session.phase is Phase.READY
    link: Any = SimpleNamespace(session=session, ping_now=session.ping_now)
    ticks = [1]
    lookout = TickLookout(link, 10.0, lambda: True, lambda: ticks[0])
    session.tick(30.0)  # a ping as scheduled
    for now in (30.0, 41.0):
        lookout.keep_schedule(now)
    session.tick(41.0)  # and the one that asks
    assert session.pings == 2
    assert read('{"pong":1}') == Pong()
    assert lookout.confirmed() is None
    ticks[0] += tick_between
    assert read('{"pong":2}') == Pong()
    assert lookout.confirmed() == (None if tick_between else 30.0)
