"""What is logged: that it tells what happened, and the fields a formatter can rely on."""

from __future__ import annotations

import ast
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest

from fastpos import ConnectionFailed, Snapshot
from tests.support.bench import Bench
from tests.support.pushes import load
from tests.support.recording import SOON, until

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

EMITTING = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastpos")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    prefix, given = "fastpos_", vars(record)
    return {name[len(prefix) :]: given[name] for name in given if name.startswith(prefix)}


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of all records, of which each has some."""
    records = [record for record in caplog.records if record.name == "fastpos"]
    found = [fields_of(record) for record in records]
    assert all("event" in fields for fields in found)
    assert json.loads(json.dumps(found)) == found  # plain types
    return found


def test_a_day_in_the_log(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    """Connected, subscribed, lost, again: all of it in INFO records, with the reason."""

    def wait_ready(count: int) -> None:
        bench.wait("on_ready", count)
        bench.wait("on_synced", count)  # which is called once that was logged

    stream, exchange = bench.start(snapshot=lambda: Snapshot([], [])), bench.exchange
    wait_ready(1)
    exchange.drop(clean=True, code=1012, reason="restart")
    wait_ready(2)
    stream.unsubscribe()
    stream.subscribe()
    wait_ready(3)
    exchange.push(load("system_close"))
    bench.wait("on_system_close")
    exchange.refuse_upgrade(503, times=1)
    exchange.drop()
    wait_ready(4)
    stream.stop()
    found = logged(caplog)
    begin = ["connected", "subscribed", "synced"]
    assert [fields["event"] for fields in found] == [
        *(*begin, "disconnected", *begin, "paused", "subscribed", "synced"),
        *("system_close", "disconnected", "connect_failed", *begin, "disconnected"),
    ]
    assert "503" in found[12]["reason"]
    assert (found[12]["attempt"], found[13]["attempt"]) == (1, 2)
    assert all(fields["url"] == "ws" + exchange.url[2:].rpartition("/position")[0]
               for fields in found if fields["event"] != "synced")  # fmt: skip
    by_code, by_reset, stopped = [f for f in found if f["event"] == "disconnected"]
    assert (by_code["close_code"], by_code["error"]) == (1012, None)
    assert "restart" in by_code["reason"]
    assert all(0 <= by_code[name] < SOON for name in ("retry_in_s", "in_service_s", "silent_s"))
    assert (by_reset["close_code"], by_reset["error"]) == (None, "ConnectionFailed")
    assert (stopped["reason"], stopped["retry_in_s"]) == ("stopped", None)
    first, *others = [f["gap_s"] for f in found if f["event"] == "subscribed"]
    assert first is None
    assert all(0 < gap_s < SOON for gap_s in others)
    # A person needs no fields.
    told = [r.getMessage() for r in caplog.records if fields_of(r).get("close_code") == 1012]
    for part in (by_code["url"], "restart", "1012", "in service for", "next attempt in"):
        assert part in told[0]


def test_the_end_and_errors_nobody_listens_to(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(_: object) -> None:
        raise ValueError

    stream, exchange = bench.start(on_error=None, reconnect=None), bench.exchange
    stream.on_order(fail)
    exchange.push_bytes(b"garbage")
    bench.push(1)
    until(lambda: "callback_error" in [fields["event"] for fields in logged(caplog)])
    stream.on_error = fail
    exchange.push_bytes(b"garbage")
    exchange.push({"channel": "news"})
    bench.wait("on_unknown")
    exchange.drop()
    with pytest.raises(ConnectionFailed):
        stream.join(SOON)
    found = [f for f in logged(caplog) if f["event"] not in ("connected", "subscribed")]
    decode, callback, on_error, *_, ended = found
    assert decode == {"event": "error", "stream": stream.name, "error": "DecodeError"}
    assert (callback["event"], callback["error"]) == ("callback_error", "CallbackError")
    assert callback["callback"] == on_error["callback"] == fail.__qualname__
    assert (on_error["event"], on_error["slot"]) == ("callback_error", "on_error")
    assert (ended["event"], ended["error"]) == ("ended", "ConnectionFailed")


def test_every_record_has_fields_and_the_page_lists_them(project: Path) -> None:
    sources = [path.read_text() for path in sorted((project / "fastpos").rglob("*.py"))]
    events: set[str] = set()
    names: set[str] = set()
    for node in (node for text in sources for node in ast.walk(ast.parse(text))):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", None))
        assert called != "warn", "the page says that warnings.warn() is never called"
        if called in EMITTING and getattr(getattr(node.func, "value", None), "id", None) == "log":
            assert "extra" in {keyword.arg for keyword in node.keywords}, ast.unparse(node)
        if called in ("fields", "_fields"):
            names |= {keyword.arg for keyword in node.keywords if keyword.arg}
            for given in ast.walk(node.args[0]):
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    events.add(given.value)
    page = (project / "docs" / "reference" / "logs.md").read_text()
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]+\|([^|]*)\|[^|]+\|$", page, re.M))
    assert set(rows) == events
    listed = {name for row in rows.values() for name in re.findall(r"`(\w+)`", row)}
    assert {"stream", *listed} == names
