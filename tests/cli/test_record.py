"""`fastpos record`, run as a user runs it: by hand, on a terminal, as a service."""

from __future__ import annotations

import os
import re
import select
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpos.journal import Journal, read
from fastpos.simulator import Exchange
from tests.support.programs import run, started
from tests.support.recording import until
from tests.support.terminal import Terminal

pytestmark = pytest.mark.timeout(60)


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as exchange:
        yield exchange


def words(exchange: Exchange, folder: Path, *more: str) -> tuple[str, ...]:
    return "record", str(folder), "--url", exchange.url, "--broker", str(exchange.broker), *more


def recorded(folder: Path) -> list[str]:
    return [each.kind for each in read(folder) if each.kind != "push"]


def pushes(folder: Path) -> int:
    if not any(folder.glob("*.jsonl*")):
        return 0
    return sum(each.kind == "push" for each in read(folder))


WHOLE = ["started", "connected", "subscribed", "disconnected", "stopped"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("credential", ["FASTPOS_API_KEY", "FASTPOS_TOKEN"])
def test_a_signal_ends_it_and_all_that_came_is_written(
    exchange: Exchange, tmp_path: Path, number: int, credential: str
) -> None:
    secret = exchange.token if credential.endswith("TOKEN") else exchange.api_key
    folder = tmp_path / "made" / "for it"
    with started(*words(exchange, folder), **{credential: secret}) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = process.stderr.readline()  # it knows that it is subscribed
        exchange.open_position()
        for _ in range(500):
            exchange.tick()
        pings = exchange.counts["unsub"]
        process.send_signal(number)  # the last are on their way
        began = time.monotonic()
        shown, rest = process.stdout.read(), process.stderr.read()
        assert process.wait(20) == 0
        assert time.monotonic() - began < 10
    assert recorded(folder) == WHOLE
    assert exchange.counts["unsub"] == pings + 1
    assert exchange.violations == []
    count = pushes(folder)
    assert re.fullmatch(rf"{count} events, [\d,]+ bytes in {folder}, in \d+ s\n", shown)
    assert re.fullmatch(r"[\d:.]+  Ready +subscribed\n", told + rest)  # no status line: no terminal
    assert secret.encode() not in b"".join(path.read_bytes() for path in folder.iterdir())
    assert {path.suffix for path in folder.iterdir()} == {".gz", ""}  # closed, and the lock


def test_what_was_written_before_the_signal_is_all_there(
    exchange: Exchange, tmp_path: Path
) -> None:
    with started(*words(exchange, tmp_path), FASTPOS_API_KEY=exchange.api_key) as process:
        assert exchange.wait_for_subscribers(1, 20)
        exchange.open_position()
        for _ in range(20):
            exchange.tick()
        pings = exchange.json_ping(form="text")  # its answer comes after all that was pushed
        assert pings == 1
        assert exchange.wait_for("pong", 20)
        process.send_signal(signal.SIGTERM)
        assert finish_quietly(process).startswith("21 events, ")
    assert pushes(tmp_path) == 21


def finish_quietly(process: subprocess.Popen[str]) -> str:
    shown, told = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "\r" not in told
    assert "Traceback" not in told
    return shown


def test_files_are_begun_and_removed_by_size(exchange: Exchange, tmp_path: Path) -> None:
    more = ("--segment-bytes", "3000", "--keep-bytes", "6000")
    with started(*words(exchange, tmp_path, *more), FASTPOS_API_KEY=exchange.api_key) as process:
        assert exchange.wait_for_subscribers(1, 20)
        exchange.open_position()

        def names() -> set[str]:
            exchange.tick()
            return {path.name for path in tmp_path.glob("*.jsonl*")}

        until(lambda: len(names()) > 2, 20)
        first = min(names())
        until(lambda: min(names()) > first.partition(".gz")[0] + ".gz", 20)
        process.send_signal(signal.SIGINT)
        finish_quietly(process)
    assert sum(path.stat().st_size for path in tmp_path.glob("*.jsonl.gz")) <= 6000
    assert recorded(tmp_path)[-1] == "stopped"


def test_a_refused_credential_is_told_once(exchange: Exchange, tmp_path: Path) -> None:
    done = run(*words(exchange, tmp_path), FASTPOS_API_KEY="no-such-key")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("fastpos: ")
    assert "401" in done.stderr
    assert "no-such-key" not in done.stdout + done.stderr
    assert recorded(tmp_path) == ["started", "disconnected", "stopped"]


def test_without_a_credential_nothing_is_made(exchange: Exchange, tmp_path: Path) -> None:
    done = run(*words(exchange, tmp_path / "sessions"))
    assert (done.returncode, done.stdout) == (2, "")
    assert "FASTPOS_TOKEN or FASTPOS_API_KEY" in done.stderr
    assert not (tmp_path / "sessions").exists()


def test_a_folder_that_another_writes_in_is_refused(exchange: Exchange, tmp_path: Path) -> None:
    with Journal(tmp_path):
        done = run(*words(exchange, tmp_path), FASTPOS_API_KEY=exchange.api_key)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"fastpos: another journal writes in {tmp_path} (process {os.getpid()}). "
        "Give each process a folder of its own, or end the other.\n"
    )
    assert exchange.counts["connect"] == 0


