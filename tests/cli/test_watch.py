"""The live table on a real terminal: what it shows, and that it leaves the terminal as it was."""

from __future__ import annotations

import json
import os
import re
import signal

import pytest

pytest.importorskip("termios")
pytest.importorskip("rich")

from fastpos.simulator import Exchange
from tests.support.programs import interrupted, read_until, run, started
from tests.support.screen import ScreenProgram

THREE = "E-SOL-USDT", "E-BTC-USDT", "E-ETH-USDT"
CTRL_C = "\x03"


def watching(exchange: Exchange, *words: str, **more: str | None) -> ScreenProgram:
    place = ("watch", "--url", exchange.url, "--broker", str(exchange.broker))
    return ScreenProgram(*place, *words, **{"FASTPOS_API_KEY": exchange.api_key, **more})


def test_the_demo_shows_three_positions_one_near_liquidation_and_ctrl_c_ends_it() -> None:
    with ScreenProgram("demo", "--live") as program:
        words = ("Positions", "Orders", "Triggers", "Balances", "Last events")
        sections = [rf"(?m)^─ {word}" for word in words]  # which are drawn last
        shown = program.read_until(
            *THREE, "● SUBSCRIBED", "!! 1 near liquidation", r"\d%!!", *sections
        )
        assert len(shown.split("\n")) <= 24
        program.type(CTRL_C)
        assert program.end() == 0
        assert not program.emulator.text()


def test_the_demo_loses_its_connection_and_a_snapshot_heals_all() -> None:
    with ScreenProgram("demo", "--live") as program:
        program.read_until("✖ LOST", "~ 3 stale", "~ 2 stale", timeout=50)
        program.read_until(
            *("● SUBSCRIBED", r"synced [\d.]+ s ago", "gaps 1, ", r"\A((?!stale)[\s\S])*\Z"),
            timeout=30,
        )
        program.type("q")
        assert program.end() == 0


def test_while_the_connection_is_lost_that_is_said_and_all_is_stale() -> None:
    with Exchange() as exchange, watching(exchange) as program:
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.open_position()
        program.read_until("SUBSCRIBED", "E-BTC-USDT")
        exchange.refuse_upgrade(503)
        exchange.drop()
        program.read_until("✖ LOST", "why: ", "next attempt in", "gap .* so far", "~ 1 stale")
        exchange.clear_faults()
        program.read_until("SUBSCRIBED", "gaps 1, ", timeout=30)
        program.type("q")
        assert program.end() == 0
        assert not exchange.violations


def test_a_resize_is_followed_at_once() -> None:
    with ScreenProgram("demo", "--live") as program:
        assert "REALIZED" not in program.read_until(*THREE)
        program.resize(200, 50)
        shown = program.read_until("REALIZED", "CLOSABLE")
        assert max(map(len, shown.split("\n"))) > 190
        program.resize(60, 12)
        shown = program.read_until(r"\+\d+ more", r"\A[^\n]{1,60}\n", "uPNL\n")
        assert len(shown.split("\n")) <= 12
        program.type(CTRL_C)
        assert program.end() == 0


def test_without_colours_there_are_none_and_the_signs_say_it() -> None:
    with ScreenProgram("demo", "--live", NO_COLOR="1") as program:
        program.read_until(*THREE, r"\d%!!", r"[+-]\d[\d,.]+ ■")
        program.type(CTRL_C)
        program.end()
    codes = {code for style in program.emulator.styles for code in style.split(";")}
    assert codes <= {"", "0", "1", "2", "7"}  # bold, dim and reverse are no colours


def test_with_colours_there_are_some() -> None:
    with ScreenProgram("demo", "--live") as program:
        program.read_until(*THREE, r"\d%!!")
        program.type("q")
        program.end()
    assert {"1;7;31", "31"} & program.emulator.styles


@pytest.mark.parametrize(
    ("words", "environment"),
    [
        ((), {"LANG": "C"}),
        ((), {"LC_ALL": "POSIX"}),
        ((), {"PYTHONIOENCODING": "latin-1"}),
        (("--ascii",), {}),
    ],
)
def test_where_only_ascii_is_shown_nothing_else_is_drawn(
    words: tuple[str, ...], environment: dict[str, str]
) -> None:
    with ScreenProgram("demo", "--live", *words, **environment) as program:
        program.read_until(*THREE, r"\* SUBSCRIBED", "^- Positions|\n- Positions")
        program.type(CTRL_C)
        assert program.end() == 0
    assert program.raw.isascii()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGQUIT"])
def test_a_signal_ends_it_and_leaves_the_terminal_as_it_was(name: str) -> None:
    with ScreenProgram("demo", "--live") as program:
        program.read_until(*THREE)
        program.signal(getattr(signal, name))
        assert program.end() == 0


def test_after_it_was_stopped_by_force_all_is_drawn_anew() -> None:
    with ScreenProgram("demo", "--live") as program:
        program.read_until(*THREE, r"synced")
        program.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, program.process.pid, os.WSTOPPED | os.WNOWAIT)
        program.emulator.show("\x1b[2J")  # as what others write meanwhile does
        program.signal(signal.SIGCONT)
        program.read_until(*THREE, "CONTRACT", "─ Triggers", "─ Balances")
        program.type("q")
        assert program.end() == 0


def test_what_is_typed_is_not_shown_and_not_left_for_the_shell() -> None:
    with ScreenProgram("demo", "--live") as program:
        program.read_until(*THREE)
        program.type("rm -rf\nx")
        program.resize(90, 24)
        program.read_until(r"\A[^\n]{85,90}\n")
        program.type("q")
        program.end()
    assert "rm -rf" not in program.raw


