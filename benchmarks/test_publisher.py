"""What a publisher costs, how many events it publishes, and what these take."""

from collections.abc import Callable

import pytest


@pytest.mark.groups("publisher-burst", "publisher-rate", "publisher-size")
def test_publisher(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
