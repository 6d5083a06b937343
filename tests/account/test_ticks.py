"""Ticks of an open position that stop."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable

import pytest

from fastpos import PositionStream, Stale
from fastpos.account.ticks import TickWatch
from fastpos.simulator import Exchange
from tests.support.pushes import order
from tests.support.recording import SOON, Recorder, until

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

LOOKS: dict[str, tuple[Callable[[int], bool], Callable[[int], int], list[int]]] = {
    # whether ticks are expected, how many have come, when it is told
    "they come": (lambda now: True, lambda now: now, []),
    "they stop": (lambda now: True, lambda now: 5, [11]),
    "they never came": (lambda now: True, lambda now: 0, []),
    "none are expected": (lambda now: False, lambda now: 5, []),
    "they stop again": (lambda now: True, lambda now: 5 + now // 20, [11, 31, 51]),
    "a position is opened late": (lambda now: now >= 20, lambda now: 5, [31]),
}


@pytest.mark.parametrize("why", LOOKS)
def test_the_rule(why: str) -> None:
    expected, ticks, told = LOOKS[why]
    watch = TickWatch(10.0)
    assert [now for now in range(60) if watch.look(expected(now), ticks(now), now)] == told


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
            assert re.match("no tick for .*position", told.reason)
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
    silences = [r for r in caplog.records if getattr(r, "fastpos_event", None) == "stale"]
    assert len(silences) == 2
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
        elif why == "of before the gap":  # in which it may have been closed
            exchange.drop()
            recorder.wait("on_ready", 2)
        else:
            exchange.update_position(id, volume=3)
        assert exchange.wait_for("ping", SOON, exchange.counts["ping"] + 6)
        exchange.push(order(1))
        recorder.wait("on_order")
        assert recorder.on_stale == []
