"""What the tests of the WebSocket layer share: a connection that is opened, read and put away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, TypeVar

from fastpos.net.connection import Connection, ConnectionEnded
from fastpos.wire.frames import Message

__all__ = ["at_once", "concurrently", "opened", "read_until_end", "take"]

T = TypeVar("T")


@contextmanager
def opened(url: str, **options: Any) -> Iterator[Connection]:
    connection = Connection(url, **options)
    try:
        connection.open()
        yield connection
    finally:
        connection.end()


def take(connection: Connection, count: int, timeout: float = 10.0) -> list[Message]:
    """The next `count` messages."""
    messages: list[Message] = []
    deadline = time.monotonic() + timeout
    while len(messages) < count:
        remaining = deadline - time.monotonic()
        assert remaining > 0, f"{len(messages)} messages in {timeout} s, not {count}"
        messages += connection.receive(remaining)
    assert len(messages) == count
    return messages


def read_until_end(connection: Connection) -> tuple[list[Message], ConnectionEnded]:
    """All messages, and how the connection ended."""
    messages: list[Message] = []
    while True:
        try:
            for message in connection.receive():
                messages.append(message)
        except ConnectionEnded as ended:
            return messages, ended


@contextmanager
def at_once(seconds: float = 3.0) -> Iterator[None]:
    """The block takes no longer, on a busy machine either."""
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
