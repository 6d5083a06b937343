"""`RemoteStream` where Redis is full, and where it hangs while a member of a group ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from fastpos import Order
from fastpos.redis import RemoteStream
from tests.redis.test_remote import Author, left_threads, member
from tests.support.network import TcpProxy
from tests.support.recording import Recorder, until
from tests.support.redis_server import RedisServer
from tests.support.rig import LOOPBACK

pytestmark = [pytest.mark.timeout(60)]


@pytest.fixture
def redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def test_a_group_reads_on_while_the_servers_memory_is_full(redis: RedisServer) -> None:
    """It renews its lock by what a full server does not refuse."""
    author, log = Author(redis), Recorder()
    author.begin(7)
    with member(redis, log, "a") as stream:
        assert stream.wait_ready(5)
        author.order(1)
        log.wait("on_order", 1)
        with redis.client() as client:
            client.config_set("maxmemory", 1)
            deadline = time.monotonic() + 2.5  # longer than a renewal
            while time.monotonic() < deadline:
                assert not log.on_disconnect
                time.sleep(0.05)


@pytest.mark.parametrize("by_callback", [False, True])
def test_a_member_of_a_group_ends_soon_while_redis_hangs(
    redis: RedisServer, by_callback: bool
) -> None:
    """Within `stop`'s own 5 s, so that it leaves no thread."""
    author = Author(redis)
    author.begin(7)
    with TcpProxy(LOOPBACK, redis.port) as proxy:
        stream = RemoteStream(proxy.url("redis", "/0"), "alice", group="risk")
        called = threading.Event()

        @stream.on_order
        def order(event: Order) -> None:
            proxy.blackhole()
            called.set()
            if by_callback:
                stream.stop()
            else:  # else what is acknowledged before the stop is waited for, too
                until(lambda: stream._own_driver.current.stopping)  # type: ignore[attr-defined]

        stream.start()
        assert stream.wait_ready(5)
        author.order(1)
        assert called.wait(5)
        began = time.monotonic()
        if not by_callback:
            stream.stop()
        until(lambda: not left_threads(), 10.0)
        assert time.monotonic() - began < 5.0
