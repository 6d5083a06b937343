"""A transport without a socket, whose peer says what the fuzzer wants and then is gone."""

from __future__ import annotations

__all__ = ["Peer"]


class Peer:
    """What `fastpos.net.transport.Transport` is to its users.

    Args:
        data: what the peer says.
        size: at most so many bytes are read at once; 0: all that there is.
    """

    def __init__(self, data: bytes, size: int = 0) -> None:
        self.left = data
        self.sent: list[bytes] = []
        self.closed = False
        self._size = size or len(data)

    def read_into(self, view: memoryview, ciphertext: memoryview | None = None) -> int:
        count = min(len(view), len(self.left), self._size)
        if not count:
            raise EOFError("the peer ended the connection")
        view[:count], self.left = self.left[:count], self.left[count:]
        return count

    def wait(self, timeout: float) -> bool:
        return True

    def send(self, data: bytes, timeout: float) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.closed = True

    def shutdown(self) -> None:
        self.left = b""

    def unread(self) -> bool:
        return bool(self.left)
