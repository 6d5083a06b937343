"""A stream after the upgrade: greeting, subscription, pongs, pushes, from any bytes of the wire.

Everything between the socket and the user's functions runs, without a socket and without threads.
An input is one byte that says how the wire is cut, and the wire. What comes of it must be the same
with the C extension and whole, and without it and in pieces; and it must be what a plain reading of
the messages (`frames.reference`, `decoder.is_push`) says.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import orjson

import fastpos.wire.decoder
from fastpos import FastposError, PositionStream, SubscriptionError
from fastpos.model.exchange import CONNECTED, SUBSCRIBED
from fastpos.net.connection import Connection, ConnectionEnded
from fastpos.runtime.callbacks import CALLBACK_NAMES
from fastpos.wire.credential import SHOWN, read_reply
from fastpos.wire.frames import PING
from fastpos.wire.inflate import inflate_pure, new_splitter
from tests.fuzz.decoder import is_push, same_inflated
from tests.fuzz.frames import reference
from tests.fuzz.mutators import mutate_wire
from tests.fuzz.peer import Peer
from tests.support.frames import BINARY, CLOSE, PONG, TEXT, close_frame, frame
from tests.support.pushes import NAMES, REAL, packed, text_of

__all__ = ["mutate", "one", "seeds"]

LIMIT = 64 * 1024
SECRET = "fuzzed-api-key-5d0c7e"
SUB = json.dumps({"event": "sub", "apiKey": SECRET, "broker": 1003})


def one(data: bytes) -> None:
    if not data:
        return
    size, wire = data[0] or 1, data[1:]
    whole = Run(wire, 0, pure=False)
    cut = Run(wire, size, pure=True)
    assert whole.told == cut.told, f"{whole.told} instead of {cut.told}"
    assert whole.said == cut.said
    assert whole.counted == cut.counted
    if whole.ended[0] is not SubscriptionError:  # counted with those that were read with it
        assert whole.messages == cut.messages
    judge(whole, wire)


class Run:
    """One connection's life, up to its end."""

    def __init__(self, wire: bytes, size: int, pure: bool) -> None:
        self.told: list[tuple[str, Any]] = []
        """(callback's name, what it was called with), errors as their args."""
        functions: dict[str, Any] = {name: self._function(name) for name in CALLBACK_NAMES}
        stream = PositionStream(
            "ws://127.0.0.1/",
            api_key=SECRET,
            broker=1003,
            proxy="",
            max_message_size=LIMIT,
            **functions,
        )
        reader, credential = stream._reader, stream._settings.credential
        peer = Peer(wire, size)
        connection = Connection(
            "ws://127.0.0.1/",
            max_message_size=LIMIT,
            splitter=None if pure else new_splitter(),
            hide=credential.hide,
        )
        connection._transport = peer  # type: ignore[assignment]
        reader._value = credential.get()
        reader._connection = connection
        reader._phase = 1  # waits for the greeting
        ended: Exception
        with in_python() if pure else at_will():
            try:
                reader._read(connection)
            except (ConnectionEnded, SubscriptionError) as error:
                ended = error
        self.ended = type(ended), str(ended), getattr(ended, "close_code", None)
        self.told.append(("ended", self.ended))
        self.said = [unmasked(sent) for sent in peer.sent]
        stats = stream.stats
        self.messages = stats.messages
        self.counted = stats.events, stats.decode_errors, stats.subscriptions
        shown = "\n".join([repr(self.told), repr(stream), repr(stats), str(ended.__cause__)])
        assert SECRET not in shown

    def _function(self, name: str) -> Any:
        def record(event: Any) -> None:
            what = event.args if isinstance(event, FastposError) else event
            if name == "on_ready":  # tells the time
                what = event.first, event.attempts
            self.told.append((name, what))

        return record

    def count(self, name: str) -> int:
        return sum(called == name for called, _ in self.told)


@contextmanager
def at_will() -> Iterator[None]:
    yield


@contextmanager
def in_python() -> Iterator[None]:
    """Without the C extension, as FASTPOS_PURE does it."""
    native = fastpos.wire.decoder.inflate  # type: ignore[attr-defined]
    fastpos.wire.decoder.inflate = inflate_pure  # type: ignore[attr-defined]
    try:
        yield
    finally:
        fastpos.wire.decoder.inflate = native  # type: ignore[attr-defined]


def unmasked(sent: bytes) -> tuple[int, bytes]:
    """Opcode and payload of a short frame of ours."""
    assert sent[1] & 0x80
    length, header = sent[1] & 127, 2
    if length == 126:
        length, header = int.from_bytes(sent[2:4], "big"), 4
    key, payload = sent[header : header + 4], sent[header + 4 :]
    assert len(payload) == length
    return sent[0], bytes(byte ^ key[i % 4] for i, byte in enumerate(payload))


