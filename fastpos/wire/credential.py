"""A credential: how it is asked for, where it goes, and how it is kept out of what is shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ..errors import ConnectionFailed, is_exit
from ..model.exchange import CREDENTIAL_PLACES, request
from ..printable import printable
from ..tracebacks import clears_locals

__all__ = ["Credential", "CredentialSource"]

# A piece of a credential that is shorter than this tells nothing, characters.
SHORTEST = 4

CredentialSource = str | Callable[[], str]


class Secret(str):
    """A credential, which is not shown by repr(); so a container that holds it does not show it."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "<credential>"


class Credential:
    """A token or an API key: how it is asked for, and where it goes.

    Args:
        kind: the constructor's argument it came in, "token" or "api_key".
        source: the credential, or a callable that gives it.

    Raises:
        TypeError, ValueError: it is no usable credential.
    """

    def __init__(self, kind: str, source: CredentialSource) -> None:
        self._kind = kind
        self._source = source
        self.header = CREDENTIAL_PLACES[kind][0]
        self.renews = callable(source)
        """Whether it is asked for at every connect, and may be another one then."""
        self._seen: list[str] = []
        self._spelled: list[bytes] = []  # in all ways, of those
        if not callable(source):
            self._check(source)

    @clears_locals
    def get(self) -> str:
        """Give the credential for the next connection; asks the callable, if it is one.

        Raises:
            ConnectionFailed: the callable raised, or gave something unusable.
        """
        if not callable(self._source):
            value: Any = self._source
        else:
            try:
                value = self._source()
                self._check(value)
            except BaseException as error:
                if is_exit(error):
                    raise
                raise ConnectionFailed(
                    f"the {self._kind} callable failed: {printable(self.hide(str(error)))}"
                ) from error
        # The last two are what a server can still be talking about.
        if value not in self._seen:
            self._seen = [*self._seen[-1:], value]
            self._spelled = [each.encode() for seen in self._seen for each in _spellings(seen)]
        return Secret(value)

    def message(self, event: str, value: str, broker: int) -> str:
        """Give the message "sub" or "unsub" for the credential `value`."""
        return request(event, self._kind, value, broker)

    @clears_locals
    def hide(self, text: str) -> str:
        """Take the credential out of a text that came from elsewhere."""
        for value in self._seen:
            for spelling in _spellings(value):
                text = text.replace(spelling, "***")
                # The text may have been cut in the middle of it.
                for length in range(min(len(spelling), len(text)), SHORTEST - 1, -1):
                    if text.endswith(spelling[:length]):
                        text = text[:-length] + "***"
                        break
        return text

    @clears_locals
    def occurs_in(self, data: bytes) -> bool:
        """Whether the credential is in what came from elsewhere, whole."""
        return any(spelling in data for spelling in self._spelled)

    def _check(self, value: Any) -> None:
        if not isinstance(value, str):
            raise TypeError(f"{self._kind} must be a str, not {type(value).__name__}")
        if not value:
            raise ValueError(f"{self._kind} must not be empty")
        # It travels in an HTTP header: visible ASCII, one line (RFC 9110, section 5.5).
        if not (value.isascii() and value.isprintable()) or value != value.strip():
            raise ValueError(
                f"{self._kind} must be one line of visible ASCII without white space around it"
            )

    def __repr__(self) -> str:
        return f"<{self._kind}>"


def _spellings(value: str) -> dict[str, None]:
    """Give the ways in which a credential may stand in a text, each once."""
    escaped = json.dumps(value)[1:-1]
    return dict.fromkeys((value, escaped, escaped.replace("/", "\\/"), quote(value, safe="")))
