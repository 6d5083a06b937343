"""`examples/legacy_bot.py`."""

from __future__ import annotations

import re

from fastpos.simulator import Exchange
from tests.examples.programs import end, example
from tests.support.programs import read_until


def test_its_loop_wakes_for_what_happens_and_decides_nothing_on_old_data() -> None:
    with Exchange() as exchange, example("legacy_bot.py", exchange, BOT_INTERVAL="600") as bot:
        exchange.wait_for_subscribers(1, timeout=20)
        position = exchange.open_position(volume=3)
        read_until(bot, "E-BTC-USDT: +3 contracts")
        exchange.open_position(side="SELL", volume=5)
        read_until(bot, "E-BTC-USDT: -2 contracts")
        exchange.close_position(position)
        read_until(bot, "E-BTC-USDT: -5 contracts")
        end(bot, exchange)
    with Exchange() as exchange, example("legacy_bot.py", exchange, BOT_INTERVAL="0.05") as bot:
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.open_position()
        read_until(bot, "+12 contracts")
        exchange.refuse_upgrade(503)
        exchange.drop()
        read_until(bot, "not connected")
        exchange.clear_faults()
        read_until(bot, "something may have been missed")


def test_a_wrong_key_ends_it_with_a_message() -> None:
    with Exchange() as exchange:
        exchange.refuse_upgrade(401)
        with example("legacy_bot.py", exchange, BOT_INTERVAL="0.05") as bot:
            _, errors = bot.communicate(timeout=60)
    assert bot.returncode == 1
    # Alone, or below the library's own word, which its thread may not come to.
    assert re.search("^the stream has ended: ws:", errors, re.M)
    assert "Traceback" not in errors
