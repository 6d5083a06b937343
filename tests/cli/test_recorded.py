"""`fastpos replay`, run as a user runs it: to print what came, and to play it to a bot."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from fastpos import PositionStream, ReconnectPolicy
from fastpos.journal import Journal, read
from fastpos.journal.format import header_line, label_of, line_of, push_lines
from fastpos.simulator import Exchange
from tests.support.programs import interrupted, read_until, run, started
from tests.support.recording import Recorder, until
from tests.support.terminal import Terminal

pytestmark = pytest.mark.timeout(60)

BEGAN = 1_764_126_720_000_000_000
ORDER = (
    b'{"channel":"order","order":{"orderId":"%d","contractId":127,"contractName":"E-BTC-USDT",'
    b'"symbol":"BTC-USDT","contractSide":"BUY","type":1,"price":61001,"pricePrecision":3,'
    b'"dealVolume":0,"volume":12,"avgPrice":0,"otoOrder":null,"orderAction":"1"}}'
)


class Writing:
    """A journal that is written by hand, with times of the test's choice."""

    def __init__(self, folder: Path, name: str = "alice") -> None:
        self.path = folder / "20251126T031200.000000Z.jsonl"
        self._label = label_of(name)
        self._connection = 1
        if not self.path.exists():
            self.path.write_bytes(header_line(BEGAN, {"library": "by hand"}))

    def line(self, seconds: float, kind: str, **values: Any) -> None:
        line = line_of(self._label, self._connection, self._ns(seconds), kind, values)
        self._add(line)

    def order(self, seconds: float, number: int) -> None:
        self.pushes(seconds, [ORDER % number])

    def pushes(self, seconds: float, texts: list[bytes]) -> None:
        self._add(push_lines(self._label, self._connection, self._ns(seconds), texts))

    def subscribed(self, seconds: float, gap_s: float | None = None) -> None:
        self.line(seconds, "connected")
        self.line(seconds, "subscribed", first=gap_s is None, gap_s=gap_s, attempts=1)

    def lost(self, seconds: float) -> None:
        values = {"reason": "the connection was lost", "close_code": None, "retry_in_s": 0.1}
        error = ["ConnectionFailed", "the connection was lost"]
        self.line(seconds, "disconnected", error=error, **values)
        self._connection += 1

    def _ns(self, seconds: float) -> int:
        return BEGAN + int(seconds * 1e9)

    def _add(self, line: bytes) -> None:
        with self.path.open("ab") as file:
            file.write(line)


def begun(folder: Path, name: str = "alice", **more: Any) -> Writing:
    """One that has subscribed."""
    writing = Writing(folder, name)
    url = "wss://example.com/"
    started = {"run": 1, "url": url, "broker": 77, "number": "float", "book": None, **more}
    writing.line(0, "started", **started)
    writing.subscribed(0)
    return writing


def replayed(*words: object) -> str:
    done = run("replay", *map(str, words))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def refused(*words: object) -> str:
    done = run("replay", *map(str, words))
    assert done.returncode == 1
    assert done.stderr.startswith("fastpos: ")
    assert done.stderr.count("\n") == 1
    return done.stderr.removeprefix("fastpos: ").rstrip()


# --- printed --------------------------------------------------------------------------------------


