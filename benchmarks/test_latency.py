"""From the server's send to the callback, on an idle host and beside a busy thread."""

from collections.abc import Callable

import pytest


@pytest.mark.groups(
    "latency-idle-plain",
    "latency-idle-tls",
    "latency-busy-single-plain",
    "latency-busy-single-tls",
    "latency-busy-burst-plain",
    "latency-busy-burst-tls",
)
def test_latency(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
