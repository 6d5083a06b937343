"""`examples/several_bots.py`."""

from __future__ import annotations

from fastpos.simulator import Exchange
from tests.examples.programs import end, example
from tests.support.programs import read_until


def test_each_bot_gets_what_it_asked_for() -> None:
    with Exchange() as exchange, example("several_bots.py", exchange) as bots:
        exchange.wait_for_subscribers(1, timeout=20)
        order = exchange.place_order(volume=100, price=61001)
        exchange.fill_order(order, 40)
        read_until(bots, "Fills: E-BTC-USDT 40 of 100 at 61001.0")
        position = exchange.open_position(volume=3, liquidation_price=68000)
        read_until(bots, "Exposure: E-BTC-USDT +3")
        exchange.set_price("E-BTC-USDT", 70000)
        exchange.tick()
        read_until(bots, f"Liquidation: position {position} is 2.9 % away")
        end(bots, exchange)


def test_one_that_fails_goes_on_and_holds_up_nobody() -> None:
    with Exchange() as exchange, example("several_bots.py", exchange) as bots:
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.push({"channel": "order", "order": {"orderId": "7", "dealVolume": 1}})
        read_until(bots, "Fills: has failed with Order")  # it has no volume to print
        exchange.fill_order(exchange.place_order(volume=9))
        read_until(bots, "Fills: E-BTC-USDT 9 of 9")
        exchange.open_position(volume=3)
        read_until(bots, "Exposure: E-BTC-USDT +3")
