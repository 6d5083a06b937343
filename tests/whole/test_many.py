"""A fleet of many streams at an exchange that is a process of its own."""

from __future__ import annotations

import pytest

from tests.many import run

pytestmark = [pytest.mark.long, pytest.mark.timeout(60), pytest.mark.usefixtures("tidy")]


def test_after_a_storm_all_are_back_and_none_has_hurried() -> None:
    assert run(streams=100, minutes=0.1, rate=2, connect_rate=200, storm=True) == []


def test_every_frame_to_every_stream_is_accounted_for() -> None:
    assert run(streams=200, minutes=0.1, rate=2, connect_rate=1000, storm=False) == []
