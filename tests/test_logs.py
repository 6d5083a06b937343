"""What is logged: that it tells what happened, and the fields a formatter can rely on."""

from __future__ import annotations

import ast
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastpos import ConnectionFailed, PositionStream, Snapshot
from fastpos.simulator import Exchange
from tests.support.pushes import load, order
from tests.support.recording import SOON, Recorder, until

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(30), pytest.mark.usefixtures("tidy")]

EMITTING = {"debug", "info", "warning", "error", "exception", "critical", "log"}


@pytest.fixture(autouse=True)
def _at_info(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "fastpos")


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    prefix = "fastpos_"
    return {
        name[len(prefix) :]: value
        for name, value in vars(record).items()
        if name.startswith(prefix)
    }


def logged(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    """The fields of all records, of which each has some."""
    records = [record for record in caplog.records if record.name == "fastpos"]
    found = [fields_of(record) for record in records]
    assert all("event" in fields for fields in found)
    assert json.loads(json.dumps(found)) == found  # plain types
    return found


def test_a_day_in_the_log(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    """Connected, subscribed, lost, again: all of it in INFO records, with the reason."""
    with new_stream(exchange, snapshot=lambda: Snapshot([], [])) as stream:
        until(lambda: stream.synced)
        exchange.drop(clean=True, code=1012, reason="restart")
        recorder.wait("on_ready", 2)
        until(lambda: stream.synced)
        stream.unsubscribe()
        stream.subscribe()
        recorder.wait("on_ready", 3)
        until(lambda: stream.synced)
        exchange.push(load("system_close"))
        recorder.wait("on_system_close")
        exchange.refuse_upgrade(503, times=1)
        exchange.drop()
        recorder.wait("on_ready", 4)
        until(lambda: stream.synced)
    found = logged(caplog)
    begin = ["connected", "subscribed", "synced"]
    events = [fields["event"] for fields in found]
    assert events[:7] == [*begin, "disconnected", *begin]
    assert events[7:10] == ["paused", "subscribed", "synced"]
    assert events[10:13] == ["system_close", "disconnected", "connect_failed"]
    assert events[13:] == [*begin, "disconnected"]
    assert "503" in found[12]["reason"]
    assert (found[12]["attempt"], found[13]["attempt"]) == (1, 2)
    assert all(fields["url"] == "ws" + exchange.url[2:].rpartition("/position")[0]
               for fields in found if fields["event"] != "synced")  # fmt: skip
    by_code, by_reset, stopped = [f for f in found if f["event"] == "disconnected"]
    assert by_code["close_code"] == 1012
    assert "restart" in by_code["reason"]
    assert by_code["error"] is None
    assert 0 <= by_code["retry_in_s"] < SOON
    assert 0 < by_code["in_service_s"] < SOON
    assert 0 <= by_code["silent_s"] < SOON
    assert by_reset["close_code"] is None
    assert by_reset["error"] == "ConnectionFailed"
    assert (stopped["reason"], stopped["retry_in_s"]) == ("stopped", None)
    subscribed = [f for f in found if f["event"] == "subscribed"]
    assert subscribed[0]["gap_s"] is None
    assert all(0 < f["gap_s"] < SOON for f in subscribed[1:])
    # A person needs no fields.
    told = [r.getMessage() for r in caplog.records if fields_of(r).get("close_code") == 1012]
    for part in (by_code["url"], "restart", "1012", "in service for", "next attempt in"):
        assert part in told[0]


def test_the_end_and_errors_nobody_listens_to(
    exchange: Exchange,
    new_stream: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("fastpos.recovery.REFUSED_FOR", 0.0)

    def fail(_: object) -> None:
        raise ValueError

    stream = new_stream(exchange, on_error=None, reconnect=None).start()
    stream.on_order(fail)
    assert stream.wait_ready(SOON)
    exchange.push_bytes(b"garbage")
    exchange.push(order(1))
    recorder.wait("on_order")
    stream.on_error = fail
    exchange.push_bytes(b"garbage")
    exchange.push({"channel": "news"})
    recorder.wait("on_unknown")
    exchange.drop()
    with pytest.raises(ConnectionFailed):
        stream.join(SOON)
    found = [
        fields for fields in logged(caplog) if fields["event"] not in ("connected", "subscribed")
    ]
    decode, callback, on_error, *rest = found
    assert decode == {"event": "error", "error": "DecodeError"}
    assert (callback["event"], callback["error"]) == ("callback_error", "CallbackError")
    assert callback["callback"] == on_error["callback"] == fail.__qualname__
    assert (on_error["event"], on_error["slot"]) == ("callback_error", "on_error")
    ended = rest[-1]
    assert (ended["event"], ended["error"]) == ("ended", "ConnectionFailed")


def test_every_record_has_fields_and_the_readme_lists_them(project: Path) -> None:
    sources = [path.read_text() for path in sorted((project / "fastpos").rglob("*.py"))]
    events: set[str] = set()
    names: set[str] = set()
    for node in (node for text in sources for node in ast.walk(ast.parse(text))):
        if not isinstance(node, ast.Call):
            continue
        called = getattr(node.func, "attr", getattr(node.func, "id", None))
        if called in EMITTING and getattr(getattr(node.func, "value", None), "id", None) == "log":
            assert "extra" in {keyword.arg for keyword in node.keywords}, ast.unparse(node)
        if called in ("fields", "_fields"):
            names |= {keyword.arg for keyword in node.keywords if keyword.arg}
            for given in ast.walk(node.args[0]):
                if isinstance(given, ast.Constant) and isinstance(given.value, str):
                    events.add(given.value)
    section = (project / "README.md").read_text().partition("\n## Logs and stats\n")[2]
    section = section.partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|", section, re.M))
    assert set(rows) == events
    listed = {name for row in rows.values() for name in re.findall(r"`(\w+)`", row)}
    assert listed == names


def test_stats_for_an_exporter(
    exchange: Exchange, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange, ping_interval=0.05) as stream:
        assert stream.wait_ready(SOON)
        exchange.push({"channel": "news"})
        exchange.push_bytes(b"garbage")
        recorder.wait("on_error")
        until(lambda: stream.stats.round_trip_s is not None)
        exchange.drop()
        recorder.wait("on_ready", 2)
        stats = stream.stats.as_dict()
    assert json.loads(json.dumps(stats)) == stats
    assert stats["connects"] == stats["subscriptions"] == 2
    assert sum(stats["disconnects"].values()) == 1
    assert (stats["unknown_channels"], stats["decode_errors"]) == ({"news": 1}, 1)
    assert stats["messages"] >= 2 * 2 + 2 + 1  # replies, pushes, a pong
    assert stats["last_ping_ns"] <= stats["last_pong_ns"]
    assert 0 < stats["round_trip_s"] < SOON
    assert isinstance(stats["slowest_callback"], str)
