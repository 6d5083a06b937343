"""Ticks of an open position that stop."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from fastpos import decode
from fastpos.account.book import Book
from fastpos.account.ticks import TickWatch
from fastpos.runtime.lookout import TickLookout
from fastpos.wire.session import Phase
from tests.account.truth import merge
from tests.support.bench import Bench
from tests.support.pushes import pushed
from tests.support.recording import SOON

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


@pytest.mark.parametrize("meanwhile", ["nothing", "a tick", "a pause", "no position is open"])
def test_a_pong_tells_whether_they_are_missed(meanwhile: str) -> None:
    """What lies unread while a callback takes its time has been read when the pong of a ping comes
    that was sent after; one of a ping before may lie in front of it."""
    known = SimpleNamespace(is_open=True, ticks=1)
    asked: list[float] = []
    session = SimpleNamespace(phase=Phase.READY, pings=1, pongs=0)  # one as scheduled
    link: Any = SimpleNamespace(session=session, ping_now=asked.append, has_ended=False)
    lookout = TickLookout(link, 10.0, lambda: known.is_open, lambda: known.ticks)
    for now in range(12):
        lookout.keep_schedule(float(now))
    assert asked == [11.0]
    session.pings, session.pongs = 2, 1
    assert lookout.confirmed() is None
    session.pongs = 2
    if meanwhile == "a tick":
        known.ticks += 1
    elif meanwhile == "a pause":
        session.phase = Phase.PAUSED
    elif meanwhile == "no position is open":
        known.is_open = False
    assert lookout.confirmed() == (0.0 if meanwhile == "nothing" else None)
    assert lookout.confirmed() is None  # once


def test_whether_ticks_are_expected() -> None:
    book = Book(float)
    assert not book.has_open_position
    for change, expected in (("CREATE", True), ("DELETE", False), ("CREATE", True)):
        body = {"et": change, "p": {"id": 7}}
        merge(book, decode(pushed({"channel": "ACCOUNT_UPDATE", "d": body})))
        assert book.has_open_position == expected
    book.mark_stale()  # in a gap it may have been closed
    assert not book.has_open_position


@pytest.mark.parametrize("dispatch", ["reader", "thread"])
def test_ticks_that_stop_are_told_of_once_until_they_come_again(
    bench: Bench, caplog: pytest.LogCaptureFixture, dispatch: str
) -> None:
    """The reader waits for the next frame all the while: nothing comes, and no ping is due."""
    exchange, recorder = bench.exchange, bench.recorder
    exchange.open_position()
    threads: list[str] = []
    stream = bench.start(tick_timeout=0.3, dispatch=dispatch)
    stream.on_stale(lambda _: threads.append(threading.current_thread().name))
    for episode in (1, 2):
        exchange.tick()
        told = bench.wait("on_stale", episode)[-1]
        assert 0.3 <= told.silent_s < SOON
        assert re.match("no tick for .*position", told.reason)
        pings = exchange.counts["ping"]
        bench.push(episode)
        bench.wait("on_order", episode)
        assert len(recorder.on_stale) == exchange.counts["ping"] == pings == episode
    name = "fastpos-reader-" if dispatch == "reader" else "fastpos-callbacks-"
    assert all(thread.startswith(name) for thread in threads)
    silences = [r for r in caplog.records if getattr(r, "fastpos_event", None) == "stale"]
    assert len(silences) == 2
    assert recorder.on_error == []


def test_who_does_not_want_to_know_is_not_told(bench: Bench) -> None:
    bench.exchange.open_position()
    bench.start(tick_timeout=None, ping_interval=0.05, pong_timeout=SOON)
    bench.exchange.tick()
    assert bench.exchange.wait_for("ping", SOON, 6)
    bench.push(1)
    bench.wait("on_order")
    assert bench.recorder.on_stale == []
