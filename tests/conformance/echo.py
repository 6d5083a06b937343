"""fastpos' WebSocket layer as the Autobahn client wants it: messages in, messages out."""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic

from fastpos.net.connection import Connection, ConnectionEnded
from fastpos.wire.inflate import new_splitter

__all__ = ["Echo"]

# The largest message of the suite has 16 MiB.
MAX_MESSAGE_SIZE = 32 * 1024 * 1024


class Echo:
    """One connection, opened; `timeout` is for that, for silence, and for each send."""

    def __init__(self, url: str, timeout: float) -> None:
        self._timeout = timeout
        self._connection = Connection(
            url,
            connect_timeout=timeout,
            max_message_size=MAX_MESSAGE_SIZE,
            splitter=new_splitter(),  # as a stream has it; no message of the suite is gzip
        )
        try:
            self._connection.open()
        except BaseException:
            self._connection.end()
            raise

    def messages(self) -> Iterator[tuple[int, bytes]]:
        """Complete messages with their opcode, until the connection has ended.

        Raises:
            ProtocolError, ConnectionFailed: what ended it, unless that was a closing handshake.
            TimeoutError: nothing was heard for too long.
        """
        connection = self._connection
        try:
            while monotonic() - connection.last_heard < self._timeout:
                for opcode, payload in connection.receive(self._timeout):
                    yield opcode, payload.encode() if isinstance(payload, str) else payload
        except ConnectionEnded as ended:
            if ended.error is not None:
                raise ended.error from None
            return
        raise TimeoutError("the server is silent")

    def send(self, payload: bytes, opcode: int) -> None:
        self._connection.send(payload, opcode, self._timeout)

    def close(self) -> None:
        self._connection.end()
