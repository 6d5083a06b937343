"""Every command and every snippet of the README does what it says; CONTRIBUTING names what is."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastpos.runtime.callbacks import CALLBACK_NAMES
from fastpos.simulator import Exchange
from tests.support.programs import ROOT, read_until, run, started
from tests.support.recording import until
from tests.support.redis_server import RedisServer

README = (ROOT / "README.md").read_text()
PLACES = (ROOT, ROOT / "fastpos", ROOT / ".github" / "workflows")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
SNIPPETS = [text for language, text in BLOCKS if language == "python"]
COMMANDS = [text.strip() for language, text in BLOCKS if language == "sh"]


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange() as exchange:
        yield exchange
        assert not exchange.violations


def snippet(number: int, folder: Path, exchange: Exchange) -> str:
    """The path of a snippet as a script, with the simulator's URL and key in their places."""
    text = SNIPPETS[number]
    for there, here in (
        ("wss://futuresws.exchange1.com/position_order/ws", exchange.url),
        ("https://futuresopenapi.exchange1.com", exchange.rest_url),
        ("YOUR-API-KEY", exchange.api_key),
        ("YOUR-API-SECRET", exchange.api_secret),
    ):
        text = text.replace(there, here)
    script = folder / "snippet.py"
    script.write_text(text)
    return str(script)


def test_the_script_prints_positions_and_orders(exchange: Exchange, tmp_path: Path) -> None:
    with started(snippet(0, tmp_path, exchange)) as process:
        exchange.wait_for_subscribers(1, timeout=20)
        position = exchange.open_position(volume=3)
        exchange.update_position(position, volume=2)
        exchange.place_order()
        output = read_until(process, "NEW")
    assert f"CREATE {position} BUY 3.0" in output
    assert f"UPDATE {position} BUY 2.0" in output


def test_the_loop_takes_events_until_no_position_is_left(
    exchange: Exchange, tmp_path: Path
) -> None:
    with started(snippet(1, tmp_path, exchange)) as process:
        exchange.wait_for_subscribers(1, timeout=20)
        position = exchange.open_position()
        read_until(process, "Position(change='CREATE'")
        # It may notice before it has heard of it.
        exchange.close_position(position)
        assert process.wait(timeout=20) == 0


def test_the_fleet_prints_what_each_account_does(exchange: Exchange, tmp_path: Path) -> None:
    with started(snippet(2, tmp_path, exchange)) as process:
        exchange.wait_for_subscribers(2, timeout=20)
        exchange.open_position(volume=3)
        output = read_until(process, "CREATE") + read_until(process, "CREATE")
    assert {line.split()[0] for line in output.splitlines()} == {"alice", "bob"}


def test_the_example_of_a_fleet(exchange: Exchange, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text("".join(f"{name} {exchange.api_key}\n" for name in ("alice", "bob", "carol")))
    example = str(ROOT / "examples" / "fleet.py")
    with started(example, exchange.url, str(exchange.broker), str(keys)) as process:
        exchange.wait_for_subscribers(3, timeout=20)
        exchange.place_order()
        read_until(process, "alice NEW")
        process.send_signal(signal.SIGINT)
        assert "FleetStats(streams=3" in read_until(process, "FleetStats")
        assert process.wait(timeout=20) == 0
    assert exchange.wait_for("unsub", 5, 3)


def test_the_script_with_a_snapshot_knows_what_was_open(exchange: Exchange, tmp_path: Path) -> None:
    first = exchange.open_position(volume=3)
    with started(snippet(3, tmp_path, exchange)) as process:
        output = read_until(process, "synced: 1 created, 0 updated, 0 deleted")
        assert f"SNAPSHOT CREATE {first} 3.0" in output
        exchange.update_position(first, volume=2)
        read_until(process, f"STREAM UPDATE {first} 2.0")


def test_what_the_journal_has_is_replayed(exchange: Exchange, tmp_path: Path) -> None:
    with started(snippet(4, tmp_path, exchange), where=tmp_path) as process:
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.place_order()
        exchange.open_position(volume=3)
        exchange.json_ping(form="text")
        assert exchange.wait_for("pong", 20)  # what was pushed before has been read
        exchange.drop()
        exchange.wait_for_subscribers(1, timeout=20)
        process.send_signal(signal.SIGINT)
        process.wait(timeout=20)
    done = run(snippet(5, tmp_path, exchange), where=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("1 {")
    assert "connection was lost" in done.stdout


def test_what_is_published_is_followed(exchange: Exchange, tmp_path: Path) -> None:
    there = "redis://127.0.0.1:6379/0"
    with RedisServer() as redis:
        scripts = []
        for number in (6, 7):
            (tmp_path / str(number)).mkdir()
            script = Path(snippet(number, tmp_path / str(number), exchange))
            script.write_text(script.read_text().replace(there, redis.url))
            scripts.append(str(script))
        with started(scripts[0]), started(scripts[1]) as follower:
            exchange.wait_for_subscribers(1, timeout=20)
            with redis.client() as client:
                until(lambda: client.exists("fastpos:{alice}:events:risk"), 20)
            position = exchange.open_position(volume=3)
            exchange.update_position(position, volume=2)
            output = read_until(follower, f"UPDATE {position} BUY 2.0")
    assert f"CREATE {position} BUY 3.0" in output


def test_the_snippet_for_own_tests(exchange: Exchange, tmp_path: Path) -> None:
    done = run(snippet(8, tmp_path, exchange))
    assert done.returncode == 0, done.stderr


def test_no_snippet_is_without_a_test_and_the_commands_end_in_what_is_tested() -> None:
    # .ci/run runs both as they stand, in fresh virtual environments.
    assert "README.md" in (ROOT / ".ci" / "run").read_text()
    assert len(SNIPPETS) == 9
    ends = [shlex.split(command.rsplit("&&", 1)[1]) for command in COMMANDS]
    assert ends == [[".venv/bin/fastpos", "demo"], [".venv/bin/pytest"]]


def test_the_table_has_every_callback() -> None:
    assert sorted(re.findall(r"^\| `(on_\w+)`", README, re.M)) == sorted(CALLBACK_NAMES)


def test_the_command_line_examples_are_understood() -> None:
    for words in re.findall(r"`fastpos ([a-z][^`]+)`", README):
        done = run(words.split()[0], "--help")
        assert done.returncode == 0, done.stderr
        for option in re.findall(r"--\w+", words):
            assert option in done.stdout


def test_the_map_of_the_source_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = re.findall(r"`([\w/.]+\.(?:py|md|yml)|[\w.]+/[\w/.]*)`", text)
    assert "wire/session.py" in named
    assert [name for name in named if not any((at / name).exists() for at in PLACES)] == []
