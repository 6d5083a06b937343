"""The command line, run as a user runs it."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fastpos import __version__
from fastpos.simulator import Exchange

ROOT = Path(__file__).parent.parent


def environment(**more: str) -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("FASTPOS_T")}
    kept.pop("FASTPOS_API_KEY", None)
    return {**kept, "PYTHONPATH": str(ROOT), **more}


def run(*words: str, timeout: float = 60, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fastpos", *words],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env=environment(**more),
    )


@contextmanager
def started(*words: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "fastpos", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**more),
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str]) -> tuple[int, str]:
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=20)
    return process.returncode, errors


def test_demo_shows_all_kinds_of_events_and_a_recovered_drop() -> None:
    began = time.monotonic()
    done = run("demo")
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 15
    for kind in ("Position", "AccountUpdate", "AdlPrice", "Order", "Trigger", "SystemClose"):
        assert re.search(rf"^[\d:.]+  {kind}\b", done.stdout, re.M), kind
    assert "subscribed again after" in done.stdout
    assert done.stdout.count("Disconnect") == 3  # dropped, closed for the day, stopped
    assert not done.stderr


@pytest.mark.long
def test_demo_goes_on_for_as_long_as_it_is_told() -> None:
    began = time.monotonic()
    assert run("demo", "--seconds", "7").returncode == 0
    assert time.monotonic() - began >= 7


def test_demo_can_be_interrupted() -> None:
    with started("demo", "--seconds", "60") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()
        status, errors = interrupt(process)
    assert status == 130
    assert not errors


def test_watch_prints_what_comes_and_ends_with_an_interrupt() -> None:
    with Exchange() as exchange:
        words = ("watch", "--url", exchange.url, "--broker", str(exchange.broker))
        with started(*words, FASTPOS_API_KEY=exchange.api_key) as process:
            exchange.wait_for_subscribers(1, timeout=20)
            exchange.open_position()
            assert process.stdout is not None
            for text in process.stdout:
                if "CREATE" in text:
                    break
            status, errors = interrupt(process)
        assert status == 0
        assert not errors
        assert not exchange.violations


def test_watch_takes_a_token_too_and_tells_when_it_is_refused() -> None:
    with Exchange() as exchange:
        words = ("watch", "--url", exchange.url, "--broker", str(exchange.broker))
        done = run(*words, FASTPOS_TOKEN="no-such-token")
    assert done.returncode == 1
    assert "401" in done.stderr
    assert "Traceback" not in done.stderr
    assert "no-such-token" not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "credentials", [{}, {"FASTPOS_TOKEN": "a", "FASTPOS_API_KEY": "b"}], ids=["none", "both"]
)
def test_watch_needs_one_credential(credentials: dict[str, str]) -> None:
    done = run("watch", "--broker", "1003", **credentials)
    assert done.returncode == 2
    assert "FASTPOS_TOKEN" in done.stderr


def test_watch_takes_no_credential_as_an_argument() -> None:
    done = run("watch", "--broker", "1003", "--api-key", "secret-1")
    assert done.returncode == 2


def test_simulate_serves_until_it_is_interrupted() -> None:
    with started("simulate") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split()[1]
        values = dict(process.stdout.readline().rsplit(None, 1) for _ in range(2))
        words = ("watch", "--url", url, "--broker", values["broker"].strip())
        with started(*words, FASTPOS_API_KEY=values["api key"].strip()) as watching:
            assert watching.stdout is not None
            for text in watching.stdout:
                if "AdlPrice" in text:
                    break
            assert interrupt(watching) == (0, "")
        assert interrupt(process) == (0, "")


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
    [(), ("nonsense",), ("demo", "--seconds", "-1"), ("simulate", "--port", "99999"), ("watch",)],
)
def test_wrong_usage_exits_with_2_and_says_what_is_wrong(words: tuple[str, ...]) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert "usage:" in done.stderr
