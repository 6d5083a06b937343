"""The sections below the header: what is in each, in which columns, and what goes first.

A column's number is its priority: where there is no room the largest go first (table.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from rich.text import Text

from ...errors import FastposError
from ...model.events import AttachedOrder, Balance, Disconnect, Order, Position, Stale, Trigger
from ..lines import parts
from ..terminal import span
from .figures import (
    Danger,
    ago,
    amount,
    danger,
    decimals_of,
    distance,
    finite,
    fraction,
    has_no_liquidation,
    move,
    part,
    percent,
    unrealized,
)
from .known import Known, Note
from .paint import CLOSE, NEAR, STALE, UNKNOWN, Brush, Part
from .table import WIDE, Column, table

__all__ = ["Events", "Section", "Table", "sections"]

T = TypeVar("T")
# What the software's own apps call the codes of an order's type.
_TYPES = {1: "LIMIT", 2: "MARKET", 3: "IOC", 4: "FOK", 5: "POST"}
# A full bar of the auto-deleveraging level, and of what is filled of an order.
_ADL, _FILLED = 5, 8
# So many events are wanted, more where there is room left; and of so many names none is shown.
SOME = 5


class Section(Protocol):
    """A part of the screen: a line with its title, and more below it."""

    @property
    def least(self) -> int:
        """So many lines it takes to be of use."""

    @property
    def wanted(self) -> int:
        """So many lines show all that is in it, or enough."""

    def draw(self, width: int, height: int, brush: Brush) -> list[Text]:
        """Give its lines, `height` of them at the most."""


def _title(name: str, badges: Sequence[Part], hidden: int, width: int, brush: Brush) -> Text:
    """Give the line above a section, with what there is no room for said at its end."""
    line = brush.line(Part(f"{brush.rule} ", "rule"), Part(name, "title"))
    for badge in badges:
        line.append_text(brush.line(Part("  "), badge))
    end = f" +{hidden:,} more {brush.rule}" if hidden else ""
    brush.fit(line, max(width - len(end) - 2, 0))
    rest = width - line.cell_len - len(end) - 1
    line.append_text(brush.line(Part(" " + brush.rule * rest, "rule"), Part(end, "warning")))
    return brush.fit(line, width)


@dataclass(frozen=True)
class Table(Generic[T]):
    """A section that is a table."""

    name: str
    columns: Sequence[Column[T]]
    rows: Sequence[T]
    badges: Sequence[Part] = ()

    @property
    def least(self) -> int:
        """The title; with rows, those of the columns and one row too."""
        return 3 if self.rows else 1

    @property
    def wanted(self) -> int:
        """The same with all rows."""
        return 2 + len(self.rows) if self.rows else 1

    def draw(self, width: int, height: int, brush: Brush) -> list[Text]:
        """Give its lines."""
        shown = self.rows[: max(height - 2, 0)]
        hidden = len(self.rows) - len(shown)
        count = Part(f"{len(self.rows):,}" if self.rows else "none")
        lines = [_title(self.name, [count, *self.badges], hidden, width, brush)]
        if shown:
            titles, rows = table(self.columns, shown, width, brush)
            lines += [titles, *rows]
        return lines


@dataclass(frozen=True)
class Events:
    """The last events, the newest last."""

    notes: Sequence[Note]

    @property
    def least(self) -> int:
        """The title and three."""
        return 4

    @property
    def wanted(self) -> int:
        """The title and some; what room is left they get in the end."""
        return 1 + min(len(self.notes), SOME)

    def draw(self, width: int, height: int, brush: Brush) -> list[Text]:
        """Give its lines."""
        lines = [_title("Last events", [], 0, width, brush)]
        shown = self.notes[max(len(self.notes) - height + 1, 0) :] if height > 1 else ()
        return lines + [_event(note, width, brush) for note in shown]


def _event(note: Note, width: int, brush: Brush) -> Text:
    if isinstance(note.event, str):
        now, _, text = parts(note, note.at_ns)
        kind, text = "log", note.event
    else:
        now, kind, text = parts(note.event, note.at_ns)
    is_trouble = isinstance(note.event, (Disconnect, Stale, FastposError, str))
    return brush.fit(
        brush.line(
            Part(now if width >= WIDE else now[:8], "head"),
            Part(f" {kind:<13} ", "warning" if is_trouble else "name"),
            Part(brush.clean(text, max(width, 1))),
        ),
        width,
    )


# --- cells ----------------------------------------------------------------------------------------


def _of_stale(get: Callable[[T, Brush], str]) -> Callable[[T, Brush], Part]:
    """Make a cell of a thing that is stale as a whole or not at all."""

    def cell(row: Any, brush: Brush) -> Part:
        return Part(get(row, brush), "stale" if row.stale else "")

    return cell


def _stale(row: Any, _: Brush) -> Part:
    return Part(STALE if row.stale else "", "warning")


def _name(value: Any) -> str:
    return "-" if value is None else str(value)


def _signed(value: Any) -> str:
    """Give a profit or loss, to the cent where it is more than one."""
    size = abs(finite(value) or 0)
    places = 0 if size >= 1e6 else 2 if size >= 1 else None
    return amount(value, places, sign=True)


def _gain(value: Any, text: str, is_stale: bool) -> Part:
    if value is None or value == 0 or is_stale:
        return Part(text, "stale" if is_stale else "")
    return Part(text, "profit" if value > 0 else "loss")


# --- positions ------------------------------------------------------------------------------------


def _attribute(
    name: str, show: Callable[[Position, Brush], str]
) -> Callable[[Position, Brush], Part]:
    def cell(row: Position, brush: Brush) -> Part:
        return Part(show(row, brush), "stale" if name in row.stale_fields else "")

    return cell


def _price(name: str) -> Callable[[Position, Brush], Part]:
    """A price that moves, with as many decimals as the others of the position."""

    def show(row: Position, _: Brush) -> str:
        prices = row.open_price, row.mark_price, row.liquidation_price
        return amount(getattr(row, name), decimals_of(prices))

    return _attribute(name, show)


def _amount(name: str) -> Callable[[Position, Brush], Part]:
    return _attribute(name, lambda row, _: amount(getattr(row, name)))


def _signs(row: Position, _: Brush) -> Part:
    """The signs before a position: all that can be said of it, so that none looks like another."""
    how = danger(row)
    signs = [
        (STALE, row.stale),
        (UNKNOWN, row.missing_from_ticks or not (row.complete or row.source == "SNAPSHOT")),
        (NEAR, how is Danger.NEAR),
        (CLOSE, how is Danger.CLOSE),
    ]
    text = "".join(sign for sign, is_so in signs if is_so)
    return Part(text, "danger" if how is Danger.NEAR else "warning")


def _liquidation(row: Position, _: Brush) -> Part:
    far = distance(row)
    how = danger(row)
    if far is None:
        return Part("none" if has_no_liquidation(row) else "-")
    if how is Danger.NEAR:
        return Part(f"{percent(far)}{NEAR}", "danger")
    if how is Danger.CLOSE:
        return Part(f"{percent(far)}{CLOSE}", "warning")
    return Part(percent(far), "stale" if "mark_price" in row.stale_fields else "")


def _inputs_are_stale(row: Position) -> bool:
    return not row.stale_fields.isdisjoint(("mark_price", "open_price", "volume", "side"))


def _unrealized(row: Position, _: Brush) -> Part:
    value = unrealized(row)
    return _gain(value, _signed(value), _inputs_are_stale(row))


def _move(row: Position, _: Brush) -> Part:
    value = move(row)
    return _gain(value, percent(value, sign=True), _inputs_are_stale(row))


def _realized(row: Position, _: Brush) -> Part:
    value = row.realized_pnl
    return _gain(finite(value), _signed(value), "realized_pnl" in row.stale_fields)


def _times(value: Any) -> str:
    return amount(value) if finite(value) is None else f"{amount(value)}x"


def _adl(row: Position, brush: Brush) -> Part:
    level = row.adl_level
    if not isinstance(level, int) or not 0 <= level <= _ADL:
        return Part(amount(level))
    style = "loss" if level == _ADL else "warning" if level == _ADL - 1 else ""
    if "adl_level" in row.stale_fields:
        style = "stale"
    return Part(brush.bar(level / _ADL, _ADL), style)


def _what_is_stale(row: Position, _: Brush) -> Part:
    if row.missing_from_ticks:
        return Part("not in ticks: closed?", "warning")
    if not row.stale:
        return Part("")
    names = row.stale_fields
    if len(names) > SOME:
        return Part("all" if "mark_price" in names else "all but ticks", "warning")
    return Part(", ".join(sorted(names)), "warning")


_POSITIONS: list[Column[Position]] = [
    Column("", 0, _signs, left=True, least=2),
    Column(
        "CONTRACT", 0, _attribute("contract_name", lambda p, _: _name(p.contract_name)),
        left=True, least=10, most=16,
    ),
    Column("SIDE", 1, _attribute("side", lambda p, _: _name(p.side)), left=True),
    Column("VOL", 2, _amount("volume")),
    Column("ENTRY", 6, _amount("open_price"), least=8),
    Column("MARK", 5, _price("mark_price"), least=8),
    Column("LAST", 15, _price("last_price"), least=8),
    Column("BID", 17, _price("best_bid"), least=8),
    Column("ASK", 16, _price("best_ask"), least=8),
    Column("LIQ", 7, _amount("liquidation_price"), least=8),
    Column("TO LIQ", 4, _liquidation, least=6),
    Column(
        "RATE", 9, _attribute("margin_rate", lambda p, _: percent(p.margin_rate)), least=5
    ),
    Column("uPNL", 3, _unrealized, least=9),
    Column("MOVE", 12, _move, least=6),
    Column("REALIZED", 13, _realized, least=8),
    Column("ADL", 8, _adl, left=True, least=_ADL),
    Column("LEV", 10, _attribute("leverage", lambda p, _: _times(p.leverage))),
    Column("MODE", 11, _attribute("margin_mode", lambda p, _: _name(p.margin_mode)), left=True),
    Column("MARGIN", 14, _amount("margin"), least=8),
    Column("CLOSABLE", 18, _amount("closable_volume")),
    Column("ID", 19, lambda p, _: Part(_name(p.id)), left=True),
    Column("STALE", 20, _what_is_stale, left=True, most=40),
]  # fmt: skip


def _positions(known: Known) -> Section:
    # Those in danger come first; else the order stays, so that no row moves without need.
    rows = sorted(known.positions, key=lambda each: (danger(each) is not Danger.NEAR, _id(each)))
    badges = []
    for how, sign, words, style in (
        (Danger.NEAR, NEAR, "near liquidation", "danger"),
        (Danger.CLOSE, CLOSE, "close to it", "warning"),
    ):
        count = sum(danger(each) is how for each in rows)
        if count:
            badges.append(Part(f"{sign} {count:,} {words}", style))
    missing = sum(each.missing_from_ticks for each in rows)
    if missing:
        badges.append(Part(f"{UNKNOWN} {missing:,} maybe closed", "warning"))
    return Table("Positions", _POSITIONS, rows, [*badges, *_how_many_stale(rows)])


def _id(position: Position) -> int:
    return position.id if isinstance(position.id, int) else 0


def _how_many_stale(rows: Sequence[Any]) -> list[Part]:
    stale = sum(each.stale for each in rows)
    return [Part(f"{STALE} {stale:,} stale", "warning")] if stale else []


# --- orders, triggers, balances -------------------------------------------------------------------


def _order_price(name: str) -> Callable[[Order, Brush], Part]:
    return _of_stale(lambda row, _: amount(getattr(row, name)))


def _attached(name: str) -> Callable[[Order, Brush], Part]:
    def show(row: Order, _: Brush) -> str:
        attached: AttachedOrder | None = getattr(row, name)
        if attached is None or not (attached.active or attached.trigger_price):
            return "-"
        text = amount(attached.trigger_price)
        return text if attached.active is not False else f"{text} off"

    return _of_stale(show)


def _filled(row: Order, brush: Brush) -> str:
    filled = part(row.filled_volume, row.volume)
    return "-" if filled is None else brush.bar(filled, _FILLED)


def _type(row: Order, _: Brush) -> str:
    return _TYPES.get(row.type, amount(row.type)) if isinstance(row.type, int) else amount(row.type)


_ORDERS: list[Column[Order]] = [
    Column("", 0, _stale, left=True, least=2),
    Column(
        "CONTRACT", 0, _of_stale(lambda o, _: _name(o.contract_name)),
        left=True, least=10, most=16,
    ),
    Column("SIDE", 1, _of_stale(lambda o, _: _name(o.side)), left=True, most=8),
    Column("TYPE", 7, _of_stale(_type), left=True, least=5),
    Column("PRICE", 2, _order_price("price"), least=8),
    Column("FILLED", 4, _of_stale(_filled), left=True, least=_FILLED),
    Column("OF", 3, _of_stale(lambda o, _: fraction(o.filled_volume, o.volume)), least=6),
    Column("TAKE PROFIT", 5, _attached("take_profit")),
    Column("STOP LOSS", 5, _attached("stop_loss")),
    Column("AVERAGE", 9, _of_stale(lambda o, _: amount(o.avg_price or None)), least=8),
    Column("DOES", 10, _of_stale(lambda o, _: _name(o.open_close)), left=True),
    Column("ID", 8, _of_stale(lambda o, _: _name(o.order_id)), left=True),
]  # fmt: skip


def _triggers(now_ns: int) -> list[Column[Trigger]]:
    def expires(row: Trigger, _: Brush) -> str:
        try:
            left = row.expires_ms / 1e3 - now_ns / 1e9  # type: ignore[operator]
            return f"in {span(left)}" if left > 0 else "expired"
        except (TypeError, ArithmeticError, ValueError):
            return "-"

    def placed(row: Trigger, _: Brush) -> str:
        try:
            return ago(int(row.created_ms * 1e6), now_ns)  # type: ignore[operator]
        except (TypeError, ArithmeticError, ValueError):
            return "-"

    return [
        Column("", 0, _stale, left=True, least=2),
        Column("SIDE", 0, _of_stale(lambda t, _: _name(t.side)), left=True, most=8),
        Column("VOL", 1, _of_stale(lambda t, _: amount(t.volume))),
        Column("TRIGGER", 2, _of_stale(lambda t, _: amount(t.trigger_price)), least=8),
        Column("PRICE", 3, _of_stale(lambda t, _: amount(t.price)), least=8),
        Column("EXPIRES", 4, _of_stale(expires), left=True),
        Column("PLACED", 6, _of_stale(placed), left=True),
        Column("ID", 5, _of_stale(lambda t, _: _name(t.trigger_order_id)), left=True),
    ]


_BALANCES: list[Column[Balance]] = [
    Column("", 0, _stale, left=True, least=2),
    Column("COIN", 0, _of_stale(lambda c, _: _name(c.coin)), left=True, least=10, most=12),
    Column("AVAILABLE", 1, _of_stale(lambda c, _: amount(c.available)), least=12),
    Column("FROZEN", 2, _of_stale(lambda c, _: amount(c.frozen)), least=10),
    Column("ISOLATED MARGIN", 3, _of_stale(lambda c, _: amount(c.isolated_margin))),
]


def sections(known: Known, now_ns: int) -> dict[str, Section]:
    """Give the sections by name, the most important first."""
    return {
        "positions": _positions(known),
        "orders": Table("Orders", _ORDERS, known.orders, _how_many_stale(known.orders)),
        "triggers": Table(
            "Triggers",
            _triggers(now_ns),
            known.triggers,
            _how_many_stale(known.triggers),
        ),
        "balances": Table("Balances", _BALANCES, known.balances, _how_many_stale(known.balances)),
        "events": Events(known.notes),
    }
