"""What can go wrong, as exceptions. Each says what happened, to what, and what to do next."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "AuthenticationError",
    "CallbackError",
    "ConnectionFailed",
    "DecodeError",
    "FastposError",
    "JournalError",
    "ProtocolError",
    "PublisherError",
    "ReconnectExhausted",
    "SnapshotError",
    "SubscriptionError",
    "is_exit",
]

# How much of a message that could not be decoded is kept: enough to see what it was.
KEPT_BYTES = 300


class FastposError(Exception):
    """Base of everything this library raises on its own account, or tells `on_error`.

    Its text is `message` and `advice`, a sentence each.

    Attributes:
        stream (str | None): the name of the stream that it is about, None where it is about none.
        advice (str): what to do next, as a sentence; of the class, where the place that raised it
            knows nothing better.
    """

    stream: str | None = None
    advice: str = (
        "This is a mistake in fastpos, or of a function that it called: please report it with the "
        "traceback of its cause."
    )

    @property
    def message(self) -> str:
        """What happened, and to what."""
        return str(self.args[0]) if self.args else type(self).__name__

    def __str__(self) -> str:
        return f"{self.message.rstrip('.')}. {self.advice}"

    def advising(self, advice: str) -> Self:
        """Give this error, with another advice."""
        self.advice = advice
        return self


class AuthenticationError(FastposError):
    """The exchange refuses the credential. What ends a stream with it is no passing trouble.

    A stream whose credential was in service before tries again for a minute, and tells `on_error`.
    """

    advice = (
        "Look whether the token or API key is the right one for this exchange and broker, and "
        "neither revoked nor expired; a stream that has ended with this can be started again."
    )


class SubscriptionError(FastposError):
    """The exchange refused the subscription, or did not answer it with ``sub success`` in time.

    The stream tries again, and tells `on_error`; with ``reconnect=None`` it ends with this.

    Attributes:
        reply (str | None): the refusal, shortened and without credentials; None where there was
            none.
    """

    advice = (
        "The stream connects and asks again, unless it has ended with this; if it goes on, look "
        "whether url and broker are those of the account."
    )

    def __init__(self, message: str, reply: str | None = None) -> None:
        super().__init__(message, reply)
        self.reply = reply


class ConnectionFailed(FastposError):
    """The connection could not be opened, or was lost.

    The stream tries again, and tells `on_error`; with ``reconnect=None`` it ends with this. What
    the system or the server said is in the message.

    Attributes:
        status (int | None): the HTTP status of a refused upgrade, None where it did not come to
            that.
        retry_after (float | None): seconds that the server asked to wait before the next
            attempt (its ``Retry-After`` header), None where it did not say.
    """

    advice = (
        "The stream connects again, unless it has ended with this; if it goes on, look at the "
        "network, the proxy and the url."
    )

    def __init__(
        self, message: str, status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, status, retry_after)
        self.status = status
        self.retry_after = retry_after


class ReconnectExhausted(FastposError):
    """As many attempts in a row have failed as the reconnect policy allows: the stream has ended.

    `run_forever`, `wait_ready` and `join` raise it. The last failure is its ``__cause__``.
    """

    advice = (
        "Mend what its cause names and start the stream again, or allow more attempts: "
        "ReconnectPolicy(max_attempts=...)."
    )


class ProtocolError(FastposError):
    """The server broke the WebSocket protocol (RFC 6455).

    The connection is closed, and the stream tries again; with ``reconnect=None`` it ends with this.

    Attributes:
        close_code (int): the status code that the RFC names for it (section 7.4.1): 1002 protocol
            error, 1007 invalid UTF-8, 1009 message too big.
    """

    advice = (
        "The stream connects again; if it goes on, something between here and the exchange alters "
        "what is sent, or url is of another server."
    )

    def __init__(self, message: str, close_code: int = 1002) -> None:
        super().__init__(message, close_code)
        self.close_code = close_code


class DecodeError(FastposError, ValueError):
    """A message is not what the protocol says: a push is one gzip member with one JSON object of
    known shape, and all else the greeting, a pong or the answer to a request.

    A stream tells `on_error` and passes the message over; `fastpos.decode` raises it.

    Attributes:
        data (bytes): the first 300 bytes of what could not be decoded: the message as it came,
            or the JSON in it where inflating it went well.
    """

    advice = (
        "The message was passed over and the stream goes on; .data has its beginning. Where it "
        "recurs, the exchange has changed its protocol: look for a newer fastpos."
    )

    def __init__(self, message: str, data: bytes = b"") -> None:
        super().__init__(message, bytes(data[:KEPT_BYTES]))
        self.data: bytes = self.args[1]


class CallbackError(FastposError):
    """A user's function raised; what it raised is the ``__cause__``.

    A stream tells `on_error`, and goes on with the next function.

    Attributes:
        event (Any): the event it was called with.
        callback (Callable): the function.
    """

    advice = "The stream goes on; mend the function: what it raised is the __cause__."

    def __init__(self, message: str, event: Any, callback: Callable[..., Any]) -> None:
        super().__init__(message, event, callback)
        self.event = event
        self.callback = callback


class JournalError(FastposError):
    """A journal can't be written, or what is read is none.

    From a stream it comes to `on_error`, once for each time in which nothing can be written; the
    stream goes on. `fastpos.journal.read` raises it.

    Attributes:
        file (str | None): what was read, None where nothing was.
        line (int | None): the number of the line in it, from 1; None where it is about no line.
    """

    advice = (
        "A stream goes on without its journal and tries again; look whether the folder is there, "
        "may be written, and has room on its disk."
    )

    def __init__(self, message: str, file: str | None = None, line: int | None = None) -> None:
        super().__init__(message, file, line)
        self.file = file
        self.line = line


class PublisherError(FastposError):
    """Nothing can be published, or another publishes the account.

    It comes to `on_error`, once for each time in which nothing can be published, and the stream
    goes on.
    """

    advice = (
        "The stream goes on and what it gets is kept or counted; look whether Redis runs, whether "
        "its URL, user and password are right, and whether another publishes the account."
    )


class SnapshotError(FastposError):
    """A snapshot of the account could not be had.

    `AccountSnapshot` raises it. A stream tells `on_error`, asks again, and shows what it knows as
    stale until then.

    Attributes:
        code (int | None): the exchange's own error code (like -1121), None where it gave none.
        status (int | None): the HTTP status of its answer, None where there was no answer.
        retry_after (float | None): seconds that it asked to wait, None where it did not say.
    """

    advice = (
        "The stream goes on and asks again; until then synced is False. If it goes on, look at the "
        "snapshot's url, key, secret and rights."
    )

    def __init__(
        self,
        message: str,
        code: int | None = None,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, code, status, retry_after)
        self.code = code
        self.status = status
        self.retry_after = retry_after


def is_exit(error: BaseException) -> bool:
    """Whether a user's function that raised `error` did not fail: it is to end what runs it.

    These are Ctrl-C, `sys.exit()`, and that the function's greenlet is killed. Whatever else is no
    `Exception` (asyncio's `CancelledError`, gevent's `Timeout`) is meant for code of the user's.
    """
    greenlet = sys.modules.get("greenlet")  # where it is not imported, nobody raises it
    killed = getattr(greenlet, "GreenletExit", KeyboardInterrupt)
    return isinstance(error, (KeyboardInterrupt, SystemExit, killed))