def test_it_ends_when_its_time_is_up() -> None:
    with ScreenProgram("demo", "--live", "--seconds", "2") as program:
        program.read_until("─ Positions")  # drawn at the very beginning
        assert program.end() == 0


def test_a_crash_leaves_the_terminal_as_it_was() -> None:
    crash = """
import sys
from fastpos.cli import main
from fastpos.cli.live import driver
whole, looks = driver.look, []
def look(*arguments):
    looks.append(1)
    return whole(*arguments) if len(looks) < 4 else 1 / 0
driver.look = look
sys.exit(main(["demo", "--live"]))
"""
    with ScreenProgram("-c", crash) as program:
        assert program.end() == 1
        assert "ZeroDivisionError" in program.emulator.text()
    assert "\x1b[?1049h" in program.raw


def test_a_refused_credential_is_told_when_the_terminal_is_free_again() -> None:
    with Exchange() as exchange, watching(exchange, FASTPOS_API_KEY="no-such-key") as program:
        assert program.end() == 1
        assert "401" in program.emulator.text()
        assert "no-such-key" not in program.raw


def test_what_the_wire_says_is_shown_and_not_obeyed() -> None:
    nasty = "\x1b[2J\x1b]0;owned\x07[red]x[/red]\r\n\u202e"
    with Exchange() as exchange, watching(exchange, columns=200, lines=50) as program:
        exchange.wait_for_subscribers(1, timeout=20)
        exchange.open_position(nasty)
        exchange.place_order(nasty, side=nasty)
        exchange.set_balance(nasty, available="\x1b[31m1")
        exchange.push({"channel": nasty, "what": nasty})
        program.read_until(r"\\x1b\[2J", r"\[red\]x|\[red…", "Unknown")
        program.type(CTRL_C)
        assert program.end() == 0
    assert "owned\x07" not in program.raw


def test_on_a_terminal_that_can_not_do_it_there_are_lines() -> None:
    with ScreenProgram("demo", "--live", TERM="dumb") as program:
        program.read_until(r"\d  Position ", r"\d  Ready ")
        program.type(CTRL_C)
        assert program.end() == 0
    assert "\x1b" not in program.raw


def test_plain_gives_lines_on_a_terminal_too() -> None:
    with Exchange() as exchange, watching(exchange, "--plain") as program:
        exchange.wait_for_subscribers(1, timeout=20)
        program.read_until(r"Ready +subscribed")
        program.type(CTRL_C)
        assert program.end() == 0
    assert "\x1b" not in program.raw


def test_json_gives_an_object_an_event() -> None:
    with Exchange() as exchange:
        words = ("watch", "--url", exchange.url, "--broker", str(exchange.broker), "--json")
        with started(*words, FASTPOS_API_KEY=exchange.api_key) as process:
            exchange.wait_for_subscribers(1, timeout=20)
            exchange.open_position()
            exchange.tick()
            output = read_until(process, '"adl_price"')
            assert interrupted(process) == (0, "")
    objects = [json.loads(line) for line in output.splitlines()]
    assert [each["event"] for each in objects] == ["ready", "position", "account", "adl_price"]
    assert objects[1]["contract_name"] == "E-BTC-USDT"
    assert all(each["stream"] and each["time"] for each in objects)


def test_plain_and_json_exclude_each_other() -> None:
    done = run("watch", "--broker", "1", "--plain", "--json")
    assert done.returncode == 2
    assert "not allowed with" in done.stderr


def test_a_flood_of_events_is_drawn_no_oftener_than_quiet() -> None:
    program = """
import sys, threading, time
from fastpos import PositionStream
from fastpos.cli.follow import follow
from fastpos.cli.live import driver
from fastpos.simulator import Exchange

whole, looks, orders = driver.look, [], []
def look(*arguments):
    looks.append(time.monotonic())
    return whole(*arguments)
driver.look = look

def flood():  # for 3 s, and as long as it takes to be one
    began = time.monotonic()
    while time.monotonic() < began + 3 or len(orders) <= 500:
        for _ in range(10):
            exchange.cancel_order(exchange.place_order())
        time.sleep(0.01)
    stream.stop()

with Exchange() as exchange:
    stream = PositionStream(exchange.url, api_key=exchange.api_key, broker=exchange.broker)
    stream.on_order(orders.append)
    flooding = threading.Thread(target=flood)
    flooding.start()
    follow(stream, "table")
    flooding.join()
print(f"{len(orders)} orders, {len(looks)} looks in {looks[-1] - looks[0]:.1f} s")
"""
    with ScreenProgram("-c", program) as running:
        running.read_until("SUBSCRIBED", "Order ")
        running.end()
        found = re.search(r"(\d+) orders, (\d+) looks in ([\d.]+) s", running.emulator.text())
    assert found is not None
    orders, looks, seconds = int(found[1]), int(found[2]), float(found[3])
    assert orders > 500
    assert looks <= seconds * 4 + 2


def test_without_rich_there_are_lines_and_what_is_missing_is_said() -> None:
    program = "import sys; sys.modules['rich'] = None; from fastpos.cli import main; main()"
    with ScreenProgram("-c", program, "demo", "--live") as running:
        running.read_until(r'pip install "fastpos\[watch\]"', "Ready +subscribed")
        running.type(CTRL_C)
        assert running.end() == 0
    assert "\x1b" not in running.raw
