"""A fleet of many streams at an exchange that is a process of its own."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import pytest

pytestmark = [pytest.mark.long, pytest.mark.timeout(60)]


@pytest.mark.parametrize("storm", [False, True], ids=["calm", "storm"])
def test_many_streams(storm: bool) -> None:
    pytest.importorskip("resource")  # not on Windows
    many: Any = import_module("tests.many")
    assert many.run(streams=100, minutes=0.1, rate=2, connect_rate=50, storm=storm) == []
