"""What a stream costs that waits."""

from collections.abc import Callable

import pytest


@pytest.mark.groups("idle")
def test_idle(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
