"""`examples/fleet.py` against the simulator."""

from __future__ import annotations

import signal
from pathlib import Path

from fastpos.simulator import Exchange
from tests.support.programs import ROOT, read_until, started


def test_the_example_of_a_fleet(exchange: Exchange, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{name} {exchange.api_key}\n" for name in ("alice", "bob", "carol")))
    example = str(ROOT / "examples" / "fleet.py")
    with started(example, exchange.url, str(exchange.broker), str(keys)) as process:
        exchange.wait_for_subscribers(3, timeout=20)
        exchange.place_order()
        read_until(process, "alice NEW")
        process.send_signal(signal.SIGINT)
        assert "FleetStats(streams=3" in read_until(process, "FleetStats")
        assert process.wait(timeout=20) == 0
    assert exchange.wait_for("unsub", 5, 3)
