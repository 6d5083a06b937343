"""A credential: how it is asked for, where it goes, and how it is kept out of what is shown."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

from ..errors import ConnectionFailed, is_exit
from ..model.exchange import CREDENTIAL_PLACES, request
from ..printable import printable
from ..tracebacks import clears_locals

__all__ = ["Credential", "CredentialSource", "Hider"]

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
        self.header: str = CREDENTIAL_PLACES[kind][0]
        self.renews: bool = callable(source)
        """Whether it is asked for at every connect, and may be another one then."""
        self.hider: Hider = Hider(())
        """What hides it as of now; replaced as a whole where it becomes another one."""
        if not callable(source):
            self._check(source)
            self.hider = Hider((source,))

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
                ).advising(
                    "It is called again at the next attempt; what it raised is the __cause__."
                ) from error
        # The last two are what a server can still be talking about.
        if not self.hider.hides(value):
            self.hider = self.hider.followed_by(value)
        return Secret(value)

    def message(self, event: str, value: str, broker: int) -> str:
        """Give the message "sub" or "unsub" for the credential `value`."""
        return request(event, self._kind, value, broker)

    def hide(self, text: str) -> str:
        """Take the credential out of a text that came from elsewhere."""
        return self.hider.hide(text)

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


class Hider:
    """Takes credentials out of what came from elsewhere. What it hides does not change.

    The patterns are made when they are first needed, as hardly ever anything is escaped, and they
    take more memory than the rest of an idle stream. Any thread may, and two do no harm.

    Args:
        values: the credentials.
    """

    __slots__ = ("_encoded", "_escaped", "_escaped_bytes", "_values")

    def __init__(self, values: tuple[str, ...]) -> None:
        self._values = values
        self._encoded = [each.encode() for value in values for each in _spellings(value)]
        self._escaped: re.Pattern[str] | None = None
        self._escaped_bytes: re.Pattern[bytes] | None = None

    def hides(self, value: str) -> bool:
        """Whether this is one of them."""
        return value in self._values

    def followed_by(self, value: str) -> Hider:
        """Give one for the last of them, and another."""
        return Hider((*self._values[-1:], value))

    @clears_locals
    def hide(self, text: str) -> str:
        """Take them out of a text, which may have been cut in the middle of one."""
        for value in self._values:
            for spelling in _spellings(value):
                text = text.replace(spelling, "***")
                for length in range(min(len(spelling), len(text)), SHORTEST - 1, -1):
                    if text.endswith(spelling[:length]):
                        text = text[:-length] + "***"
                        break
        if "\\" in text or "%" in text:
            if self._escaped is None:
                self._escaped = re.compile(self._pattern)
            text = self._escaped.sub("***", text)
        return text

    @clears_locals
    def occurs_in(self, data: bytes) -> bool:
        """Whether one of them is in it, whole."""
        if any(spelling in data for spelling in self._encoded):
            return True
        # Most data has none of these, and one byte is found the fastest.
        if b"%" in data or (b"\\" in data and (b"\\u00" in data or b"\\\\" in data)):
            if self._escaped_bytes is None:
                self._escaped_bytes = re.compile(self._pattern.encode())
            return self._escaped_bytes.search(data) is not None
        return False

    @property
    def _pattern(self) -> str:
        """What matches them however they are escaped; nothing, where there are none."""
        return "|".join(map(_escaped, self._values)) or r"(?!)"


def _spellings(value: str) -> dict[str, None]:
    """Give the ways in which a credential may stand in a text, each once."""
    escaped = json.dumps(value)[1:-1]
    return dict.fromkeys((value, escaped, escaped.replace("/", "\\/"), quote(value, safe="")))


def _escaped(value: str) -> str:
    """Give a pattern for it where any of its characters may be escaped: as JSON may (RFC 8259,
    section 7; some libraries do it with =, +, <, > or &), perhaps twice, or as a URL may."""
    return "".join(
        rf"(?:\\{{0,4}}{re.escape(each)}|\\{{1,4}}u00(?i:{ord(each):02x})|%(?i:{ord(each):02x}))"
        for each in value
    )
