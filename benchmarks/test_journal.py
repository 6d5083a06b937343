"""What a journal costs, and how fast it is read."""

from collections.abc import Callable

import pytest


@pytest.mark.groups("journal-burst", "journal-busy", "journal-read")
def test_journal(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
