"""What many streams in one process cost."""

from collections.abc import Callable

import pytest


@pytest.mark.groups("fleet-plain", "fleet-tls", "fleet-scale")
def test_fleet(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