def test_a_folder_that_is_a_file_is_refused(exchange: Exchange, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("mine")
    done = run(*words(exchange, path), FASTPOS_API_KEY=exchange.api_key)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"fastpos: the journal can't be written in {path}: .+\n", done.stderr)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            ("--segment-bytes", "0"),
            "--segment-bytes: must be a number of bytes, at least 1, not '0'",
        ),
        (("--keep-bytes", "64M"), "--keep-bytes: must be a number of bytes, at least 1, not '64M'"),
    ],
)
def test_wrong_usage_is_refused(
    exchange: Exchange, tmp_path: Path, more: tuple[str, ...], said: str
) -> None:
    done = run(*words(exchange, tmp_path / "sessions", *more), FASTPOS_API_KEY="k")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert not (tmp_path / "sessions").exists()


def test_it_goes_on_after_a_loss_and_says_so(exchange: Exchange, tmp_path: Path) -> None:
    with started(*words(exchange, tmp_path), FASTPOS_API_KEY=exchange.api_key) as process:
        assert process.stderr is not None
        told = [process.stderr.readline()]
        exchange.drop()
        told += [process.stderr.readline() for _ in range(2)]
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, "")
    assert [re.sub(r" [\d.]+ s|: .+;|\n", "", each[14:]) for each in told] == [
        "Ready          subscribed",
        "Disconnect     the connection was lost next attempt in",
        "Ready          subscribed again after, attempt 1",
    ]
    assert recorded(tmp_path).count("connected") == 2


def test_a_server_that_does_not_answer_holds_nothing_up(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"ws://127.0.0.1:{server.getsockname()[1]}"
        words = ("record", str(tmp_path), "--url", url, "--broker", "1", "--proxy", "")
        with started(*words, FASTPOS_API_KEY="k") as process:
            server.accept()[0].close()
            connection, _ = server.accept()
            with connection:
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert finish_quietly(process).startswith("0 events, ")
    assert time.monotonic() - began < 10
    assert recorded(tmp_path) == ["started", "disconnected", "disconnected", "stopped"]


def test_what_can_not_be_written_is_told_and_is_no_success(
    exchange: Exchange, tmp_path: Path
) -> None:
    folder = tmp_path / "sessions"
    with started(*words(exchange, folder), FASTPOS_API_KEY=exchange.api_key) as process:
        assert process.stderr is not None
        assert "subscribed" in process.stderr.readline()
        until(lambda: any(folder.glob("*.jsonl")), 20)
        shutil.rmtree(folder)
        folder.write_text("in its way")
        until(
            lambda: exchange.place_order() and select.select([process.stderr], [], [], 0.1)[0], 20
        )
        assert "can't be written: [Errno 20]" in process.stderr.readline()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=20)
        assert time.monotonic() - began < 10
    assert process.returncode == 1
    lost = f"fastpos: what came last could not be written in {folder}"
    assert told == f"{lost}. Look at the folder and its disk.\n"


def test_a_stalled_exchange_holds_the_end_up_for_a_moment_only(
    exchange: Exchange, tmp_path: Path
) -> None:
    with started(*words(exchange, tmp_path), FASTPOS_API_KEY=exchange.api_key) as process:
        assert process.stderr is not None
        assert "subscribed" in process.stderr.readline()
        exchange.stall()
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        finish_quietly(process)
    assert time.monotonic() - began < 10
    assert recorded(tmp_path) == WHOLE


def test_on_a_terminal_a_line_says_how_it_goes(exchange: Exchange, tmp_path: Path) -> None:
    folder = tmp_path / "s"
    terminal = Terminal(words(exchange, folder), FASTPOS_API_KEY=exchange.api_key)
    try:
        terminal.read_until("Ready")
        exchange.open_position()
        terminal.read_until(r"\r1 events, [\d,]+ bytes in")
        exchange.tick()
        terminal.read_until(r"\r2 events, [\d,]+ bytes in")
        assert terminal.screen()[-1].startswith("2 events, ")  # in its place
        assert re.fullmatch(r"[\d:.]+  Ready +subscribed", terminal.screen()[-2])
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.end().startswith("2 events, ")
        assert terminal.process.returncode == 0
        assert terminal.screen()[-1] == ""
        assert len(terminal.screen()) == 2
    finally:
        terminal.close()


def test_the_end_of_the_output_is_no_end_of_the_record(exchange: Exchange, tmp_path: Path) -> None:
    """Who looked at the terminal has gone: what comes is written down as before."""
    with started(*words(exchange, tmp_path), FASTPOS_API_KEY=exchange.api_key) as process:
        assert exchange.wait_for_subscribers(1, 20)
        assert process.stderr is not None
        process.stderr.close()
        exchange.drop()  # of which it can't tell
        assert exchange.wait_for("connect", 20, 2)
        assert exchange.wait_for_subscribers(1, 20)
        exchange.open_position()
        until(lambda: pushes(tmp_path) == 1, 20)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert recorded(tmp_path)[-1] == "stopped"
