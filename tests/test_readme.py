"""Every command and every snippet of the README does what it says."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from fastpos.simulator import Exchange

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
SNIPPETS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [text.strip() for language, text in BLOCKS if language == "sh"]
EXCHANGE_URL = "wss://futuresws.exchange1.com/position_order/ws"


def start_snippet(text: str, exchange: Exchange, tmp_path: Path) -> subprocess.Popen[str]:
    """Run a snippet as a script of its own, with the simulator's URL and key in their places."""
    assert EXCHANGE_URL in text
    assert "YOUR-API-KEY" in text
    script = tmp_path / "snippet.py"
    for there, here in (
        (EXCHANGE_URL, exchange.url),
        ("https://futuresopenapi.exchange1.com", exchange.rest_url),
        ("YOUR-API-KEY", exchange.api_key),
        ("YOUR-API-SECRET", exchange.api_secret),
    ):
        text = text.replace(there, here)
    script.write_text(text)
    return subprocess.Popen(
        [sys.executable, "-u", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def read_until(process: subprocess.Popen[str], wanted: str, timeout: float = 20.0) -> str:
    """Read the output until `wanted` is in it."""
    assert process.stdout is not None
    killer = threading.Timer(timeout, process.kill)
    killer.start()
    output = ""
    try:
        for text in process.stdout:
            output += text
            if wanted in text:
                return output
    finally:
        killer.cancel()
    raise AssertionError(f"{wanted!r} did not come; the output was:\n{output}")


@pytest.fixture
def exchange():
    with Exchange() as exchange:
        yield exchange


def test_the_script_prints_positions_and_orders(exchange: Exchange, tmp_path: Path) -> None:
    process = start_snippet(SNIPPETS[0], exchange, tmp_path)
    try:
        exchange.wait_for_subscribers(1, timeout=20)
        position = exchange.open_position(volume=3)
        exchange.update_position(position, volume=2)
        exchange.place_order()
        output = read_until(process, "NEW")
    finally:
        process.kill()
        process.wait()
    assert f"CREATE {position} BUY 3.0" in output
    assert f"UPDATE {position} BUY 2.0" in output
    assert not exchange.violations


def test_the_loop_takes_events_until_no_position_is_left(
    exchange: Exchange, tmp_path: Path
) -> None:
    process = start_snippet(SNIPPETS[1], exchange, tmp_path)
    try:
        exchange.wait_for_subscribers(1, timeout=20)
        position = exchange.open_position()
        read_until(process, "Position(change='CREATE'")
        # It may notice before it has heard of it.
        exchange.close_position(position)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
    assert not exchange.violations


def test_the_script_with_a_snapshot_knows_what_was_open(exchange: Exchange, tmp_path: Path) -> None:
    first = exchange.open_position(volume=3)
    process = start_snippet(SNIPPETS[2], exchange, tmp_path)
    try:
        output = read_until(process, "synced: 1 created, 0 updated, 0 deleted")
        assert f"SNAPSHOT CREATE {first} 3.0" in output
        exchange.update_position(first, volume=2)
        read_until(process, f"STREAM UPDATE {first} 2.0")
    finally:
        process.kill()
        process.wait()
    assert not exchange.violations


def test_the_snippet_for_own_tests(tmp_path: Path) -> None:
    script = tmp_path / "snippet.py"
    script.write_text(SNIPPETS[3])
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr


def test_no_snippet_is_without_a_test() -> None:
    assert len(SNIPPETS) == 4
    assert len(COMMANDS) == 2


def test_the_commands_run_what_is_tested_here() -> None:
    # .ci/run runs both as they stand, in fresh virtual environments; here it is checked that they
    # end in what the other tests run: the demo, and this test suite.
    demo, tests = (shlex.split(command.rsplit("&&", 1)[1]) for command in COMMANDS)
    assert demo == [".venv/bin/fastpos", "demo"]
    assert tests == [".venv/bin/pytest"]
    ci = (ROOT / ".ci" / "run").read_text()
    assert "README.md" in ci


def test_every_callback_of_the_table_exists() -> None:
    from fastpos import PositionStream  # noqa: PLC0415

    named = set(re.findall(r"^\| `(on_\w+)`", README, re.M))
    there = {name for name in vars(PositionStream) if name.startswith("on_")}
    assert named == there


def test_the_command_line_examples_are_understood(exchange: Exchange) -> None:
    began = time.monotonic()
    for words in re.findall(r"`fastpos ([^`]+)`", README):
        command = words.split()[0]
        if command == "COMMAND":
            continue
        done = subprocess.run(
            [sys.executable, "-m", "fastpos", command, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd=ROOT,
        )
        assert done.returncode == 0, done.stderr
        for option in re.findall(r"--\w+", words):
            assert option in done.stdout
    assert time.monotonic() - began < 60
