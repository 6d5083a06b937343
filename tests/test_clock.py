"""The clock that counts sleep, and that it is the only one."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest

from fastpos import clock
from fastpos.runtime.timing import CallbackTimes
from fastpos.wire.credential import Credential
from fastpos.wire.heartbeat import Heartbeat
from fastpos.wire.session import Session, Timing
from tests.support.frames import text_frame
from tests.support.sessions import fed


def ahead() -> tuple[float, float]:
    """How far it is ahead of Python's clock, at least and at most: who looks may be held up."""
    before, now, after = time.monotonic(), clock.monotonic(), time.monotonic()
    return now - after, now - before


def test_it_goes_as_fast_as_time_does() -> None:
    least, most = ahead()
    time.sleep(0.05)
    later_least, later_most = ahead()
    assert later_least < most + 0.04
    assert later_most > least - 0.04
    before = clock.monotonic()
    assert before <= CallbackTimes(1.0).now <= clock.monotonic()  # compiled code's, too


def test_it_counts_sleep_where_the_system_has_such_a_clock() -> None:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        pytest.skip("this is Linux' clock")
    before = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert before <= clock.monotonic() <= time.clock_gettime(time.CLOCK_BOOTTIME)
    asleep = time.clock_gettime(time.CLOCK_BOOTTIME) - time.clock_gettime(time.CLOCK_MONOTONIC)
    assert abs(clock.asleep() - asleep) < 1.0


def test_nobody_asks_another_clock(project: Path) -> None:
    """Times of two clocks can't be compared."""
    elsewhere = {"clock.py", "simulator", "cli"}
    for path in (project / "fastpos").rglob("*.py"):
        if elsewhere.isdisjoint(path.relative_to(project / "fastpos").parts):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.ImportFrom) and node.module == "time":
                    assert "monotonic" not in [alias.name for alias in node.names], path
                if isinstance(node, ast.Attribute):
                    assert ast.unparse(node) != "time.monotonic", path


@pytest.mark.parametrize("unanswered", [False, True])
def test_what_tells_that_the_peer_outlived_the_sleep(unanswered: bool) -> None:
    """The pong of a ping from before the sleep may have lain in the kernel all night."""
    heartbeat = Heartbeat()
    credential, timing = Credential("token", "secret"), Timing(30.0, 10.0, 1e9)
    session = Session(credential, "secret", 1, timing, 0.0, heartbeat=heartbeat)
    pong = text_frame('{"pong":5}')
    if unanswered:
        session.tick(30.0)
        session.data_to_send()
    session.woke(28835.0)
    assert session.deadline == 28835.0
    assert session.tick(28835.0) is None  # the pong that was due in the night is not missed
    assert session.data_to_send()
    assert session.deadline == 28845.0
    for owed in (2, 1, 0, 0) if unanswered else (1, 0, 0):
        assert heartbeat.owed_since_sleep == owed
        fed(session, pong, 28836.0)
    # Another connection owes nothing.
    session.woke(28900.0)
    assert heartbeat.owed_since_sleep == 1
    Session(credential, "secret", 1, timing, 28901.0, heartbeat=heartbeat)
    assert heartbeat.owed_since_sleep == 0
