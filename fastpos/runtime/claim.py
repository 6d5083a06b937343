"""Which of two threads does something that may be done once."""

from __future__ import annotations

__all__ = ["Claim"]


class Claim:
    """Given to whoever asks first. Anybody may ask, a signal handler too: it takes no lock."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = [True]

    def take(self) -> bool:
        """Whether this is the first call."""
        try:
            return self._left.pop()  # one step, whoever comes in between
        except IndexError:
            return False