def judge(run: Run, wire: bytes) -> None:
    """What the stream has made of the wire is what is in it."""
    messages, code = reference(wire, LIMIT)
    pings = [(0x80 | PONG, payload) for opcode, payload in messages if opcode == PING]
    texts = [payload for opcode, payload in messages if opcode in (TEXT, BINARY)]
    contents = [content_of(payload) for payload in texts]
    words = [said(content) for content in contents]
    pushes = sum(content is not None and is_push(content) for content in contents)

    sent = [frame for frame in run.said if frame[0] == 0x80 | TEXT]
    assert sent in ([], [(0x80 | TEXT, SUB.encode())])
    assert run.count("on_ready") <= len(sent)
    if sent:
        assert CONNECTED in words
    if run.count("on_ready"):
        assert SUBSCRIBED in words[words.index(CONNECTED) :]
    kind, reason, close_code = run.ended
    events, errors, _ = run.counted
    assert (kind is SubscriptionError) == refused(words)
    if kind is SubscriptionError:
        assert run.messages <= len(texts)
        assert sum(events.values()) <= pushes
        return
    # It was read to its end: every message is accounted for.
    assert run.messages == len(texts)
    assert sum(events.values()) == pushes
    assert errors == run.count("on_error") <= len(texts) - pushes
    assert [frame for frame in run.said if frame[0] == 0x80 | PONG] == pings
    closing = [frame for frame in run.said if frame[0] == 0x80 | CLOSE]
    if code is not None:
        assert reason.startswith("protocol error")
        assert closing == [(0x80 | CLOSE, code.to_bytes(2, "big"))]
    elif messages and messages[-1][0] == CLOSE:
        payload = messages[-1][1]
        assert close_code == (int.from_bytes(payload[:2], "big") or 1005)
        assert closing == [(0x80 | CLOSE, payload[:2])]
    else:
        assert reason == "the connection was lost: the peer ended the connection"
        assert closing == []


def content_of(payload: Any) -> bytes | None:
    """The text of a message however it was sent, None where it is damaged."""
    if isinstance(payload, str):
        return payload.encode()
    if payload[:2] == b"\x1f\x8b":
        return same_inflated(payload, LIMIT)
    # A push that is not compressed is none.
    return None if b'"channel"' in payload else bytes(payload)


def said(content: bytes | None) -> str:
    """A reply in lower case and out of its wrapping; "" for a push, a pong or what is damaged."""
    if content is None or is_push(content):
        return ""
    try:
        value = orjson.loads(content)
    except ValueError:  # an object is a push of the wrong shape, or half of one
        if content.lstrip()[:1] == b"{":
            return ""
    else:
        if isinstance(value, dict) and ("pong" in value or "channel" in value):
            return ""
    assert len(read_reply(content)) <= SHOWN
    text = content.decode("utf-8", "replace").lower()
    wrapped = re.fullmatch(r'\s*"*\s*(connect success|sub success)\s*"*\s*', text)
    return wrapped[1] if wrapped else f"other: {text}"


def refused(words: list[str]) -> bool:
    """Whether these replies, one after the other, end the connection."""
    replies = [word for word in words if word]
    if not replies or replies[0] != CONNECTED:
        return bool(replies)
    for word in replies[1:]:
        if word != CONNECTED:
            return word != SUBSCRIBED
    return False


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    return data[:1] + mutate_wire(data[1:], max(max_size - 1, 1), seed)


def seeds() -> list[bytes]:
    greeted = frame(TEXT, b"connect success")
    ready = greeted + frame(TEXT, b"sub success")
    pushes = [frame(BINARY, packed(text_of(name))) for name in NAMES]
    wires = [
        ready + b"".join(pushes) + frame(BINARY, REAL),
        *(ready + push for push in pushes),
        ready + frame(TEXT, b'{"pong":1713338308233}') + frame(BINARY, packed(b'{"pong":1}')),
        frame(TEXT, b'"connect success"') + frame(BINARY, b"Sub Success\r\n"),
        frame(BINARY, packed(b"connect success")) + frame(BINARY, packed(b'"sub success"')),
        greeted + pushes[0] + frame(TEXT, b"sub failed"),
        greeted + frame(TEXT, SUB.encode()),
        greeted + frame(TEXT, b"unsub success"),
        greeted + frame(TEXT, b' {"channel":"order"}') + frame(TEXT, b"sub success"),
        greeted + frame(TEXT, b"sub success!"),
        greeted + frame(BINARY, b"[1]") + frame(TEXT, b"sub success"),
        frame(TEXT, b"no such key " + SECRET.encode()),
        ready + frame(TEXT, SUB.encode()) + frame(TEXT, text_of("order")),
        ready + close_frame(1008, b"bad key " + SECRET.encode()),
        ready + frame(9, b"ping") + frame(TEXT, b"\xff"),
        ready + frame(BINARY, text_of("order")) + frame(BINARY, packed(b'{"channel":5}')),
        ready + frame(TEXT, b"[]") + frame(TEXT, b'{"channel":"SYSTEM","et":"close"}'),
        ready + frame(BINARY, REAL[:-1]) + frame(BINARY, b"") + greeted + close_frame(),
    ]
    return [bytes([1 + 9 * i]) + wire for i, wire in enumerate(wires)]
