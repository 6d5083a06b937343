"""Credentials and replies as texts, and that no credential comes out again."""

from __future__ import annotations

import json
import logging
import socket
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastpos import (
    AuthenticationError,
    ConnectionFailed,
    Disconnect,
    PositionStream,
    ReconnectPolicy,
)
from fastpos.model.exchange import CONNECTED, SUBSCRIBED
from fastpos.wire.credential import Credential, read_reply

from .servers import TEXT, ScriptedServer, accept_upgrade, frame, frames, read_frame

SECRET = "bQ9/xT2+mW7rL4kZ8cV1nJ6pF3sD5gH0=="


# --- credentials ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "header", "key"), [("token", "token", "token"), ("api_key", "api-key", "apiKey")]
)
def test_where_a_credential_goes(kind: str, header: str, key: str) -> None:
    credential = Credential(kind, SECRET)
    assert credential.header == header
    assert credential.get() == SECRET
    for event in ("sub", "unsub"):
        message = json.loads(credential.message(event, SECRET, 1003))
        assert message == {"event": event, key: SECRET, "broker": 1003}
        assert type(message["broker"]) is int


def test_a_message_is_json_whatever_is_in_the_credential() -> None:
    odd = "\"\\{}'</script>%s"
    message = Credential("token", odd).message("sub", odd, 1)
    assert json.loads(message)["token"] == odd


def test_a_callable_is_asked_each_time() -> None:
    values = iter(["one", "two", "three"])
    credential = Credential("token", lambda: next(values))
    assert [credential.get() for _ in range(3)] == ["one", "two", "three"]


@pytest.mark.parametrize("value", [None, b"key", 5, "", "a\nb", " a", "a ", "é", "\0"], ids=ascii)
@pytest.mark.parametrize("kind", ["token", "api_key"])
def test_a_callable_that_gives_something_unusable(kind: str, value: Any) -> None:
    credential = Credential(kind, lambda: value)
    with pytest.raises(ConnectionFailed, match=kind):
        credential.get()


def test_a_callable_that_raises() -> None:
    values = [SECRET]

    def log_in() -> str:
        if not values:
            raise OSError(f"the login answered {SECRET}")
        return values.pop()

    credential = Credential("token", log_in)
    assert credential.get() == SECRET
    with pytest.raises(ConnectionFailed, match="token") as caught:
        credential.get()
    assert isinstance(caught.value.__cause__, OSError)
    assert SECRET not in str(caught.value)
    assert "the login answered" in str(caught.value)


def test_what_a_callable_raises_to_end_the_program_is_not_caught() -> None:
    def leave() -> str:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Credential("token", leave).get()


def test_a_credential_is_not_shown() -> None:
    credential = Credential("token", SECRET)
    credential.get()
    assert SECRET not in repr(credential)
    assert SECRET not in str(credential)


def test_the_credential_before_the_last_is_hidden_too() -> None:
    values = iter(["first-secret", "second-secret"])
    credential = Credential("token", lambda: next(values))
    credential.get()
    credential.get()
    assert credential.hide("a first-secret, a second-secret") == "a ***, a ***"


@pytest.mark.parametrize("odd", ['q"uo"ted-secret', "back\\slash-secret", "sla/shed-secret"])
def test_a_credential_is_hidden_as_json_spells_it(odd: str) -> None:
    credential = Credential("token", odd)
    credential.get()
    spellings = {json.dumps(odd), json.dumps(odd).replace("/", "\\/")}
    for spelling in spellings:
        assert "secret" not in credential.hide(f'{{"token":{spelling}}}')


@given(st.text(max_size=30), st.text(max_size=30))
@settings(max_examples=50, deadline=None)
def test_hiding_changes_nothing_else(before: str, after: str) -> None:
    credential = Credential("token", SECRET)
    assert credential.hide(before + after) == before + after
    credential.get()
    assert credential.hide(before + SECRET + after) == f"{before}***{after}"


