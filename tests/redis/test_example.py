"""`examples/risk_service.py` against a simulated exchange and a real Redis."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

pytest.importorskip("redis")

from fastpos import PositionStream
from fastpos.redis import Publisher
from fastpos.simulator import Exchange
from tests.support.programs import ROOT, read_until, started
from tests.support.redis_server import RedisServer

EXAMPLE = str(ROOT / "examples" / "risk_service.py")


def test_the_risk_service_rings_and_the_second_one_goes_on(tmp_path: Path) -> None:
    limits = tmp_path / "limits"
    limits.write_text("alice 10 1000\nbob 10 1000\n")
    with RedisServer() as redis, Exchange() as exchange:
        stream = PositionStream(
            exchange.url,
            api_key=exchange.api_key,
            broker=exchange.broker,
            name="alice",
            publisher=Publisher(redis.url),
        )
        with stream, started(EXAMPLE, redis.url, str(limits)) as first:
            assert stream.wait_ready(5)
            read_until(first, "ALARM bob is not watched")
            position = exchange.open_position(volume=5)
            exchange.update_position(position, volume=11)
            read_until(first, f"ALARM alice position {position} is over 10")
            exchange.update_position(position, volume=9)
            read_until(first, f"fine alice position {position} is over 10")
            exchange.update_position(position, realized_pnl=-1001)
            with started(EXAMPLE, redis.url, str(limits)) as second:
                read_until(second, "2 accounts")
                first.send_signal(signal.SIGTERM)
                assert first.wait(10) == 0
                read_until(second, "ALARM alice has lost over 1000")
                stream.stop()
                read_until(second, "ALARM alice is not watched")
                second.send_signal(signal.SIGINT)
                assert second.wait(10) == 0
