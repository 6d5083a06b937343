"""The recorded day calls the functions as it did on the day it was recorded."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastpos import PositionStream
from fastpos.journal import read, replay
from tests.recorded_day import CALLS, DAY, ROOT, Calls


def test_the_calls_are_those_of_the_day() -> None:
    calls = Calls()
    stream = PositionStream("ws://127.0.0.1:9", api_key="x", broker=1, name="demo")
    calls.follow(stream)
    replay(DAY, into=stream)
    assert calls.text == CALLS.read_bytes()


def test_the_day_has_of_everything_something() -> None:
    kinds = {record.kind for record in read(DAY)}
    assert kinds >= {"started", "connected", "subscribed", "push", "disconnected", "stopped"}
    channels = b"".join(record.text for record in read(DAY))
    for channel in ("ACCOUNT_UPDATE", "ADL_PRICE", "SYSTEM", "order", "trigOrder"):
        assert f'"channel":"{channel}"'.encode() in channels.replace(b" ", b"")


@pytest.mark.parametrize("pure", ["0", "1"])
def test_the_example_is_a_test_that_passes(pure: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "replay_test.py"],
        cwd=ROOT / "examples",
        env={**os.environ, "FASTPOS_PURE": pure},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
