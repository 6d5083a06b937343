"""What the tests of the WebSocket layer share: a connection that is opened, read and put away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import pytest

from fastpos.errors import ConnectionFailed, FastposError, ProtocolError
from fastpos.net.connection import Connection
from fastpos.wire.endpoint import Endpoint
from fastpos.wire.frames import CLOSE, TEXT, Message, parse_close
from fastpos.wire.inflate import Splitter
from fastpos.wire.scratch import SCRATCH_SIZE

T = TypeVar("T")


class Ended(Exception):
    """A connection has ended, and how."""

    def __init__(self, reason: str, close_code: int | None, error: FastposError | None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.close_code = close_code
        self.error = error


class Client:
    """A connection and a WebSocket endpoint on it, and nothing that knows of an exchange."""

    def __init__(
        self,
        url: str,
        *,
        max_message_size: int = 1024 * 1024,
        splitter: Splitter | None = None,
        **options: Any,
    ) -> None:
        self.connection = Connection(url, **options)
        self._endpoint = Endpoint(max_message_size, splitter)
        self._scratch = memoryview(bytearray(SCRATCH_SIZE))
        self._ciphertext = memoryview(bytearray(SCRATCH_SIZE))
        self._sending = threading.Lock()
        self._waiting = False
        self.reads = 0
        self.bytes_received = 0

    def open(self) -> None:
        self.connection.open()

    def end(self) -> None:
        self.connection.end()

    def silent(self) -> bool:
        """Whether somebody waits in `receive`, and there is nothing to be read."""
        return self._waiting and not self.connection.unread()

    def receive(self, timeout: float | None = None) -> Iterator[Message]:
        """Read once; the messages that are complete with it. Raises Ended."""
        view = self._endpoint.writable(self._scratch)
        self._waiting = True
        try:
            if timeout is not None and not self.connection.wait(timeout):
                return
            count = self.connection.read_into(view, self._ciphertext)
        except (EOFError, OSError) as error:
            reason = f"the connection was lost: {error}"
            raise Ended(reason, None, ConnectionFailed(reason)) from error
        finally:
            self._waiting = False
        self.reads += 1
        self.bytes_received += count
        self._endpoint.wrote(count)
        try:
            while (message := self._endpoint.next_message()) is not None:
                if message[0] == CLOSE:
                    self._flush()
                    self.connection.drain(time.monotonic() + 1, self._scratch)
                    code, reason = parse_close(message[1])
                    raise Ended(f"closed by the server with code {code}: {reason}", code, None)
                yield message
        except ProtocolError as error:
            self._flush()
            self.connection.drain(time.monotonic() + 1, self._scratch)
            raise Ended(f"protocol error: {error}", None, error) from error
        self._flush()

    def send(self, payload: str | bytes, opcode: int = TEXT, timeout: float = 0.0) -> None:
        with self._sending:
            self._endpoint.send(payload, opcode)
            data = self._endpoint.data_to_send()
        self.connection.send(data, timeout)

    def close(self, code: int | None = 1000, reason: str = "") -> None:
        with self._sending:
            self._endpoint.close(code, reason)
        self._flush()

    def _flush(self) -> None:
        with self._sending, suppress(OSError):
            self.connection.send(self._endpoint.data_to_send())


@contextmanager
def opened(url: str, **options: Any) -> Iterator[Client]:
    client = Client(url, **options)
    try:
        client.open()
        yield client
    finally:
        client.end()


def refusal(url: str, seconds: float = 6.0, **options: Any) -> FastposError:
    """What opening raises, which must not take long."""
    connection = Connection(url, {"api-key": "s3cret"}, **options)
    with at_once(seconds), pytest.raises(FastposError) as raised:
        connection.open()
    connection.end()
    return raised.value


def take(client: Client, count: int, timeout: float = 10.0) -> list[Message]:
    """The next `count` messages."""
    messages: list[Message] = []
    deadline = time.monotonic() + timeout
    while len(messages) < count:
        remaining = deadline - time.monotonic()
        assert remaining > 0, f"{len(messages)} messages in {timeout} s, not {count}"
        messages += client.receive(remaining)
    assert len(messages) == count
    return messages


def read_until_end(client: Client) -> tuple[list[Message], Ended]:
    """All messages, and how the connection ended."""
    messages: list[Message] = []
    while True:
        try:
            for message in client.receive():
                messages.append(message)
        except Ended as ended:
            return messages, ended


@contextmanager
def at_once(seconds: float = 6.0) -> Iterator[None]:
    """The block takes no longer, on a busy machine either: it waits for no time-out."""
    started = time.monotonic()
    yield
    assert time.monotonic() - started < seconds


@contextmanager
def concurrently(function: Callable[[], T]) -> Iterator[Future[T]]:
    """Runs `function` in a thread; what it raises is raised when the block ends, too."""
    done: Future[T] = Future()

    def run() -> None:
        try:
            done.set_result(function())
        except BaseException as error:
            done.set_exception(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield done
    finally:
        thread.join(20)
    assert not thread.is_alive()
    done.result(0)
