"""What compiled code does in another way: primitives.pxd has the same in C, and nothing else exists
twice."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..clock import monotonic

__all__ = ["monotonic", "new", "tells_all"]

new: Callable[[Any], Any] = object.__new__
"""Makes an object of a class with nothing in it."""


def tells_all(news: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether `news` has the keys of `known`, in the same order, and no null."""
    if [*news] != [*known]:
        return False
    for value in news.values():  # noqa: SIM110  # `None in` compares, which takes longer
        if value is None:
            return False
    return True
