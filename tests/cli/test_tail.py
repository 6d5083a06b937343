"""`fastpos tail`: what is published of a stream, as lines."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("redis")

from fastpos import PositionStream
from fastpos.redis import Publisher
from fastpos.simulator import Exchange
from tests.support.programs import interrupted, read_until, run, started
from tests.support.recording import until
from tests.support.redis_server import RedisServer
from tests.support.rig import kept_port


def publishing(exchange: Exchange, redis: RedisServer) -> PositionStream:
    return PositionStream(
        exchange.url,
        api_key=exchange.api_key,
        broker=exchange.broker,
        name="alice",
        publisher=Publisher(redis.url),
    )


def test_it_prints_what_is_open_and_what_comes_until_it_is_interrupted() -> None:
    with RedisServer() as redis, Exchange() as exchange, publishing(exchange, redis) as stream:
        assert stream.wait_ready(5)
        position = exchange.open_position()
        with started("tail", redis.url, "alice") as process:
            read_until(process, "subscribed")
            exchange.place_order()
            read_until(process, "Order ")
            exchange.close_position(position)
            assert "DELETE" in read_until(process, "DELETE")
            assert interrupted(process) == (0, "")


def test_in_a_group_it_goes_on_where_the_last_one_stopped() -> None:
    words = ("--group", "risk", "--consumer", "one")
    with RedisServer() as redis, Exchange() as exchange, publishing(exchange, redis) as stream:
        assert stream.wait_ready(5)
        with started("tail", redis.url, "alice", *words) as process:
            read_until(process, "subscribed")
            first = exchange.place_order()
            read_until(process, first)
            with redis.client() as client:  # else what was printed is printed again
                until(lambda: client.xpending("fastpos:{alice}:events", "risk")["pending"] == 0)
            assert interrupted(process) == (0, "")
        second = exchange.place_order()
        with started("tail", redis.url, "alice", *words) as process:
            output = read_until(process, second)
            assert first not in output


def test_what_a_reader_that_has_gone_was_not_shown_is_left_to_the_group() -> None:
    words = ("--group", "risk", "--consumer", "one")
    with RedisServer() as redis, Exchange() as exchange, publishing(exchange, redis) as stream:
        assert stream.wait_ready(5)
        with started("tail", redis.url, "alice", *words) as process:
            read_until(process, "subscribed")
            assert process.stdout is not None
            process.stdout.close()
            lost = exchange.place_order()
            assert process.wait(20) == 1
            assert process.stderr is not None
            assert process.stderr.read() == ""
            process.stdout = None
        with started("tail", redis.url, "alice", *words) as process:
            assert lost in read_until(process, lost)


def test_the_url_may_be_in_the_environment() -> None:
    with kept_port() as port:
        url = f"redis://:secret@127.0.0.1:{port}/0"
        for words in (("alice",), ("--group", "risk", "alice"), ("alice", "--prefix", "x")):
            with started("tail", *words, FASTPOS_REDIS_URL=url) as process:
                told = read_until(process, "Disconnect")
                assert "127.0.0.1" in told
                assert "secret" not in told
                _, errors = interrupted(process)
                assert "secret" not in errors
    with RedisServer() as redis, started("tail", redis.url, "alice", FASTPOS_REDIS_URL=url) as one:
        read_until(one, "Stale")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("tail", "alice"), "FASTPOS_REDIS_URL"),
        (("tail", "redis://:secret@h"), "NAME"),
        (("tail", "alice", "redis://:secret@h"), "NAME"),
        (("tail", "redis://:secret@h", "alice", "bob"), "NAME"),
        (("tail", "redis://user:secret@h:no-port", "alice"), "can't be used"),
        (("tail", "rediss+sentinel://:secret@h", "alice"), "not supported"),
        (("tail", "redis://:secret@h", "al\tice"), "name"),
        (("status", "redis://user:secret@h"), "unrecognized"),
        (("status",), "FASTPOS_REDIS_URL"),
        (("status", "--redis", "http://user:secret@h"), "must begin with"),
    ],
)
def test_what_is_wrong_is_told_and_no_password(words: tuple[str, ...], told: str) -> None:
    done = run(*words)
    assert done.returncode in (1, 2)
    assert told in done.stderr
    assert "secret" not in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


def test_what_can_not_be_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    done = run("tail", "http://127.0.0.1/", "alice")
    assert (done.returncode, done.stdout) == (2, "")
    assert "redis://" in done.stderr
    with (
        kept_port() as port,
        started("tail", f"redis://127.0.0.1:{port}/0", "alice") as process,
    ):
        assert "is away" in read_until(process, "Disconnect")
        interrupted(process)


def test_on_a_terminal_it_is_the_table_that_watch_shows() -> None:
    pytest.importorskip("termios")
    from tests.support.screen import ScreenProgram  # noqa: PLC0415 -- not on Windows

    with RedisServer() as redis, Exchange() as exchange, publishing(exchange, redis) as stream:
        assert stream.wait_ready(5)
        exchange.open_position()
        with ScreenProgram("tail", redis.url, "alice") as program:
            program.read_until("fastpos alice redis://", "● SUBSCRIBED", "E-BTC-USDT BUY")
            program.type("q")
            assert program.end() == 0


def test_it_gives_an_object_an_event_too() -> None:
    with RedisServer() as redis, Exchange() as exchange, publishing(exchange, redis) as stream:
        assert stream.wait_ready(5)
        exchange.open_position()
        with redis.client() as client:  # or it comes after what is open

            def is_published() -> bool:
                return "E-BTC-USDT" in str(client.xrevrange("fastpos:{alice}:events"))

            until(is_published)
        with started("tail", redis.url, "alice", "--json") as process:
            output = read_until(process, '"event": "ready"')
            assert interrupted(process) == (0, "")
    first = json.loads(output.splitlines()[0])
    assert (first["stream"], first["event"], first["change"]) == ("alice", "position", "CREATE")
