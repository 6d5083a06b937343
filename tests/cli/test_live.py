"""The live table as a function of plain values: figures, columns, lines, captures."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from io import StringIO
from typing import Any
from xml.etree import ElementTree

import pytest

pytest.importorskip("rich")
pytest.importorskip("termios")  # time.tzset() comes with it

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from fastpos import (
    AdlPrice,
    Balance,
    Disconnect,
    Order,
    Position,
    Ready,
    Stale,
    Synced,
    Trigger,
)
from fastpos.cli.follow import is_ascii
from fastpos.cli.live.figures import (
    Danger,
    amount,
    danger,
    distance,
    move,
    part,
    percent,
    unrealized,
)
from fastpos.cli.live.known import Known, Link, Note, Notes, State, after
from fastpos.cli.live.paint import Brush, Part
from fastpos.cli.live.screen import screen
from fastpos.cli.live.table import Column, table
from fastpos.cli.terminal import span
from fastpos.errors import ConnectionFailed
from tests.cli.golden import (
    BEGAN,
    CAPTURES,
    PICTURE,
    SECOND,
    SHOTS,
    capture,
    picture,
    plain,
    played,
)

LONG = Position(
    id=1, side="BUY", volume=12, open_price=100.0, mark_price=110.0, liquidation_price=99.0
)
SHORT = Position(
    id=2, side="SELL", volume=2, open_price=100.0, mark_price=110.0, liquidation_price=112.0
)


# --- captures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SHOTS))
def test_the_demo_looks_as_it_was_looked_at(name: str) -> None:
    kept = (CAPTURES / f"{name}.txt").read_text(encoding="utf-8")
    assert capture(name) == kept, "if that is as it should be: python -m tests.cli.golden"


def test_there_is_no_capture_that_nothing_is_compared_with() -> None:
    assert {path.stem for path in CAPTURES.iterdir()} == set(SHOTS)


@pytest.mark.parametrize("size", ["80x24", "200x50"])
def test_the_captures_show_what_was_asked_for(size: str) -> None:
    columns, lines = map(int, size.split("x"))
    for name, said in (("three", "SUBSCRIBED"), ("lost", "LOST")):
        text = capture(f"{name}-{size}")
        assert said in text
        assert len(re.findall(r"^.{3,4}E-\w+-USDT +(BUY|SELL) .*%", text, re.M)) == 3
        assert "!! 1 near liquidation" in text
        assert len(text.splitlines()) <= lines
        assert max(map(len, text.splitlines())) <= columns
    assert "~ 3 stale" in capture(f"lost-{size}")


def test_the_picture_is_of_what_is_shown_now() -> None:
    def words(svg: str) -> list[str]:
        texts = [each.text or "" for each in ElementTree.fromstring(svg).iter()]
        return " ".join(text for text in texts if "{" not in text).split()

    assert words(PICTURE.read_text(encoding="utf-8")) == words(picture())


# --- figures --------------------------------------------------------------------------------------


def test_unrealized_is_price_difference_times_contracts_with_the_sign_of_the_side() -> None:
    assert unrealized(LONG) == 120.0
    assert unrealized(SHORT) == -20.0
    assert move(LONG) == pytest.approx(0.1)
    assert move(SHORT) == pytest.approx(-0.1)


def test_the_distance_to_liquidation_is_a_part_of_the_mark_price() -> None:
    assert distance(LONG) == pytest.approx(0.1)
    assert distance(SHORT) == pytest.approx(2 / 110)
    assert danger(LONG) is Danger.NONE
    assert danger(SHORT) is Danger.NEAR
    beyond = Position(side="BUY", mark_price=98.0, liquidation_price=99.0)
    assert distance(beyond) < 0
    assert danger(beyond) is Danger.NEAR
    close = Position(side="BUY", mark_price=105.0, liquidation_price=99.0)
    assert danger(close) is Danger.CLOSE


def test_exact_numbers_stay_exact() -> None:
    exact = Position(
        side="SELL", volume=Decimal(3), open_price=Decimal("0.3"), mark_price=Decimal("0.1")
    )
    assert unrealized(exact) == Decimal("0.6")


@pytest.mark.parametrize(
    "strange",
    [
        Position(),
        Position(side="BUY", open_price=1.0),
        Position(side="UP", volume=1, open_price=1.0, mark_price=2.0, liquidation_price=1.0),
        Position(side="BUY", volume="many", open_price=1.0, mark_price=2.0),
        Position(side="BUY", volume=1, open_price=1.0, mark_price=Decimal(2)),
        Position(side="BUY", mark_price=0.0, liquidation_price=1.0, open_price=0.0, volume=0),
        Position(side="BUY", mark_price=float("nan"), liquidation_price=1.0),
        Position(side="BUY", mark_price=2.0, liquidation_price=0),
    ],
)
def test_what_can_not_be_known_is_not_guessed(strange: Position) -> None:
    assert not unrealized(strange)
    assert distance(strange) is None
    assert danger(strange) is Danger.NONE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (98533.6, "98,533.6"),
        (85717.01833333999523920, "85,717.02"),
        (Decimal("85717.01833333999523920"), "85,717.02"),
        (0.00002345, "0.00002345"),
        (0, "0"),
        (-12, "-12"),
        (1234567.5, "1,234,567.5"),
        (Decimal("12345678.914"), "12,345,678.91"),
        (1e300, "1e+300"),
        (float("inf"), "inf"),
        ("many\x1b[2J", "many\x1b[2J"),
        (True, "True"),
    ],
)
def test_numbers_are_readable_and_the_rest_is_as_it_came(value: object, text: str) -> None:
    assert amount(value) == text


def test_percent_and_spans() -> None:
    assert [percent(each) for each in (0.0847, 0.31234, -0.5, 123.0, None, "x")] == [
        "8.47%", "31.2%", "-50.0%", "12,300%", "-", "x",
    ]  # fmt: skip
    assert percent(0.01, sign=True) == "+1.00%"
    assert [span(each) for each in (-1, 0.26, 59.9, 61, 3600 * 5 + 61, 86400 * 3 + 3600)] == [
        "0.0 s", "0.3 s", "59 s", "1 m 01 s", "5 h 01 m", "3 d 01 h",
    ]  # fmt: skip
    assert (part(5, 12), part(5, 0), part(None, 1), part(9, 3)) == (5 / 12, None, None, 1.0)


def test_a_bar_is_full_or_empty_only_where_it_is_so() -> None:
    brush = Brush(is_ascii=True)
    bars = [brush.bar(each, 5) for each in (0, 0.01, 0.5, 0.999, 1)]
    assert bars == [".....", "#....", "##...", "####.", "#####"]


@pytest.mark.parametrize("zero", [-0.0, Decimal("-0"), Decimal("-0.0"), -0.000000000001])
def test_zero_has_no_sign(zero: Any) -> None:
    assert (amount(zero), percent(zero), percent(zero, sign=True)) == ("0", "0.00%", "0.00%")
    short = Position(side="SELL", volume=12, open_price=100.0, mark_price=100.0)
    assert re.search(r"E-SHORT-USDT +SELL .* 0  +0\.00% ", shown_position(short))


def test_signs_before_a_position_never_look_like_another_sign() -> None:
    near = SHORT
    close = Position(side="BUY", mark_price=105.0, liquidation_price=99.0)
    for position, signs in ((near, "~?!!"), (close, "~?!")):
        text = shown_position(position, missing_from_ticks=True, stale=True)
        assert re.search(rf"^{re.escape(signs)} +E-SHORT-USDT", text, re.M), text


def shown_position(position: Position, **more: Any) -> str:
    named = Position(
        **{
            name: getattr(position, name)
            for name in ("side", "volume", "open_price", "mark_price", "liquidation_price")
        },
        contract_name="E-SHORT-USDT",
        **more,
    )
    return shown(replace(THREE, positions=[named]), BEGAN)


def test_what_is_not_known_has_no_unit_and_what_is_over_is_told_so() -> None:
    triggers = [
        Trigger(trigger_order_id=str(n), expires_ms=BEGAN // 1_000_000 + n) for n in (-5000, 5000)
    ]
    text = shown(replace(THREE, positions=[LONG], triggers=triggers), BEGAN)
    assert "-x" not in text
    assert re.findall(r"expired|in 5\.0 s", text) == ["expired", "in 5.0 s"]


def test_a_log_record_of_another_thread_puts_back_nothing_that_is_known() -> None:
    replaced: list[str] = []

    class Watched(Notes):
        def __setattr__(self, name: str, value: Any) -> None:
            replaced.append(name)
            super().__setattr__(name, value)

    notes = Watched(BEGAN)
    replaced.clear()
    notes.note("WARNING: something")
    assert replaced == []
    notes.note(Ready(first=True, received_ns=BEGAN))
    assert replaced == ["_link"]


# --- the connection -------------------------------------------------------------------------------


def test_the_connection_is_what_its_events_say() -> None:
    link = Link(State.CONNECTING, 0)
    link = after(link, Disconnect(reason="no route", retry_in_s=1.0, received_ns=SECOND))
    assert (link.state, link.since_ns, link.attempts) == (State.CONNECTING, 0, 1)
    link = after(link, Ready(first=True, received_ns=3 * SECOND))
    assert (link.state, link.since_ns, link.reason, link.gaps) == (
        State.SUBSCRIBED, 3 * SECOND, "", 0,
    )  # fmt: skip
    link = after(link, Disconnect(reason="reset", retry_in_s=0.5, received_ns=9 * SECOND))
    assert (link.state, link.since_ns, link.attempts) == (State.LOST, 9 * SECOND, 0)
    assert link.retry_ns == 9 * SECOND + SECOND // 2
    link = after(link, Disconnect(reason="refused", retry_in_s=2.0, received_ns=10 * SECOND))
    assert (link.since_ns, link.attempts, link.reason) == (9 * SECOND, 1, "refused")
    link = after(link, Ready(gap_s=3.0, received_ns=12 * SECOND))
    assert (link.gaps, link.missed_s, link.gap_s, link.gap_ns) == (1, 3.0, 3.0, 12 * SECOND)
    link = after(link, Synced(received_ns=13 * SECOND))
    assert link.synced_ns == 13 * SECOND
    link = after(link, Disconnect(reason="stopped", retry_in_s=None, received_ns=14 * SECOND))
    assert (link.state, link.since_ns) == (State.ENDED, 14 * SECOND)


def test_silence_is_told_until_a_tick_comes() -> None:
    notes = Notes(BEGAN)
    notes.note(Ready(first=True, received_ns=BEGAN))
    notes.note(Stale(reason="no ticks", silent_s=10.0, received_ns=BEGAN + 20 * SECOND))
    known = replace(played(), link=notes.link)
    now = BEGAN + 21 * SECOND
    assert "no ticks for 11 s" in shown(known, now)
    notes.tick(AdlPrice())
    assert "no ticks" not in shown(replace(known, link=notes.link), now)


def test_what_a_disconnect_says_is_not_said_again_by_its_error() -> None:
    notes = Notes(BEGAN)
    error = ConnectionFailed("reset")
    notes.note(Disconnect(reason="reset", error=error, retry_in_s=1.0, received_ns=BEGAN))
    notes.note(error)
    notes.note(ConnectionFailed("another"))
    assert [type(note.event) for note in notes.all] == [Disconnect, ConnectionFailed]


def test_an_unanswered_ping_is_told() -> None:
    known = played()
    now = BEGAN + 100 * SECOND
    stats = known.stats._replace(last_ping_ns=now - 3 * SECOND, last_pong_ns=now - 33 * SECOND)
    assert "ping unanswered for 3.0 s" in shown(replace(known, stats=stats), now)


# --- columns and lines ----------------------------------------------------------------------------


def test_columns_go_by_priority_and_come_back() -> None:
    columns = [
        Column[int](title, priority, lambda row, _: Part(str(row)), least=8)
        for title, priority in (("A", 0), ("B", 2), ("C", 1))
    ]
    titles = [
        table(columns, [1, 2], width, Brush())[0].plain.split() for width in (8, 17, 18, 26, 80)
    ]
    assert titles == [["A"], ["A", "C"], ["A", "C"], ["A", "B", "C"], ["A", "B", "C"]]


@pytest.mark.parametrize("crowd", [0, 9])
def test_no_line_is_longer_than_the_terminal_and_none_is_left_over(crowd: int) -> None:
    known = played(crowd=crowd, is_lost=True)
    for width in (*range(1, 30), *range(30, 240, 7)):
        for height in (1, 2, 3, 5, 8, 12, 24, 50, 100):
            lines = screen(known, BEGAN + 60 * SECOND, width, height, Brush()).split("\n")
            assert len(lines) <= height, (width, height)
            assert max(line.cell_len for line in lines) <= width, (width, height)


def test_what_does_not_fit_is_told() -> None:
    text = plain(played(crowd=9), 80, 24, Brush())
    titles = [line for line in text.splitlines() if line.startswith("─ ")]
    for title in titles:
        name, count = re.match(r"─ (\w+) +(\S+)", title).groups()  # type: ignore[union-attr]
        hidden = re.search(r"\+(\d+) more ─$", title)
        begin = text.splitlines().index(title)
        rows = 0
        for line in text.splitlines()[begin + 2 :]:
            if line.startswith("─ "):
                break
            rows += 1
        if name in ("Positions", "Orders", "Triggers", "Balances"):
            assert rows + int(hidden[1] if hidden else 0) == int(count), title


def test_positions_in_danger_come_first_and_the_others_stay_in_order() -> None:
    text = plain(played(crowd=9), 200, 50, Brush())
    names = re.findall(r"^.{3}(E-\w+)-USDT +\w+ +\d+ +[\d,.]+ ", text, re.M)[:12]
    assert names == ["E-SOL", "E-BTC", "E-ETH", *(f"E-NR{n}" for n in range(9))]


def test_without_unicode_all_is_ascii_whatever_the_wire_says() -> None:
    known = replace(
        played(is_lost=True),
        title="tätä",
        notes=[Note(BEGAN, "WARNING: größer …"), Note(BEGAN, Ready(received_ns=BEGAN))],
        positions=[Position(id=1, contract_name="Ω-日本", side="ÄÖ", volume="½")],
    )
    for size in ((80, 24), (200, 50)):
        assert plain(known, *size, Brush(is_ascii=True)).isascii()


def shown(known: Known, now_ns: int, width: int = 200, height: int = 50) -> str:
    return screen(known, now_ns, width, height, Brush()).plain


THREE = played()
ANYTHING: Any = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.decimals(),
    st.text(max_size=30),
    st.sampled_from(["BUY", "SELL", "[bold]x[/bold]", "\x1b[2J", "\r\n", "\u202e", "日本語"]),
    st.lists(st.integers(), max_size=3),
)


@settings(max_examples=30)
@given(st.data())
def test_whatever_the_wire_says_is_drawn_on_its_lines_and_obeyed_by_nobody(data: Any) -> None:
    def made(kind: Any, *names: str) -> Any:
        return kind(**{name: data.draw(ANYTHING) for name in names})

    position = made(
        Position, "id", "contract_name", "side", "volume", "open_price", "mark_price",
        "liquidation_price", "margin_rate", "adl_level", "leverage", "realized_pnl", "margin_mode",
    )  # fmt: skip
    order = made(
        Order, "order_id", "contract_name", "side", "type", "price", "volume", "filled_volume",
        "avg_price", "open_close",
    )  # fmt: skip
    trigger = made(
        Trigger, "trigger_order_id", "side", "trigger_price", "price", "volume", "expires_ms",
        "created_ms",
    )  # fmt: skip
    balance = made(Balance, "coin", "available", "frozen", "isolated_margin")
    text = data.draw(st.text(max_size=50))
    known = replace(
        THREE,
        positions=[position],
        orders=[order],
        triggers=[trigger],
        balances=[balance],
        notes=[Note(BEGAN, position), Note(BEGAN, order), Note(BEGAN, text)],
        title=text,
    )
    for width, height in ((80, 24), (200, 50)):
        console = Console(file=StringIO(), width=width, color_system=None)
        with console.capture() as taken:
            console.print(screen(known, BEGAN + SECOND, width, height, Brush()), end="")
        lines = taken.get().split("\n")
        assert len(lines) <= height
        assert all(line.isprintable() for line in lines)


# --- where ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "environment", "expected"),
    [
        ("utf-8", {"LANG": "en_US.UTF-8"}, False),
        ("utf-8", {}, False),
        ("UTF8", {"LC_CTYPE": "C.UTF-8"}, False),
        ("utf-8", {"LANG": "C"}, True),
        ("utf-8", {"LANG": "C", "LC_CTYPE": "C.UTF-8"}, True),  # as Python makes of it
        ("utf-8", {"LANG": "en_US.UTF-8", "LC_ALL": "POSIX"}, True),
        ("utf-8", {"LANG": "C", "LC_ALL": "C.UTF-8"}, False),
        ("latin-1", {"LANG": "en_US.UTF-8"}, True),
        (None, {}, True),
    ],
)
def test_who_shows_only_ascii(
    encoding: str | None, environment: dict[str, str], expected: bool
) -> None:
    assert is_ascii(encoding, environment) is expected
