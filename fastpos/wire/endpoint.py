"""Our end of a WebSocket connection (RFC 6455), without I/O: messages in and out, control frames.

A ping is answered here and a close frame is echoed (sections 5.5.2, 5.5.1). Once our close frame
is on its way nothing follows it, and once the peer's was read nothing is given any more (section
7.1). What breaks the protocol is answered with a close frame of the code that the RFC names for
it, and raised (section 7.1.7).

The frames that we send are websocket-client's, which masks them; it is imported with the first,
as that takes longer than all of this package.
"""

from __future__ import annotations

from ..errors import ProtocolError
from .frames import CLOSE, PING, PONG, TEXT, FrameParser, Message, parse_close
from .inflate import Splitter

__all__ = ["Endpoint"]

NO_CODE = 1005  # what `parse_close` gives for a close frame without one


class Endpoint(FrameParser):
    """A client's end of one connection, without extensions.

    Args:
        max_message_size: see `FrameParser`.
        splitter: see `FrameParser`.
    """

    __slots__ = ("_closing", "outgoing")

    def __init__(self, max_message_size: int, splitter: Splitter | None = None) -> None:
        super().__init__(max_message_size, splitter)
        self._closing = False
        self.outgoing: list[bytes] = []
        """The frames that are to be sent, which `data_to_send` takes."""

    def next_message(self) -> Message | None:
        """Give the next data message, or the peer's CLOSE; None when there is no more.

        Raises:
            ProtocolError: the peer broke the protocol, and is told so.
        """
        try:
            while (message := super().next_message()) is not None:
                opcode, payload = message
                if opcode == PING:
                    self.send(payload, PONG)
                elif opcode == CLOSE:
                    code, _ = parse_close(payload)
                    self.close(None if code == NO_CODE else code)
                    return message
                elif opcode != PONG:
                    return message
        except ProtocolError as error:
            self.close(error.close_code)
            raise
        return None

    def send(self, payload: str | bytes, opcode: int = TEXT) -> None:
        """Send a message: str for TEXT, bytes for any other. Nothing after a close frame."""
        from websocket import ABNF  # noqa: PLC0415 -- see the top

        if not self._closing:
            self.outgoing.append(ABNF.create_frame(payload, opcode).format())

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Send a close frame, once; None: without a code."""
        payload = b"" if code is None else code.to_bytes(2, "big") + reason.encode()
        self.send(payload, CLOSE)
        self._closing = True

    def data_to_send(self) -> bytes:
        """Give the bytes that are to be sent, once."""
        data = b"".join(self.outgoing)
        self.outgoing.clear()
        return data
