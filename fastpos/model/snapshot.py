"""What a snapshot source gives."""

# Annotations are evaluated here: NamedTuple would compile each of them from its text.

from collections.abc import Callable, Iterable
from typing import NamedTuple

from .events import Balance, Order, Position, Trigger

__all__ = ["Snapshot", "SnapshotSource"]


class Snapshot(NamedTuple):
    """An account at one moment, as something else than the stream knows it.

    Args:
        positions: all open positions; one that is not among them is closed.
        balances: all balances.
        orders: all open orders; None: the source does not know.
        triggers: all trigger orders that wait; None: the source does not know.
    """

    positions: Iterable[Position]
    balances: Iterable[Balance]
    orders: Iterable[Order] | None = None
    triggers: Iterable[Trigger] | None = None


SnapshotSource = Callable[[], Snapshot]
"""Gives a snapshot, or raises; called on a thread of its own."""
