"""`fastpos serve --redis` at its end: others have its accounts soon, whatever hangs."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastpos.simulator import Exchange
from tests.support.programs import read_until, started
from tests.support.recording import KEY
from tests.support.redis_server import RedisServer

pytestmark = [
    pytest.mark.timeout(60),
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="there are no such signals here"),
]

WITHIN = 6.0
"""It has ended then, whatever hangs; supervisors kill after 10 s."""


class Rig:
    """A worker that serves alice and bob, and what it needs."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.redis = stack.enter_context(RedisServer())
        self.client = stack.enter_context(self.redis.client())
        self.alice, self.bob = (stack.enter_context(Exchange(api_key=KEY)) for _ in range(2))
        text = '[defaults]\nproxy = ""\nbroker = 1003\nping_interval = 0.2\npong_timeout = 100\n'
        for name, exchange in (("alice", self.alice), ("bob", self.bob)):
            text += f'[accounts.{name}]\nurl = "{exchange.url}"\napi_key = {{ env = "KEY" }}\n'
        file = folder / "accounts.toml"
        file.write_text(text)
        words = ("serve", str(file), "--redis", self.redis.url, "--journal", str(folder / "j"))
        self.process: subprocess.Popen[str] = stack.enter_context(started(*words, KEY=KEY))
        for _ in range(2):
            read_until(self.process, "eady")

    def leased(self) -> bool:
        """Whether a shard is anybody's."""
        leases = self.client.hvals("fastpos:{workers}:leases")
        return not all(lease.startswith("-") for lease in leases)


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    with ExitStack() as stack:
        yield Rig(stack, tmp_path)


def test_an_exchange_that_does_not_say_goodbye_holds_up_no_successor(rig: Rig) -> None:
    rig.alice.stall()
    assert rig.leased()
    began = time.monotonic()
    rig.process.send_signal(signal.SIGTERM)
    while rig.leased():
        assert time.monotonic() < began + WITHIN
        time.sleep(0.01)
    assert time.monotonic() - began < 3  # its leases would have lasted for 3.5 s at least
    assert rig.process.wait(10) == 0
    assert time.monotonic() - began < WITHIN
    for name in ("alice", "bob"):
        ((_, last),) = rig.client.xrevrange(f"fastpos:{{{name}}}:events", count=1)
        assert last["kind"] == "stopped"
        assert not rig.client.exists(f"fastpos:{{{name}}}:owner")


def _hang(rig: Rig) -> None:
    assert rig.redis.process is not None
    rig.redis.process.send_signal(signal.SIGSTOP)


def _hang_both(rig: Rig) -> None:
    rig.alice.stall()
    _hang(rig)


@pytest.mark.long
@pytest.mark.parametrize("trouble", [RedisServer.kill, _hang, _hang_both])
def test_it_ends_in_time_whatever_hangs(rig: Rig, trouble: Callable[[object], None]) -> None:
    trouble(rig.redis if trouble is RedisServer.kill else rig)
    for exchange in (rig.alice, rig.bob):
        exchange.push({"channel": "x"})
    began = time.monotonic()
    rig.process.send_signal(signal.SIGTERM)
    assert rig.process.wait(15) == 0
    assert time.monotonic() - began < WITHIN
