"""`examples/pandas_log.py`."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

pytest.importorskip("pandas")

import pandas as pd

from fastpos.simulator import Exchange
from tests.examples.programs import end, example
from tests.support.programs import read_until


def test_events_become_rows_of_csv_files(tmp_path: Path) -> None:
    with (
        Exchange() as exchange,
        example("pandas_log.py", exchange, tmp_path, LOG_INTERVAL="0.05") as log,
    ):
        exchange.wait_for_subscribers(1, timeout=20)
        order = exchange.place_order(volume=100, price=61001)
        read_until(log, "order: 1 rows")
        exchange.cancel_order(order)
        read_until(log, "order: 1 rows")
        exchange.place_order(take_profit=70000)
        position = exchange.open_position(volume=3, open_price=61000.5)
        exchange.tick()
        read_until(log, "tick: 1 rows")
        end(log, exchange)
    orders = pd.read_csv(tmp_path / "log" / "order.csv", dtype={"order_id": str})
    assert list(orders["action"]) == ["NEW", "CANCEL", "NEW"]
    assert orders["order_id"][0] == order
    assert list(orders["price"]) == [61001.0] * 3
    assert json.loads(orders["take_profit"][2])["trigger_price"] == 70000
    assert orders["take_profit"].isna().tolist() == [True, True, False]
    assert pd.to_datetime(orders["received"]).is_monotonic_increasing
    positions = pd.read_csv(tmp_path / "log" / "position.csv")
    assert positions[["id", "volume", "open_price"]].values.tolist() == [[position, 3, 61000.5]]
    assert list(pd.read_csv(tmp_path / "log" / "tick.csv")["id"]) == [position]


def test_what_waits_is_written_at_the_end_and_the_next_run_goes_on(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            Exchange() as exchange,
            example("pandas_log.py", exchange, LOG_FOLDER=str(tmp_path), LOG_INTERVAL="600") as log,
        ):
            exchange.wait_for_subscribers(1, timeout=20)
            exchange.place_order()
            exchange.json_ping(form="text")
            assert exchange.wait_for("pong", 20)  # what was pushed before has been read
            log.send_signal(signal.SIGINT)
            assert "order: 1 rows" in read_until(log, "stopped")
            assert log.wait(20) == 0
    assert len(pd.read_csv(tmp_path / "order.csv")) == 2


def test_what_could_not_be_written_is_written_later(tmp_path: Path) -> None:
    (tmp_path / "order.csv").mkdir()  # nothing can be written there
    with (
        Exchange() as exchange,
        example("pandas_log.py", exchange, LOG_FOLDER=str(tmp_path), LOG_INTERVAL="0.05") as log,
    ):
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.place_order()
        read_until(log, "order: 1 rows not written")
        (tmp_path / "order.csv").rmdir()
        read_until(log, "order: 1 rows\n")
        end(log, exchange)
    assert len(pd.read_csv(tmp_path / "order.csv")) == 1


def test_parquet_has_a_file_for_each_batch(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with (
        Exchange() as exchange,
        example(
            "pandas_log.py",
            exchange,
            LOG_FOLDER=str(tmp_path),
            LOG_FORMAT="parquet",
            LOG_INTERVAL="0.05",
        ) as log,
    ):
        exchange.wait_for_subscribers(1, timeout=20)
        for _ in range(2):
            exchange.place_order(take_profit=70000)
            read_until(log, "order: 1 rows")
        end(log, exchange)
    files = sorted((tmp_path / "order").iterdir())
    assert len(files) == 2
    table = pd.concat(map(pd.read_parquet, files))
    assert list(table["action"]) == ["NEW", "NEW"]
    assert str(table["received"].dtype).startswith("datetime64[ns")