def test_it_prints_what_watch_printed_with_the_recorded_times(tmp_path: Path) -> None:
    with Exchange() as exchange:
        at = ("--url", exchange.url, "--broker", str(exchange.broker))
        key = exchange.api_key
        with (
            started("watch", *at, FASTPOS_API_KEY=key) as watching,
            started("record", str(tmp_path), *at, FASTPOS_API_KEY=key) as recording,
        ):
            assert exchange.wait_for_subscribers(2, 20)
            position = exchange.open_position()
            exchange.tick()
            exchange.update_position(position, volume=3)
            exchange.place_order()
            exchange.push_bytes(b"\x1f\x8bnothing")
            exchange.place_trigger()
            exchange.drop(clean=True, code=None)
            assert exchange.wait_for_subscribers(2, 20)
            exchange.close_position(position)
            shown = read_until(watching, "DELETE")
            until(lambda: any(tmp_path.glob("*.jsonl")), 20)
            until(lambda: any(b"DELETE" in each.text for each in read(tmp_path)), 20)
            assert interrupted(watching) == (0, "")
            recording.send_signal(signal.SIGINT)
            recording.communicate(timeout=20)
    lines = replayed(tmp_path, "--stream", "recorded").splitlines()
    expected = shown.splitlines()

    def said(line: str) -> str:
        return re.sub(r"(?<=after )[\d.]+|(?<=attempt in )[\d.]+", "", line[12:])

    assert [*map(said, lines[: len(expected)])] == [*map(said, expected)]
    assert sum("  error  " in each for each in lines) == 2
    assert sum("  Disconnect  " in each for each in lines) == 2
    times = {
        datetime.fromtimestamp(each.received_ns / 1e9).strftime("%H:%M:%S.%f")[:-3]
        for each in read(tmp_path)
    }
    assert {each[:12] for each in lines} <= times


def test_of_several_streams_each_line_has_the_name_first(tmp_path: Path) -> None:
    alice, bob = begun(tmp_path), begun(tmp_path, "bob")
    alice.order(0.001, 1)
    bob.order(0.002, 2)
    alice.order(0.003, 3)
    lines = replayed(tmp_path).splitlines()
    named = [(each.split()[0], each.split()[2:5]) for each in lines if "Order" in each]
    assert named == [
        ("alice", ["Order", "NEW", "1"]),
        ("bob", ["Order", "NEW", "2"]),
        ("alice", ["Order", "NEW", "3"]),
    ]
    his = replayed(tmp_path, "--stream", "bob").splitlines()
    assert [f"bob  {each}" for each in his] == [each for each in lines if each[:3] == "bob"]
    assert replayed(tmp_path / alice.path.name, "--stream", "bob").splitlines() == his
    assert refused(tmp_path, "--stream", "carol") == (
        f"there is no stream 'carol' in {tmp_path}, but alice, bob"
    )


def test_numbers_are_those_of_the_recorded_stream(tmp_path: Path) -> None:
    writing = begun(tmp_path, number="Decimal")
    writing.pushes(0, [ORDER.replace(b"61001", b"61001.1000000000001") % 1])
    assert "61001.1000000000001" in replayed(tmp_path)


@pytest.mark.parametrize(
    ("speed", "seconds", "least"),
    [("1", 2, 2), ("10", 20, 2), ("max", 3600, 0), (None, 3600, 0)],
)
def test_it_keeps_the_pace_that_is_asked_for(
    tmp_path: Path, speed: str | None, seconds: float, least: float
) -> None:
    writing = begun(tmp_path)
    writing.order(0, 1)
    writing.order(seconds, 2)
    # From before it begins: the first line may be read late, and then the second comes sooner.
    began = time.monotonic()
    with started("replay", str(tmp_path), *(("--speed", speed) if speed else ())) as process:
        read_until(process, "NEW  1")
        shown = time.monotonic()
        read_until(process, "NEW  2")
        assert time.monotonic() - began >= least
        assert time.monotonic() - shown < 15
        assert process.wait(20) == 0


@pytest.mark.parametrize("speed", ["0", "-1", "nan", "inf", "fast", ""])
def test_another_speed_is_refused(tmp_path: Path, speed: str) -> None:
    done = run("replay", str(tmp_path), "--speed", speed)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"argument --speed: must be a number above 0, or max, not {speed!r}\n" in done.stderr


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    missing = tmp_path / "missing"
    advice = "Give the folder that journal= or `fastpos record` wrote in, or a file of it."
    assert refused(missing) == f"there is no journal {missing}. {advice}"
    assert refused(tmp_path) == f"there is no segment of a journal in {tmp_path}. {advice}"
    other = tmp_path / "other.jsonl"
    other.write_text('{"ns":1,"kind":"header","format":"x"}\n')
    assert refused(other) == f"{other} is no segment of a journal. {advice}"
    Writing(tmp_path / "..", "x").path.rename(other)
    assert refused(other).startswith(f"nothing is recorded in {other} yet")


