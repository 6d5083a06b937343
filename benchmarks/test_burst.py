"""From the socket to the callback, as fast as it goes."""

from collections.abc import Callable

import pytest


@pytest.mark.groups(
    "burst-plain",
    "burst-tls",
    "off-socket-plain",
    "off-socket-tls",
)
def test_burst(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
