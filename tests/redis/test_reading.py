"""What docs/redis.md says of reading with something else: its script reads what is published."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("redis")

from fastpos import PositionStream
from fastpos.redis import Publisher
from fastpos.simulator import Exchange
from tests.support.programs import ROOT, read_until, started
from tests.support.redis_server import RedisServer

PAGE = (ROOT / "docs" / "redis.md").read_text()


def test_the_script_shows_what_is_known_and_then_what_comes(tmp_path: Path) -> None:
    (text,) = re.findall(r"```python\n(.*?)```", PAGE, re.S)
    with RedisServer() as redis, Exchange() as exchange:
        script = tmp_path / "script.py"
        script.write_text(text.replace("redis://127.0.0.1:6379/0", redis.url))
        with PositionStream(
            exchange.url,
            api_key=exchange.api_key,
            broker=exchange.broker,
            name="alice",
            proxy="",
            publisher=Publisher(redis.url),
        ) as stream:
            assert stream.wait_ready(20)
            position = exchange.open_position(volume=3)
            with started(str(script)) as reader:
                output = read_until(reader, "known: []")
                exchange.update_position(position, volume=2)
                while "ACCOUNT_UPDATE" not in output or "'pv': 2" not in output:
                    output += read_until(reader, "push")
    epochs = re.findall(r"^(\d+)-\d+ push", output, re.M)
    assert epochs
    assert len(set(epochs)) == 1


def test_the_kinds_are_those_of_a_journal() -> None:
    journal = (ROOT / "docs" / "journal.md").read_text()
    kinds = set(re.findall(r"^\| `(\w+)` \| ", journal.partition("### What came")[2], re.M))
    kinds -= {"header", "check"}  # of files
    assert kinds
    assert kinds <= set(re.findall(r"`(\w+)`", PAGE.partition("## Entries")[2]))
