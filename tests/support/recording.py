"""What a stream told: functions that record, and a wait for conditions."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from fastpos.runtime.callbacks import CALLBACK_NAMES

SOON = 10.0
"""Seconds: the deadline of a wait, never a pause. A busy machine may hold up a thread for two."""

KEY = "key-of-the-tests-0b7a55"


class Recorder:
    """Has a function for each callback of a stream, and keeps what they were called with."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.calls: list[tuple[str, Any]] = []
        """(callback's name, event), in the order of the calls."""
        self.times: dict[str, list[float]] = {name: [] for name in CALLBACK_NAMES}
        """When each callback was called (`time.monotonic`)."""

    @property
    def callbacks(self) -> dict[str, Callable[[Any], None]]:
        """The functions, as a stream's keyword arguments."""
        return {name: self._function(name) for name in CALLBACK_NAMES}

    def _function(self, name: str) -> Callable[[Any], None]:
        def record(event: Any) -> None:
            with self._changed:
                self.calls.append((name, event))
                self.times[name].append(time.monotonic())
                self._changed.notify_all()

        return record

    def __getattr__(self, name: str) -> list[Any]:
        """The events that one callback got: `recorder.on_order`."""
        if name not in CALLBACK_NAMES:
            raise AttributeError(name)
        with self._changed:
            return [event for called, event in self.calls if called == name]

    @property
    def names(self) -> list[str]:
        """The names of the callbacks in the order of the calls, `on_ready` left out."""
        with self._changed:
            return [name for name, _ in self.calls if name != "on_ready"]

    def wait(self, name: str, count: int = 1, timeout: float = SOON) -> list[Any]:
        """Wait for `count` calls of one callback, over all; give their events."""
        with self._changed:
            if not self._changed.wait_for(lambda: len(getattr(self, name)) >= count, timeout):
                last = "; ".join(f"{called}: {event}"[:200] for called, event in self.calls[-5:])
                raise AssertionError(f"no {count} calls of {name} in {timeout} s; last: {last}")
        events: list[Any] = getattr(self, name)
        return events


def until(condition: Callable[[], object], timeout: float = SOON, what: str = "it") -> None:
    """Wait until `condition()` is true, for what tells nobody when it becomes so."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, f"{what} is not so after {timeout} s"
        time.sleep(0.005)


def logged(caplog: pytest.LogCaptureFixture, event: str) -> list[dict[str, Any]]:
    """What the library's log records of this kind have."""
    records = map(vars, caplog.records)
    return [record for record in records if record.get("fastpos_event") == event]