def altered(old: bytes, new: bytes) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        data = path.read_bytes()
        assert data.count(old) == 1
        path.write_bytes(data.replace(old, new))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            altered(b'"orderId":"2"', b'"orderId":"7"'),
            r"{file}, line \d+: lines up to \d+ were alt",
        ),
        (altered(b'"connection":1,"kind":"connected"', b'"connection":{}'), "{file}, line 3: "),
        (altered(b'"first":', b'"furst":'), "{folder}: a record of kind 'subscribed' can't be us"),
        (altered(b'"first":true', b'"first":tru'), r"{file}, line \d: it is no JSON"),
        (
            altered(b'"kind":"started"', b'"kind":"statred"'),
            "{folder}: a record of kind 'statred' is",
        ),
    ],
)
def test_an_altered_file_is_named(
    tmp_path: Path, change: Callable[[Path], None], said: str
) -> None:
    with (
        Exchange() as exchange,
        PositionStream(
            exchange.url,
            api_key=exchange.api_key,
            broker=exchange.broker,
            journal=Journal(tmp_path),
        ) as stream,
    ):
        assert stream.wait_ready(10)
        assert exchange.push(ORDER % 2) == 1
        until(lambda: stream.stats.events, 10)
    [packed] = tmp_path.glob("*.gz")
    path = tmp_path / packed.name.removesuffix(".gz")
    path.write_bytes(subprocess.check_output(["gzip", "-dc", str(packed)]))
    packed.unlink()
    change(path)
    assert re.match(
        said.replace("{file}", str(path)).replace("{folder}", str(tmp_path)), refused(tmp_path)
    )


def long(folder: Path, count: int = 20_000) -> Path:
    """A journal of which printing takes a while."""
    writing = begun(folder)
    for number in range(0, count, 100):
        writing.pushes(number / 1000, [ORDER % (number + each) for each in range(100)])
    return folder


def test_what_nobody_reads_any_more_ends_quietly(tmp_path: Path) -> None:
    with started("replay", str(long(tmp_path))) as process:
        read_until(process, "NEW  10")
        assert process.stdout is not None
        process.stdout.close()  # as `head` does
        assert process.wait(20) == 1
        assert process.stderr is not None
        assert process.stderr.read() == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_output_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    command = f'"$0" -m fastpos replay {long(tmp_path)} >/dev/full'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert "fastpos: [Errno 28]" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("speed", ["1", "max"])
def test_an_interrupt_ends_it(tmp_path: Path, speed: str) -> None:
    with started("replay", str(long(tmp_path, 200_000)), "--speed", speed) as process:
        read_until(process, "NEW  1")
        assert interrupted(process) == (130, "")


def test_a_terminal_is_told_how_far_it_has_come(tmp_path: Path) -> None:
    writing = begun(tmp_path)
    for number in range(5):
        writing.order(number / 2, number)
    terminal = Terminal(("replay", str(tmp_path), "--speed", "1"))
    try:
        # A record is read before the one in front of it is due.
        terminal.read_until(r"\r(50|75)%, \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")
        assert terminal.end().count("Order") == 5
        assert terminal.process.returncode == 0
        assert terminal.screen() == [""]
    finally:
        terminal.close()


# --- played to a bot ------------------------------------------------------------------------------


class Bot:
    """A program that knows nothing of records."""

    def __init__(self, url: str, key: str, broker: int, stack: ExitStack) -> None:
        self.told = Recorder()
        policy = ReconnectPolicy(initial=0.02, maximum=0.05)
        self.stream = PositionStream(
            url, api_key=key, broker=broker, proxy="", reconnect=policy, **self.told.callbacks
        )
        stack.enter_context(self.stream)

    def orders(self) -> list[str]:
        return [order.order_id for order in self.told.on_order]


