"""Writes all events into tables: a CSV or Parquet file for each kind, by pandas.

    export FASTPOS_URL=wss://futuresws.exchange1.com/position_order/ws FASTPOS_BROKER=1003
    export FASTPOS_API_KEY=...
    export LOG_FOLDER=log LOG_FORMAT=csv       # or parquet
    pip install pandas                         # and for parquet: pyarrow
    python examples/pandas_log.py

CSV grows at its end: `log/order.csv`. Parquet can't, so each batch is a file of its own, to be read
by `pandas.concat(map(pandas.read_parquet, sorted(Path("log/order").iterdir())))`. Attributes that
have parts, like an order's take profit, are JSON. Ctrl-C ends it, with all written. (To keep what
came exactly as it came, give the stream a journal.)
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path
from typing import Any

import pandas as pd  # type: ignore[import-untyped,import-not-found,unused-ignore]

from fastpos import AccountUpdate, AdlPrice, FastposError, Order, Position, PositionStream, Trigger

INTERVAL = float(os.environ.get("LOG_INTERVAL", "5"))  # seconds between two batches


class Tables:
    """Collects rows, and writes them on a thread of its own.

    `_rows` is guarded by `_lock`, which is held for moments only: a slow disk holds up no event.
    """

    def __init__(self, folder: Path, form: str) -> None:
        if form not in ("csv", "parquet"):
            raise SystemExit(f"LOG_FORMAT must be csv or parquet, not {form}")
        self._folder, self._form = folder, form
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._rows: dict[str, list[dict[str, Any]]] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="tables")
        self._thread.start()

    def add(self, kind: str, event: dict[str, Any]) -> None:
        row = {
            name: json.dumps(value) if isinstance(value, (dict, list)) else value
            for name, value in event.items()
        }
        with self._lock:
            self._rows.setdefault(kind, []).append(row)

    def close(self) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            ended = self._ended.wait(INTERVAL)
            with self._lock:
                rows, self._rows = self._rows, {}
            for kind, some in rows.items():
                try:
                    self._write(kind, pd.DataFrame(some))
                except OSError as error:  # a full disk: they are tried again with the next ones
                    print(f"{kind}: {len(some)} rows not written: {error}", flush=True)
                    with self._lock:
                        self._rows[kind] = some + self._rows.get(kind, [])

    def _write(self, kind: str, table: pd.DataFrame) -> None:
        table.insert(0, "received", pd.to_datetime(table["received_ns"], utc=True))
        if self._form == "csv":
            path = self._folder / f"{kind}.csv"
            if path.exists() and list(pd.read_csv(path, nrows=0)) != list(table):
                path.rename(path.with_suffix(f".{time.time_ns()}.csv"))  # of an older fastpos
            table.to_csv(path, mode="a", header=not path.exists(), index=False)
        else:
            folder = self._folder / kind
            folder.mkdir(exist_ok=True)
            table.to_parquet(folder / f"{time.time_ns()}.parquet", index=False)
        print(f"{kind}: {len(table)} rows", flush=True)


def main() -> None:
    tables = Tables(
        Path(os.environ.get("LOG_FOLDER", "log")), os.environ.get("LOG_FORMAT", "csv").lower()
    )
    stream = PositionStream(
        os.environ["FASTPOS_URL"],
        api_key=os.environ["FASTPOS_API_KEY"],
        broker=int(os.environ["FASTPOS_BROKER"]),
    )

    @stream.on_position
    @stream.on_order
    @stream.on_trigger
    def log(event: Position | Order | Trigger) -> None:
        tables.add(type(event).__name__.lower(), event.as_dict())

    @stream.on_account
    def log_balances(event: AccountUpdate) -> None:
        for balance in event.balances.values():
            tables.add("balance", {"received_ns": event.received_ns} | balance.as_dict())

    @stream.on_adl_price
    def log_ticks(event: AdlPrice) -> None:
        for tick in event.ticks:
            tables.add("tick", {"received_ns": event.received_ns} | tick.as_dict())

    try:
        stream.run_forever()
    finally:
        tables.close()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        print("stopped")
    except FastposError as error:
        raise SystemExit(f"the stream has ended: {error}") from None