# --- replies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [CONNECTED, SUBSCRIBED])
@pytest.mark.parametrize("wrapped", ["{}", '"{}"', " {} \r\n", '"{}"\n', ' " {} " ', "\t{}"])
def test_replies_in_all_wrappings(words: str, wrapped: str) -> None:
    assert read_reply(wrapped.format(words).encode()) == words
    assert read_reply(wrapped.format(words.title()).encode()) == words


def test_other_replies_are_passed_on_shortened() -> None:
    assert read_reply(b"sub failed") == "sub failed"
    assert read_reply(b'{"code":-1,"msg":"Bad Token"}') == '{"code":-1,"msg":"Bad Token"}'
    assert read_reply(b"") == ""
    assert read_reply(b"sub success!") != SUBSCRIBED
    assert read_reply(b"no sub success") != SUBSCRIBED


@given(st.binary(max_size=500))
@settings(max_examples=100, deadline=None)
def test_any_reply_is_text(data: bytes) -> None:
    assert isinstance(read_reply(data), str)


# --- what a server says back ----------------------------------------------------------------------


class Heard:
    """All that a user can see of a stream's troubles."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def error(self, error: BaseException) -> None:
        self.texts += [repr(error), str(error), repr(vars(error))]
        for link in (error.__cause__, error.__context__):
            if link is not None:
                self.error(link)

    def disconnect(self, event: Disconnect) -> None:
        self.texts.append(repr(event))
        if event.error is not None:
            self.error(event.error)


def pieces_of(secret: str) -> list[str]:
    """Parts of the credential of 10 characters, as a shortened text could show."""
    return [secret[start : start + 10] for start in range(0, len(secret) - 10, 5)]


def assert_not_shown(secret: str, texts: list[str]) -> None:
    everything = "\n".join(texts)
    assert [piece for piece in pieces_of(secret) if piece in everything] == []


def stream_to(server: ScriptedServer, heard: Heard, secret: str) -> PositionStream:
    return PositionStream(
        server.url,
        token=secret,
        broker=1,
        proxy="",
        reconnect=ReconnectPolicy(initial=0),
        on_error=heard.error,
        on_disconnect=heard.disconnect,
    )


@pytest.mark.parametrize("length", [34, 180, 400, 2000])
@pytest.mark.parametrize("before", ["", "refused: ", "x" * 150])
def test_a_refusal_that_repeats_the_subscription(
    length: int, before: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A token can be longer than what is shown of a reply, and may be cut in the middle."""
    secret = "".join(f"{number:x}." for number in range(10_000, 12_000))[:length]

    def handler(connection: socket.socket) -> None:
        accept_upgrade(connection, frame(TEXT, CONNECTED.encode()))
        said = read_frame(connection).payload
        connection.sendall(frame(TEXT, before.encode() + said))
        for _ in frames(connection):
            pass

    heard = Heard()
    with caplog.at_level(logging.DEBUG), ScriptedServer(handler) as server:
        stream = stream_to(server, heard, secret)
        with pytest.raises(AuthenticationError) as caught:
            stream.run_forever()
    heard.error(caught.value)
    assert_not_shown(secret, [*heard.texts, caplog.text, repr(stream.stats)])
    assert len(heard.texts) > 3


@pytest.mark.parametrize("spaces", [0, 280])
def test_a_message_that_repeats_the_subscription_later(
    spaces: int, caplog: pytest.LogCaptureFixture
) -> None:
    """It is no push, and is reported with the bytes that came."""
    secret = SECRET

    def handler(connection: socket.socket) -> None:
        accept_upgrade(connection, frame(TEXT, CONNECTED.encode()))
        said = read_frame(connection).payload
        connection.sendall(frame(TEXT, SUBSCRIBED.encode()))
        connection.sendall(frame(TEXT, b" " * spaces + said))
        for _ in frames(connection):
            pass

    heard = Heard()

    def report(error: BaseException) -> None:
        heard.error(error)
        stream.stop()

    with caplog.at_level(logging.DEBUG), ScriptedServer(handler) as server:
        stream = stream_to(server, heard, secret)
        stream.on_error = report
        stream.run_forever()
    assert heard.texts
    assert_not_shown(secret, [*heard.texts, caplog.text])
