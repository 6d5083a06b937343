"""A session from the greeting to its end, from any bytes of the wire.

An input is one byte that says how the wire is cut, and the wire. What comes of it must be the same
with the C extension and whole, and without it and in pieces; and nothing of it may be missing.
"""

from __future__ import annotations

import json
from typing import Any

from fastpos import ConnectionFailed, ProtocolError, SubscriptionError
from fastpos.wire.credential import Credential
from fastpos.wire.frames import PING, split_pure
from fastpos.wire.inflate import inflate_pure, new_splitter
from fastpos.wire.session import Closed, Pushes, Session, Subscribed, Timing, Undecodable
from tests.fuzz.frames import parse
from tests.fuzz.mutators import mutate_wire
from tests.support.frames import BINARY, CLOSE, PONG, TEXT, frames_in
from tests.support.sessions import fed

LIMIT = 64 * 1024
SECRET = "fuzzed-api-key-5d0c7e"
SUB = json.dumps({"event": "sub", "apiKey": SECRET, "broker": 1003}).encode()


def one(data: bytes) -> None:
    if not data:
        return
    size, wire = data[0] or 1, data[1:]
    whole = Run(wire, len(wire), pure=False)
    cut = Run(wire, size, pure=True)
    assert whole.told == cut.told, f"{whole.told} instead of {cut.told}"
    assert whole.said == cut.said
    if not isinstance(whole.ended.error, SubscriptionError):  # counted with what was read with it
        assert whole.messages == cut.messages
    judge(whole, wire)


class Run:
    """One connection's life, up to its end."""

    def __init__(self, wire: bytes, size: int, pure: bool) -> None:
        credential = Credential("api_key", SECRET)
        session = Session(
            credential,
            credential.get(),
            1003,
            Timing(),
            0.0,
            max_message_size=LIMIT,
            splitter=split_pure if pure else new_splitter(),
        )
        self.told: list[tuple[str, Any]] = []
        """(event's name, what is in it), pushes one by one."""
        events = fed(session, wire, size=size)
        lost = session.lost(EOFError("the peer ended the connection"), 0.0)
        for event in events if lost is None else [*events, lost]:
            if isinstance(event, Closed):
                self.ended = event
            elif isinstance(event, Pushes):
                self.told += [("Pushes", text) for text in event.texts]
            elif isinstance(event, Undecodable):
                self.told.append(("Undecodable", event.error.args))
            else:
                self.told.append((type(event).__name__, None))
        ended = self.ended
        self.told.append(("Closed", (ended.reason, ended.close_code, repr(ended.error))))
        sent = frames_in(session.data_to_send())
        self.said = [(0x80 * frame.fin | frame.opcode, frame.payload) for frame in sent]
        self.messages = session.messages
        # A push is handed on as it is; of all else nothing shows the credential.
        assert SECRET not in repr([what for what in self.told if what[0] != "Pushes"])

    def count(self, kind: type) -> int:
        return sum(name == kind.__name__ for name, _ in self.told)


def judge(run: Run, wire: bytes) -> None:
    """What holds of any conversation, whatever the exchange's words mean."""
    messages, code = parse(wire, LIMIT)
    texts = [content_of(payload) for opcode, payload in messages if opcode in (TEXT, BINARY)]
    pings = [(0x80 | PONG, payload) for opcode, payload in messages if opcode == PING]
    requests = [data for first, data in run.said if first == 0x80 | TEXT and data[:7] == SUB[:7]]
    closing = [frame for frame in run.said if frame[0] == 0x80 | CLOSE]
    delivered = [text for name, text in run.told if name == "Pushes"]
    assert requests in ([], [SUB])
    assert run.count(Subscribed) <= len(requests)
    left = iter(texts)
    assert all(text in left for text in delivered)  # as they came, in their order
    if isinstance(run.ended.error, SubscriptionError):
        return
    # It was read to its end: nothing is missing.
    assert run.messages == len(texts)
    pushes = [text for text in texts if text is not None and text[:11] == b'{"channel":']
    assert set(pushes) <= set(delivered)
    assert run.count(Undecodable) >= texts.count(None)
    assert [frame for frame in run.said if frame[0] == 0x80 | PONG] == pings
    if code is not None:
        assert isinstance(run.ended.error, ProtocolError)
        assert closing == [(0x80 | CLOSE, code.to_bytes(2, "big"))]
    elif messages and messages[-1][0] == CLOSE:
        payload = messages[-1][1]
        assert run.ended.close_code == (int.from_bytes(payload[:2], "big") or 1005)
        assert closing == [(0x80 | CLOSE, payload[:2])]
    else:
        assert isinstance(run.ended.error, ConnectionFailed)
        assert closing == []


def content_of(payload: str | bytes) -> bytes | None:
    """The text of a message however it was sent, None where it is a damaged gzip member."""
    if isinstance(payload, str):
        return payload.encode()
    if payload[:2] != b"\x1f\x8b":
        return payload
    try:
        return inflate_pure(payload, LIMIT)
    except ValueError:
        return None


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    return data[:1] + mutate_wire(data[1:], max(max_size - 1, 1), seed)
