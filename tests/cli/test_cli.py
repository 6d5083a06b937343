"""The command line, run as a user runs it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fastpos import __version__
from fastpos.simulator import Exchange
from tests.support.programs import interrupted, read_until, run, started


def watch(exchange: Exchange) -> tuple[str, ...]:
    return "watch", "--url", exchange.url, "--broker", str(exchange.broker)


def test_demo_shows_all_kinds_of_events_and_a_recovered_drop() -> None:
    began = time.monotonic()
    done = run("demo")
    assert (done.returncode, done.stderr) == (0, "")
    assert time.monotonic() - began < 15
    for kind in ("Position", "AccountUpdate", "AdlPrice", "Order", "Trigger", "SystemClose"):
        assert re.search(rf"^[\d:.]+  {kind}\b", done.stdout, re.M), kind
    assert "subscribed again after" in done.stdout
    assert done.stdout.count("Disconnect") == 3  # dropped, closed for the day, stopped


def test_demo_can_be_interrupted() -> None:
    with started("demo", "--seconds", "60") as process:
        read_until(process, "subscribed")
        assert interrupted(process) == (130, "")


@pytest.mark.parametrize("command", ["demo", "watch"])
def test_what_nobody_reads_any_more_ends_quietly(command: str) -> None:
    with Exchange() as exchange:
        words = watch(exchange) if command == "watch" else ("demo", "--seconds", "60")
        with started(*words, FASTPOS_API_KEY=exchange.api_key) as process:
            read_until(process, "subscribed")
            assert process.stdout is not None
            process.stdout.close()  # as `head` does
            exchange.open_position()
            assert process.wait(20) == 1
            assert process.stderr is not None
            assert process.stderr.read() == ""


def test_watch_prints_what_comes_and_ends_with_an_interrupt() -> None:
    with Exchange() as exchange:
        with started(*watch(exchange), FASTPOS_API_KEY=exchange.api_key) as process:
            exchange.wait_for_subscribers(1, timeout=20)
            exchange.open_position()
            read_until(process, "CREATE")
            assert interrupted(process) == (0, "")
        assert not exchange.violations


def test_watch_takes_a_token_too_and_tells_when_it_is_refused() -> None:
    with Exchange() as exchange:
        done = run(*watch(exchange), FASTPOS_TOKEN="no-such-token")
    assert done.returncode == 1
    assert "401" in done.stderr
    assert "Traceback" not in done.stderr
    assert "no-such-token" not in done.stdout + done.stderr


@pytest.mark.parametrize("credentials", [{}, {"FASTPOS_TOKEN": "a", "FASTPOS_API_KEY": "b"}])
def test_watch_needs_one_credential(credentials: dict[str, str]) -> None:
    done = run("watch", "--broker", "1003", **credentials)
    assert done.returncode == 2
    assert "FASTPOS_TOKEN" in done.stderr


def test_simulate_serves_until_it_is_interrupted() -> None:
    with started("simulate") as process:
        shown = read_until(process, "token")
        url, broker, key, _ = (line.split()[-1] for line in shown.splitlines())
        words = ("watch", "--url", url, "--broker", broker)
        with started(*words, FASTPOS_API_KEY=key) as watching:
            read_until(watching, "AdlPrice")
            assert interrupted(watching) == (0, "")
        assert interrupted(process) == (0, "")


def test_simulate_says_when_the_port_is_taken() -> None:
    with Exchange() as exchange:
        done = run("simulate", "--port", str(exchange.port))
    assert done.returncode == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("forced", "inflater", "tls"),
    [
        ("1", r"isal \(FASTPOS_PURE", r"ssl module \(FASTPOS_PURE"),
        ("", r"isa-l$|isal \(", r"direct$|ssl module \("),
    ],
)
def test_info_tells_the_extensions_in_use_and_the_versions(
    forced: str, inflater: str, tls: str
) -> None:
    done = run("info", FASTPOS_PURE=forced)
    assert done.returncode == 0, done.stderr
    assert f"fastpos           {__version__}" in done.stdout
    assert re.search(rf"^inflater +({inflater})", done.stdout, re.M)
    assert re.search(rf"^tls +({tls})", done.stdout, re.M)
    assert re.search(r"^package +/.+/fastpos$", done.stdout, re.M)
    assert re.search(r"^compiled +(yes|no \(.+\))$", done.stdout, re.M)
    assert re.search(r"^orjson +\d", done.stdout, re.M)


@pytest.mark.parametrize(
    "words",
    [
        ("watch", "--broker", "1", "--url", "http://x"),
        ("watch", "--broker", "1", "--url", "wss://user:pa55@host/"),
        ("watch", "--broker", "1", "--proxy", "ftp://user:pa55@host:1"),
        ("record", "nowhere", "--broker", "1", "--url", "http://x"),
        ("serve", "nowhere", "--connect-rate", "-1"),
    ],
)
def test_an_option_that_can_not_be_used_is_wrong_usage_too(words: tuple[str, ...]) -> None:
    done = run(*words, FASTPOS_API_KEY="key")
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert "pa55" not in done.stderr


def test_a_name_that_the_output_can_not_hold_is_escaped() -> None:
    with Exchange() as exchange:
        environment = {"FASTPOS_API_KEY": exchange.api_key, "PYTHONIOENCODING": "ascii"}
        with started(*watch(exchange), **environment) as process:
            exchange.wait_for_subscribers(1, timeout=20)
            exchange.open_position("E-日本-USDT")
            assert r"E-\u65e5\u672c-USDT" in read_until(process, "Position ")
            assert interrupted(process) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no such file here")
@pytest.mark.parametrize("form", ["--plain", "--json"])
def test_an_output_that_can_not_be_written_ends_it(form: str) -> None:
    with Exchange() as exchange, open("/dev/full", "w") as full:
        process = subprocess.run(
            [sys.executable, "-m", "fastpos", *watch(exchange), form],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "FASTPOS_API_KEY": exchange.api_key},
            timeout=60,
        )
    assert process.returncode == 1
    assert process.stderr == "fastpos: [Errno 28] No space left on device\n"


def test_the_demo_gives_an_object_an_event_and_nothing_else() -> None:
    done = run("demo", "--json")
    assert done.returncode == 0, done.stderr
    events = [json.loads(line)["event"] for line in done.stdout.splitlines()]
    assert {"ready", "position", "order", "adl_price", "disconnect"} <= set(events)


def test_ctrl_c_ends_a_demo_that_has_no_other_end() -> None:
    with started("demo", "--live", "--plain") as process:
        read_until(process, "Ready")
        assert interrupted(process) == (0, "")


@pytest.mark.parametrize(
    "command",
    ["demo", "watch", "record", "replay", "serve", "tail", "status", "simulate", "info"],
)
def test_help_fits_a_terminal(command: str) -> None:
    done = run(command, "--help", COLUMNS="80")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= 80


@pytest.mark.parametrize(
    "words",
    [
        *((), ("nonsense",), ("demo", "--seconds", "-1"), ("simulate", "--port", "99999")),
        *(("watch",), ("watch", "--broker", "1003", "--api-key", "secret-1")),
    ],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "usage:" in done.stderr
