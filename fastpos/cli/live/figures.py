"""Figures that the exchange does not tell but a trader wants, and figures as text.

What the wire said may be anything: a figure that can't be had of it is None, and what is no number
is given as it came, to be made fit to be shown (paint.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from decimal import Decimal
from enum import IntEnum
from math import floor, isfinite, log10
from typing import Any

from ...model.events import Position
from ..terminal import span

__all__ = [
    "Danger",
    "ago",
    "amount",
    "danger",
    "decimals_of",
    "distance",
    "finite",
    "fraction",
    "has_no_liquidation",
    "move",
    "part",
    "percent",
    "unrealized",
]

# How near to its liquidation a position is in danger, or to be watched: parts of the mark price.
NEAR, CLOSE = 0.03, 0.10
# So many digits of a number are shown, but this many behind its point at the least and at the most,
# if it has them.
DIGITS, FEWEST, MOST = 7, 2, 10
# What has more digits before its point than this is shown with an exponent.
LARGEST = 1e15


class Danger(IntEnum):
    """How near a position is to its liquidation."""

    NEAR = 0
    CLOSE = 1
    NONE = 2


# --- of a position --------------------------------------------------------------------------------


def unrealized(position: Position) -> Any | None:
    """Give the unrealized profit and loss as price difference times contracts.

    That is no amount of a currency: what a contract is worth is not told by the stream.
    """
    p: Any = position
    return _figured(lambda: (p.mark_price - p.open_price) * p.volume * _sign(p))


def move(position: Position) -> Any | None:
    """Give how far the mark price is from the entry, to the good of the position: a fraction."""
    p: Any = position
    return _figured(lambda: (p.mark_price - p.open_price) / p.open_price * _sign(p))


def distance(position: Position) -> Any | None:
    """Give how far the mark price may go until liquidation, as a fraction of it.

    It is negative beyond, and None where there is no liquidation price.
    """
    p: Any = position
    if has_no_liquidation(position):
        return None
    return _figured(lambda: (p.mark_price - p.liquidation_price) / p.mark_price * _sign(p))


def has_no_liquidation(position: Position) -> bool:
    """Whether the exchange says that there is no liquidation price."""
    price = finite(position.liquidation_price)
    return price is not None and price <= 0


def danger(position: Position) -> Danger:
    """Say how near a position is to its liquidation."""
    far = distance(position)
    if far is None or far >= CLOSE:
        return Danger.NONE
    return Danger.NEAR if far < NEAR else Danger.CLOSE


def part(some: Any, whole: Any) -> float | None:
    """Give which part of a whole some is, from 0.0 to 1.0."""
    found = _figured(lambda: some / whole)
    return None if found is None else min(max(float(found), 0.0), 1.0)


def finite(value: Any) -> Any | None:
    """Give a value if it is a finite number, else None."""
    if not isinstance(value, (int, float, Decimal)) or isinstance(value, bool):
        return None
    try:
        return value if isfinite(value) else None
    except (ValueError, OverflowError):  # a signalling NaN; an integer that no float can hold
        return None


def _sign(position: Any) -> int:
    return {"BUY": 1, "SELL": -1}[position.side]


def _figured(figure: Callable[[], Any]) -> Any | None:
    """Give a figure; None where what it is made of is not known, or not what it should be."""
    try:
        return finite(figure())
    except (TypeError, ArithmeticError, LookupError):
        return None


# --- as text --------------------------------------------------------------------------------------


def decimals_of(values: Iterable[Any]) -> int:
    """Give how many decimals are shown of prices that stand side by side."""
    most = 0
    for each in values:
        value = finite(each)
        size = abs(float(value or 0))
        if size:
            places = min(max(DIGITS - floor(log10(size)) - 1, FEWEST), MOST)
            _, _, behind = f"{value:.{places}f}".rstrip("0").partition(".")
            most = max(most, len(behind))
    return most


def amount(value: Any, decimals: int | None = None, sign: bool = False) -> str:
    """Give a number with separators of thousands, or what it is instead.

    Args:
        value: a number; what is none is shown as it is, and None as a hyphen.
        decimals: so many; None: as many as it has, within `DIGITS`.
        sign: whether a plus is shown too.
    """
    if value is None:
        return "-"
    number = finite(value)
    if number is None:
        return str(value)
    plus = "+" if sign and number > 0 else ""
    if abs(number) >= LARGEST:
        return f"{plus}{number:.3g}"
    places = decimals_of((number,)) if decimals is None else decimals
    return _unsigned_zero(f"{plus}{number:,.{places}f}")


def percent(value: Any, sign: bool = False) -> str:
    """Give a fraction as percent."""
    number = finite(value)
    if number is None:
        return "-" if value is None else amount(value)
    number = number * 100
    if abs(number) >= 1000:
        return f"{amount(number, 0, sign)}%"
    plus = "+" if sign and number > 0 else ""
    return _unsigned_zero(f"{plus}{number:.{1 if abs(number) >= 10 else 2}f}") + "%"


def _unsigned_zero(text: str) -> str:
    """Give a number as it is, but zero without a sign: it is neither profit nor loss."""
    return text.lstrip("+-") if not text.strip("+-0.") else text


def fraction(some: Any, whole: Any) -> str:
    """Give some of a whole."""
    return f"{amount(some)}/{amount(whole)}"


def ago(at_ns: int, now_ns: int) -> str:
    """Give how long ago something was."""
    return f"{span((now_ns - at_ns) / 1e9)} ago"
