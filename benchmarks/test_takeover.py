"""How long accounts are without a worker when one of several that share them ends, and how fast
those that are lost are closed."""

from collections.abc import Callable

import pytest


@pytest.mark.groups("takeover", "closing")
def test_takeover(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
