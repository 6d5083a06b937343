"""One push to something a program can read."""

from collections.abc import Callable

import pytest


@pytest.mark.groups("decode", "decode-read")
def test_decode(replay: Callable[[str, str], None], group: str, peer: str) -> None:
    replay(group, peer)
