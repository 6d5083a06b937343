"""A Ctrl-C at any moment: no lock stays locked, and nobody waits for ever."""

from __future__ import annotations

import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastpos import PositionStream
from fastpos.clock import monotonic
from fastpos.fork import OwnerProcess
from fastpos.model.events import Order
from fastpos.runtime.callbacks import Handlers
from fastpos.runtime.dispatch import Dispatcher
from fastpos.simulator import Exchange
from fastpos.wakeup import Wakeup
from tests.support.recording import SOON

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidy")]

INTERRUPTS = 200


@pytest.fixture
def interrupted() -> Iterator[Callable[[Callable[[], object]], None]]:
    """Does something again and again, interrupted as by a Ctrl-C, at another moment each time.

    By a timer of the CPU's time, which comes where the main thread is at work.
    """

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    def run(something: Callable[[], object]) -> None:
        for number in range(INTERRUPTS):
            try:
                # Again, where the first comes in what a collector calls, which swallows it.
                signal.setitimer(signal.ITIMER_VIRTUAL, 0.0001 + number * 2e-6, 0.1)
                while True:
                    something()
            except KeyboardInterrupt:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)

    before = signal.signal(signal.SIGVTALRM, interrupt)
    yield run
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    signal.signal(signal.SIGVTALRM, before)


@contextmanager
def dispatcher(told: list[int]) -> Iterator[tuple[Dispatcher, Handlers[Order]]]:
    queue = Dispatcher(1 << 30, Handlers("on_error"), OwnerProcess())
    queue.start("callbacks", lambda handlers, event, heard: told.append(1), lambda: None)
    yield queue, Handlers("on_order")
    queue.finish(SOON)
    assert not queue.is_alive


def test_what_puts_into_a_queue_is_interrupted(
    interrupted: Callable[[Callable[[], object]], None],
) -> None:
    told: list[int] = []
    event = Order()
    with dispatcher(told) as (queue, handlers):
        interrupted(lambda: queue.put(handlers, event, monotonic()))
        count = len(told)
        queue.put(handlers, event, monotonic())
    assert len(told) > count


def test_what_pushes_is_interrupted(
    interrupted: Callable[[Callable[[], object]], None], new_stream: Callable[..., PositionStream]
) -> None:
    with Exchange() as exchange:
        new_stream(exchange).start()
        assert exchange.wait_for_subscribers(1, timeout=SOON)
        interrupted(lambda: exchange.push('{"channel":"numbers","n":1}'))
        stopping = threading.Thread(target=exchange.stop, daemon=True)
        stopping.start()
        stopping.join(SOON)
        assert not stopping.is_alive()


def test_what_wakes_is_interrupted(interrupted: Callable[[Callable[[], object]], None]) -> None:
    wakeup, turns, over = Wakeup(), 0, False

    def wait() -> None:
        nonlocal turns
        while not over:
            wakeup.wait(None)
            turns += 1

    waiting = threading.Thread(target=wait, daemon=True)
    waiting.start()
    interrupted(wakeup.set)
    over = True
    wakeup.set()
    waiting.join(SOON)
    assert not waiting.is_alive()
    assert turns > 0


def test_what_was_set_is_known_until_the_thread_comes_to_it() -> None:
    wakeup = Wakeup()
    assert not wakeup.is_set()
    for _ in range(3):
        wakeup.set()
        assert wakeup.is_set()
    wakeup.wait(SOON)
    assert not wakeup.is_set()
    wakeup.set()
    wakeup.clear()
    began = monotonic()
    wakeup.wait(0.05)
    assert monotonic() - began >= 0.05


def test_no_condition_is_entered_by_its_own_methods(project: Path) -> None:
    conditions = 0
    for file in (project / "fastpos").rglob("*.py"):
        text = file.read_text()
        for name, of in re.findall(r"self\.(\w+) = threading\.Condition\((.*)\)", text):
            conditions += 1
            assert of == "self._lock", file
            assert f"with self.{name}:" not in text, file
    assert conditions == 4
