"""What compiled code does in another way: primitives.pxd has the same in C, and nothing else exists
twice."""

from __future__ import annotations

from time import monotonic
from typing import Any

__all__ = ["monotonic", "new", "tells_all"]


def new(kind: Any) -> Any:
    """Make an object of `kind` with nothing in it."""
    return kind.__new__(kind)


def tells_all(news: dict[str, Any], known: dict[str, Any]) -> bool:
    """Whether `news` has the keys of `known`, in the same order, and no null."""
    if [*news] != [*known]:
        return False
    for value in news.values():  # noqa: SIM110  # `None in` compares, which takes longer
        if value is None:
            return False
    return True
