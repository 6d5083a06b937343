"""What a traceback shows: nothing secret.

Tools that print or upload a traceback may show the local variables of its frames too. Where
credentials are taken apart and sent, variables hold them; a function that does so is decorated with
`clears_locals`. What it raises says where it was raised as ever, and its frames, with all below
them, have no variables any more.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

__all__ = ["clears_locals"]

P = ParamSpec("P")
R = TypeVar("R")


def clears_locals(function: Callable[P, R]) -> Callable[P, R]:
    """Have the traceback of what `function` raises show no variables, its arguments neither."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        handled = id(sys.exc_info()[1])  # the caller's own, which becomes a context of ours
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            del args, kwargs  # of this frame, which is in the traceback and can't be cleared yet
            _clear(error, handled)
            raise

    return call


def _clear(error: BaseException, handled: int) -> None:
    """Clear the frames of an exception, its causes and contexts, but for one with that id."""
    pending: list[BaseException | None] = [error]
    seen = {handled}
    while pending:
        link = pending.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)  # what still runs it leaves alone
            pending += [link.__cause__, link.__context__]
