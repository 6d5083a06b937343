"""What a publisher costs, and how many events it publishes."""

from collections.abc import Callable

import pytest


@pytest.mark.groups("publisher-burst", "publisher-rate")
def test_publisher(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