@contextmanager
def served(*words: object) -> Iterator[tuple[subprocess.Popen[str], Callable[[], Bot]]]:
    """A journal that is played; and what makes bots."""
    with ExitStack() as stack:
        process = stack.enter_context(started("replay", *map(str, words), "--serve", "0"))
        shown = read_until(process, "begins")
        url, broker, key, _ = (line.split()[-1] for line in shown.splitlines()[:4])
        yield process, lambda: Bot(url, key, int(broker), stack)


def ended(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    assert process.stderr is not None
    shown, told = process.stdout.read(), process.stderr.read()
    assert (process.wait(20), told) == (0, "")
    return shown


def test_an_unchanged_bot_is_told_what_was_recorded(tmp_path: Path) -> None:
    live = Recorder()
    with Exchange() as exchange:
        stream = PositionStream(
            exchange.url,
            api_key=exchange.api_key,
            broker=exchange.broker,
            journal=Journal(tmp_path),
            reconnect=ReconnectPolicy(initial=0.02),
            **live.callbacks,
        )
        with stream:
            assert stream.wait_ready(10)
            first = exchange.open_position()
            exchange.tick()
            exchange.push_bytes(b"\x1f\x8bnothing")
            exchange.place_order()
            live.wait("on_order")
            exchange.drop()
            live.wait("on_ready", 2)
            exchange.close_position(first)
            exchange.open_position(side="SELL")
            live.wait("on_position", 3)
            known = stream.positions
    with served(tmp_path) as (process, new_bot):
        bot = new_bot()
        bot.told.wait("on_position", 3, 20)
        assert ended(process) == "The day has ended: 5 pushes.\n"
        events = [(n, e) for n, e in live.calls if n not in ("on_disconnect", "on_error")]
        shown = [(n, e) for n, e in bot.told.calls if n not in ("on_disconnect", "on_error")]
        names = [name for name, _ in events]
        assert [name for name, _ in shown][: len(names)] == names
        for (name, event), (_, other) in zip(events, shown, strict=False):
            if name in ("on_position", "on_order"):
                was, is_now = event.as_dict(), other.as_dict()
                for each in (was, is_now):
                    for key in ("received_ns", "stream"):
                        each.pop(key)
                assert was == is_now
        assert set(bot.stream.positions) == set(known)
        assert any("Decode" in type(error).__name__ for error in bot.told.on_error)


def test_the_recorded_pace_begins_with_the_first_subscription(tmp_path: Path) -> None:
    writing = Writing(tmp_path)
    writing.line(-3600, "started", run=1, url="ws://x", broker=77, number="float", book=None)
    writing.lost(-3599)  # nobody waits for an hour
    writing.subscribed(0)
    writing.order(0.2, 1)
    writing.order(2.2, 2)
    with served(tmp_path) as (process, new_bot):
        began = time.monotonic()  # as the first order may be told late
        bot = new_bot()
        bot.told.wait("on_order", 2, 20)
        assert bot.told.times["on_order"][1] - began >= 2.2
        ended(process)
    writing.order(3600.0, 3)
    with served(tmp_path, "--speed", "max") as (process, new_bot):
        bot = new_bot()
        bot.told.wait("on_order", 3, 20)
        ended(process)


def test_connections_are_lost_where_they_were_and_nothing_after_is_missed(tmp_path: Path) -> None:
    writing = begun(tmp_path)
    writing.order(0.1, 1)
    writing.lost(0.1)
    writing.lost(0.11)  # an attempt that failed
    writing.subscribed(0.11, 0.01)
    writing.order(0.11, 2)
    writing.line(0.11, "dropped", count=7, from_ns=BEGAN, to_ns=BEGAN + 1)
    writing.order(0.11, 3)
    writing.line(0.2, "paused")
    writing.subscribed(0.2, 0.0)
    writing.order(0.2, 4)
    with served(tmp_path) as (process, new_bot):
        bots = [new_bot()]
        for bot in bots:
            bot.told.wait("on_order", 4, 20)
        assert ended(process) == "The day has ended: 4 pushes.\n"
        for bot in bots:
            assert bot.orders() == ["1", "2", "3", "4"]
            names = [n for n, _ in bot.told.calls if n in ("on_ready", "on_order", "on_disconnect")]
            assert names[:11] == [
                *("on_ready", "on_order", "on_disconnect"),
                *("on_ready", "on_order", "on_disconnect"),
                *("on_ready", "on_order", "on_disconnect"),
                *("on_ready", "on_order"),
            ]


def test_a_second_client_is_told_too_and_is_waited_for_after_a_loss(tmp_path: Path) -> None:
    writing = begun(tmp_path)
    writing.order(0.0, 1)
    for number in range(2, 30):
        writing.order(number / 10, number)
    writing.lost(3.0)
    writing.subscribed(3.0, 0.0)
    writing.order(3.0, 99)
    with served(tmp_path) as (process, new_bot):
        one = new_bot()
        one.told.wait("on_order", 1, 20)
        other = new_bot()  # late: what was before it has missed
        other.told.wait("on_order", 1, 20)
        ended(process)
        until(lambda: one.orders()[-1] == other.orders()[-1] == "99")
        assert one.orders() == ["1", *map(str, range(2, 30)), "99"]
        assert other.orders() == one.orders()[-len(other.orders()) :]


def test_a_great_many_pushes_at_once_all_arrive(tmp_path: Path) -> None:
    with served(long(tmp_path), "--speed", "max") as (process, new_bot):
        bot = new_bot()
        assert ended(process) == "The day has ended: 20000 pushes.\n"
        until(lambda: len(bot.orders()) == 20_000, 20)


def test_the_broker_is_the_recorded_one(tmp_path: Path) -> None:
    begun(tmp_path)
    with started("replay", str(tmp_path), "--serve", "0") as process:
        assert "broker   77\n" in read_until(process, "begins")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("has_begun", [False, True])
def test_a_signal_ends_a_served_day(tmp_path: Path, has_begun: bool, number: int) -> None:
    writing = begun(tmp_path)
    writing.order(0.0, 1)
    writing.order(3600.0, 2)
    with served(tmp_path) as (process, new_bot):
        if has_begun:
            new_bot().told.wait("on_order", 1, 20)
        process.send_signal(number)
        assert process.communicate(timeout=20) == ("", "")
        assert process.returncode == 130


def test_one_stream_must_be_chosen_before_anything_is_opened(tmp_path: Path) -> None:
    begun(tmp_path).order(0, 1)
    begun(tmp_path, "bob").order(0, 2)
    with Exchange() as exchange:  # whose port is taken
        at = ("--serve", exchange.port)
        assert refused(tmp_path, *at) == (
            f"{tmp_path} has several streams, alice and bob among them: say which with --stream"
        )
        assert refused(tmp_path, *at, "--stream", "x").startswith("there is no stream 'x' in")
        assert refused(tmp_path / "missing", *at).startswith("there is no journal")
        assert "in use" in refused(tmp_path, *at, "--stream", "bob")
    with served(tmp_path, "--stream", "bob") as (process, new_bot):
        bot = new_bot()
        ended(process)
        until(lambda: bot.orders() == ["2"])


def test_a_terminal_is_told_how_far_the_day_has_come(tmp_path: Path) -> None:
    writing = begun(tmp_path)
    for number in range(5):
        writing.order(number / 2, number)
    terminal = Terminal(("replay", str(tmp_path), "--serve", "0"))
    try:
        shown = read_until(terminal.process, "begins").splitlines()
        url, broker, key, _ = (line.split()[-1] for line in shown[:4])
        with ExitStack() as stack:
            Bot(url, key, int(broker), stack)
            terminal.read_until(r"\r(50|75)%, ")  # the former not, if it comes late
            assert terminal.end() == "The day has ended: 5 pushes.\n"
        assert terminal.process.returncode == 0
        assert terminal.screen() == [""]
    finally:
        terminal.close()
