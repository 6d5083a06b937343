"""`Publisher`: what a stream is sent is in a real Redis, once and in order, whatever happens."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from fastpos import Fleet, PositionStream
from fastpos.errors import JournalError, PublisherError
from fastpos.journal import Journal, replay
from fastpos.journal import recorder as lines
from fastpos.redis import Publisher
from fastpos.redis.files import Files
from fastpos.redis.memory import Memory
from fastpos.simulator import Exchange
from fastpos.wire.credential import Credential
from tests.support.certificates import Certificates
from tests.support.network import TcpProxy
from tests.support.recording import Recorder, logged, until
from tests.support.redis_server import RedisServer
from tests.support.rig import LOOPBACK, free_port

NewStream = Callable[..., PositionStream]

pytestmark = [pytest.mark.timeout(60)]


@pytest.fixture(scope="module")
def shared() -> Iterator[RedisServer]:
    """A server for the tests that do it no harm."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def server(shared: RedisServer) -> RedisServer:
    with shared.client() as client:
        client.flushall()
        client.config_resetstat()
    return shared


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A server that a test may kill; what it holds survives that."""
    with RedisServer(persistent=True) as server:
        yield server


def entries(server: RedisServer, name: str = "alice") -> list[tuple[str, str, dict[str, Any]]]:
    """What is published: id, kind and record of each."""
    with server.client() as client:
        found = client.xrange(f"fastpos:{{{name}}}:events")
    return [(id, values["kind"], json.loads(values["record"])) for id, values in found]


def ids(server: RedisServer, name: str = "alice", kind: str | None = None) -> list[tuple[int, int]]:
    """Which run each is of, from 1 on, and its number in there."""
    runs: dict[str, int] = {}
    found = []
    for id, its_kind, _ in entries(server, name):
        epoch, _, sequence = id.partition("-")
        run = runs.setdefault(epoch, len(runs) + 1)
        if kind in (None, its_kind):
            found.append((run, int(sequence)))
    return found


def epochs(server: RedisServer, name: str = "alice") -> list[int]:
    """Of each run."""
    return [int(id.partition("-")[0]) for id, kind, _ in entries(server, name) if kind == "started"]


def numbers(server: RedisServer, name: str = "alice") -> list[int]:
    return [
        record["json"]["n"]
        for _, kind, record in entries(server, name)
        if kind == "push" and "n" in record["json"]
    ]


def kinds(server: RedisServer, name: str = "alice") -> list[str]:
    return [kind for _, kind, _ in entries(server, name)]


def push(exchange: Exchange, *these: int) -> None:
    for number in these:
        exchange.push({"channel": "numbers", "n": number})


# --- what is published ----------------------------------------------------------------------------


def test_every_event_once_and_in_order(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, recorder: Recorder
) -> None:
    with new_stream(exchange, name="alice", publisher=Publisher(server.url)) as stream:
        assert stream.wait_ready(5)
        push(exchange, *range(1000))
        exchange.push_bytes(gzip.compress(b'{"channel":"x","price":1.2300000000000000001}'))
        exchange.push_bytes(b"no push")
        recorder.wait("on_unknown", 1000)
        until(lambda: len(numbers(server)) == 1000)
        until(lambda: "undecodable" in kinds(server))  # which a drop would lose
        exchange.drop()
        recorder.wait("on_ready", 2)
    found = entries(server)
    assert ids(server) == [(1, n) for n in range(1, len(found) + 1)]
    assert numbers(server) == [*range(1000)]
    assert [kind for _, kind, _ in found if kind != "push"] == [
        "started", "connected", "subscribed", "state", "undecodable", "disconnected", "connected",
        "subscribed", "state", "disconnected", "stopped",
    ]  # fmt: skip
    assert [record["ns"] for _, _, record in found if "n" in record.get("json", {})] == [
        event.received_ns for event in recorder.on_unknown[:1000]
    ]
    with server.client() as client:
        records = [values["record"] for _, values in client.xrange("fastpos:{alice}:events")]
        assert any('"price":1.2300000000000000001}' in record for record in records)
        assert not client.exists("fastpos:{alice}:owner")  # nobody publishes it any more


def test_each_run_has_an_epoch(
    exchange: Exchange, server: RedisServer, new_stream: NewStream
) -> None:
    stream = new_stream(exchange, name="alice", publisher=Publisher(server.url))
    for _ in range(3):
        with stream:
            assert stream.wait_ready(5)
    assert ids(server, kind="started") == [(1, 1), (2, 1), (3, 1)]
    assert epochs(server) == sorted(epochs(server))
    assert all(0 <= time.time() - epoch < 60 for epoch in epochs(server)[:1])


@pytest.mark.parametrize("lost", ["events", "epoch", "all"])
def test_an_epoch_is_above_all_before_it_whatever_redis_has_lost(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, lost: str
) -> None:
    stream = new_stream(exchange, name="alice", publisher=Publisher(server.url))
    with stream:
        assert stream.wait_ready(5)
        until(lambda: epochs(server))
    (before,) = epochs(server)
    with server.client() as client:
        if lost == "all":
            client.flushall()
            until(lambda: client.time()[0] > before)  # two runs a second are below that
        else:
            client.delete(f"fastpos:{{alice}}:{lost}")
    with stream:
        assert stream.wait_ready(5)
        until(lambda: epochs(server)[-1:] > [before])
    assert epochs(server)[-1] < 2**53


def test_an_epoch_is_above_one_of_a_clock_that_was_ahead(
    exchange: Exchange, server: RedisServer, new_stream: NewStream
) -> None:
    ahead = 4_000_000_000
    with server.client() as client:
        client.set("fastpos:{alice}:epoch", ahead)
    with new_stream(exchange, name="alice", publisher=Publisher(server.url)) as stream:
        assert stream.wait_ready(5)
        until(lambda: epochs(server) == [ahead + 1])


def test_a_single_event_is_there_soon(
    exchange: Exchange, server: RedisServer, new_stream: NewStream
) -> None:
    with new_stream(exchange, name="alice", publisher=Publisher(server.url)) as stream:
        assert stream.wait_ready(5)
        until(lambda: "state" in kinds(server))
        waits = []
        with server.client() as client:
            for number in range(20):
                last = entries(server)[-1][0]
                began = time.monotonic()
                push(exchange, number)
                assert client.xread({"fastpos:{alice}:events": last}, block=5000, count=1)
                waits.append(time.monotonic() - began)
                until(lambda number=number: len(numbers(server)) == number + 1)  # type: ignore[misc]
    # About 2 ms where nothing else runs; some are held up on a machine that has other things to do.
    assert sorted(waits)[5] < 0.1


@pytest.mark.parametrize("name", ["Ünïcødé 🐟", 'a "quoted\\" one,"connection":', "{braces}"])
def test_any_name(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, name: str, tmp_path: Path
) -> None:
    publishers = [Publisher(server.url), Publisher(server.url, "kept", journal=Journal(tmp_path))]
    for publisher in publishers:
        with new_stream(exchange, name=name, publisher=publisher) as stream:
            assert stream.wait_ready(5)
            push(exchange, 1, 2, 3)
            key = f"{publisher.prefix}:{{{name}}}:events"
            with server.client() as client:
                until(lambda: client.xlen(key) >= 7)  # noqa: B023
                found = [values for _, values in client.xrange(key)]
        assert [values["kind"] for values in found][:5] == [
            "started", "connected", "subscribed", "state", "push",
        ]  # fmt: skip
        assert {json.loads(values["record"])["stream"] for values in found} == {name}


def test_no_credential_is_in_redis(
    exchange: Exchange, server: RedisServer, new_stream: NewStream
) -> None:
    with new_stream(exchange, name="alice", publisher=Publisher(server.url)) as stream:
        assert stream.wait_ready(5)
        exchange.push({"channel": "echo", "n": 1, "key": exchange.api_key})
        until(lambda: numbers(server))
    with server.client() as client:
        found = client.xrange("fastpos:{alice}:events")
        assert exchange.api_key not in str(
            [found, [client.type(key) for key in [*client.scan_iter()]]]
        )
        assert '"key":"***"' in str(found)


def test_about_so_many_are_kept(
    exchange: Exchange, server: RedisServer, new_stream: NewStream
) -> None:
    publisher = Publisher(server.url, max_length=100)
    with new_stream(exchange, name="alice", publisher=publisher) as stream:
        assert stream.wait_ready(5)
        push(exchange, *range(2000))
        until(lambda: numbers(server)[-1:] == [1999])
    assert 100 <= len(entries(server)) < 400


def test_many_streams_share_a_publisher(
    exchange: Exchange, server: RedisServer, new_stream: NewStream
) -> None:
    publisher = Publisher(server.url)
    names = [f"account-{n}" for n in range(30)]
    streams = [new_stream(exchange, name=name, publisher=publisher) for name in names]
    with Fleet(streams, connect_rate=None) as fleet:
        assert fleet.wait_ready(10)
        push(exchange, *range(100))
        until(lambda: all(numbers(server, name) == [*range(100)] for name in names), 20)
    assert all(kinds(server, name)[-1] == "stopped" for name in names)


def test_the_owner_says_that_it_is_there(
    exchange: Exchange, server: RedisServer, new_stream: NewStream
) -> None:
    with (
        server.client() as client,
        new_stream(exchange, name="alice", publisher=Publisher(server.url)) as stream,
    ):
        assert stream.wait_ready(5)
        key = "fastpos:{alice}:owner"
        until(lambda: client.exists(key))
        left = [client.pttl(key)]
        for _ in range(2):
            until(lambda: left.append(client.pttl(key)) or left[-1] > left[-2])
        assert 0 < min(left) <= max(left) <= 5000
        assert client.get(key).startswith(f"{epochs(server)[0]} ")


# --- who else publishes ---------------------------------------------------------------------------


def test_who_is_the_owner_no_more_writes_nothing_more_and_says_so_once(
    exchange: Exchange,
    server: RedisServer,
    new_stream: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
) -> None:
    first = new_stream(exchange, name="alice", publisher=Publisher(server.url))
    other = new_stream(exchange, name="bob", publisher=first._settings.publisher)
    with first, other:
        assert first.wait_ready(5)
        assert other.wait_ready(5)
        push(exchange, 1)
        until(lambda: numbers(server) == [1])
        second = Recorder()
        with new_stream(
            exchange, name="alice", publisher=Publisher(server.url), **second.callbacks
        ) as successor:
            assert successor.wait_ready(5)
            push(exchange, *range(2, 50))
            until(lambda: numbers(server)[-1] == 49)
            errors = recorder.wait("on_error")  # at once, though nothing more comes
    assert [type(error) for error in errors] == [PublisherError]
    assert str(errors[0]) == (
        "alice is published by another now: this is the owner no more. The stream goes on "
        "unpublished; let only one process publish an account."
    )
    (record,) = logged(caplog, "fenced")
    assert record["fastpos_stream"] == "alice"
    assert not second.on_error
    found = ids(server)
    assert found == sorted(found)
    begun = found.index((2, 1))
    assert {run for run, _ in found[begun:]} == {2}
    assert numbers(server, "bob") == [*range(1, 50)]


@pytest.mark.parametrize("is_kept", [False, True], ids=["in memory", "with a journal"])
def test_one_of_the_same_name_that_follows_at_once_loses_the_ownership_to_nobody(
    exchange: Exchange,
    server: RedisServer,
    new_stream: NewStream,
    is_kept: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    publisher = Publisher(server.url, journal=Journal(tmp_path) if is_kept else None)
    with new_stream(exchange, name="zoe", publisher=publisher):  # else a stop waits for the rest
        for number in range(20):
            with new_stream(exchange, name="alice", publisher=publisher) as stream:
                assert stream.wait_ready(5)
                push(exchange, *range(500 * number, 500 * (number + 1)))
                until(lambda: stream.stats.unknown_channels.get("numbers") == 500)
    assert numbers(server) == [*range(10_000)]
    assert kinds(server).count("stopped") == 20
    assert not logged(caplog, "fenced")


@pytest.mark.parametrize("is_kept", [False, True], ids=["in memory", "with a journal"])
def test_one_of_the_same_name_that_follows_while_redis_is_away_is_asked_for_its_state(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, is_kept: bool, tmp_path: Path
) -> None:
    with TcpProxy(LOOPBACK, server.port) as proxy:
        journal = Journal(tmp_path) if is_kept else None
        publisher = Publisher(proxy.url("redis", "/0"), journal=journal)
        with new_stream(exchange, name="zoe", publisher=publisher):
            with new_stream(exchange, name="alice", publisher=publisher) as stream:
                assert stream.wait_ready(5)
                push(exchange, 1)
                until(lambda: numbers(server) == [1])
                proxy.refuse()
                proxy.reset()
            with new_stream(exchange, name="alice", publisher=publisher) as stream:
                assert stream.wait_ready(5)
                push(exchange, 2)
                proxy.accept_again()
                until(lambda: numbers(server) == [1, 2])
                with server.client() as client:
                    client.flushall()
                until(lambda: "dropped" in kinds(server))

                def state_is_told() -> bool:
                    push(exchange, 3)
                    return "state" in kinds(server)

                until(state_is_told)


def test_what_hears_of_a_lost_ownership_may_fail(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, caplog: pytest.LogCaptureFixture
) -> None:
    publisher = Publisher(server.url)
    publisher.on_fenced = Mock(side_effect=RuntimeError("of ours"))
    stream = new_stream(exchange, name="alice", publisher=publisher)
    with stream, new_stream(exchange, name="zoe", publisher=publisher) as other:
        assert stream.wait_ready(5)
        assert other.wait_ready(5)
        until(lambda: "state" in kinds(server))
        with server.client() as client:
            client.incr("fastpos:{alice}:epoch")
        push(exchange, 1)
        until(lambda: logged(caplog, "publisher_failed"))
        push(exchange, 2)
        until(lambda: numbers(server, "zoe") == [1, 2])
    publisher.on_fenced.assert_called_once_with("alice")


# --- faults of Redis ------------------------------------------------------------------------------


def _kill(server: RedisServer) -> Callable[[], None]:
    server.kill()
    return server.start


def _hang(server: RedisServer) -> Callable[[], None]:
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    return lambda: server.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]


def _out_of_memory(server: RedisServer) -> Callable[[], None]:
    with server.client() as client:
        client.config_set("maxmemory", 1)

    def end() -> None:
        with server.client() as client:
            client.config_set("maxmemory", 0)

    return end


def _read_only(server: RedisServer) -> Callable[[], None]:
    with server.client() as client:
        client.replicaof(LOOPBACK, free_port())

    def end() -> None:
        with server.client() as client:
            client.replicaof("NO", "ONE")

    return end


def _other_password(server: RedisServer) -> Callable[[], None]:
    with server.client() as client:
        client.config_set("requirepass", "another")
        client.client_kill_filter(_type="normal", skipme=True)

    def end() -> None:
        import redis  # noqa: PLC0415

        with redis.Redis(port=server.port, password="another") as client:
            client.config_set("requirepass", "")

    return end


@pytest.mark.parametrize("is_kept", [False, True], ids=["in memory", "with a journal"])
def test_a_run_that_waited_while_the_one_before_lost_the_ownership_is_published(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, is_kept: bool, tmp_path: Path
) -> None:
    with TcpProxy(LOOPBACK, server.port) as proxy:
        journal = Journal(tmp_path) if is_kept else None
        publisher = Publisher(proxy.url("redis", "/0"), journal=journal)
        stream = new_stream(exchange, name="alice", publisher=publisher)

        def has(count: int) -> bool:
            return stream.stats.unknown_channels.get("numbers") == count

        with new_stream(exchange, name="zoe", publisher=publisher):  # else a stop waits for Redis
            with stream:
                assert stream.wait_ready(5)
                push(exchange, 1)
                until(lambda: numbers(server) == [1])
                proxy.refuse()
                proxy.reset()
                push(exchange, 2)
                until(lambda: has(2))
            with stream:
                assert stream.wait_ready(5)
                push(exchange, 3)
                until(lambda: has(3))
                with server.client() as client:
                    ours = int(entries(server)[-1][0].partition("-")[0])
                    values = {"kind": "push", "record": '{"json":{}}'}
                    client.xadd("fastpos:{alice}:events", values, f"{ours + 1}-1")
                proxy.accept_again()
                push(exchange, 4)
                until(lambda: numbers(server)[-1:] == [4])
                push(exchange, 5)
                until(lambda: numbers(server)[-1:] == [5])
    assert numbers(server) == [1, 3, 4, 5]
    after = [(id.partition("-"), kind) for id, kind, _ in entries(server)]
    begun = next(n for n, ((epoch, _, _), _) in enumerate(after) if int(epoch) > ours + 1)
    assert [(number, kind) for (_, _, number), kind in after[begun : begun + 2]] == [
        ("0", "dropped"), ("1", "started"),
    ]  # fmt: skip


@pytest.mark.parametrize("has_journal", [False, True], ids=["memory", "journal"])
@pytest.mark.parametrize("fault", [_kill, _hang, _out_of_memory, _read_only, _other_password])
def test_nothing_is_lost_while_redis_is_away_and_the_stream_notices_nothing(
    exchange: Exchange,
    own: RedisServer,
    new_stream: NewStream,
    recorder: Recorder,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    fault: Callable[[RedisServer], Callable[[], None]],
    has_journal: bool,
) -> None:
    journal = Journal(tmp_path) if has_journal else None
    # With less patience where it does not answer, or that would take its time.
    url = own.url + "?socket_timeout=2" * (fault is _hang)
    publisher = Publisher(url, journal=journal)
    with new_stream(exchange, name="alice", publisher=publisher) as stream:
        assert stream.wait_ready(5)
        push(exchange, *range(100))
        until(lambda: numbers(own) == [*range(100)])
        end = fault(own)
        for number in range(100, 400, 10):
            push(exchange, *range(number, number + 10))
            recorder.wait("on_unknown", number + 10)
        until(lambda: logged(caplog, "publisher_failing"))
        push(exchange, *range(400, 500))
        recorder.wait("on_unknown", 500)
        end()
        until(lambda: logged(caplog, "publisher_again"))
        until(lambda: len(numbers(own)) == 500)
    assert numbers(own) == [*range(500)]
    assert ids(own) == [(1, n) for n in range(1, len(entries(own)) + 1)]
    assert kinds(own)[-2:] == ["disconnected", "stopped"]
    assert "dropped" not in kinds(own)
    assert [type(error) for error in recorder.on_error] == [PublisherError]
    assert len(logged(caplog, "publisher_failing")) == 1
    assert not recorder.on_disconnect[:-1]


def test_redis_need_not_be_there_at_the_start(
    exchange: Exchange, own: RedisServer, new_stream: NewStream, recorder: Recorder
) -> None:
    own.kill()
    with new_stream(exchange, name="alice", publisher=Publisher(own.url)) as stream:
        assert stream.wait_ready(5)
        push(exchange, *range(10))
        recorder.wait("on_unknown", 10)
        own.start()
        until(lambda: numbers(own) == [*range(10)])
    assert kinds(own)[0] == "started"


def test_large_records_go_in_more_calls_than_small_ones(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, recorder: Recorder
) -> None:
    with TcpProxy(LOOPBACK, server.port) as proxy:
        publisher = Publisher(proxy.url("redis", "/0"))
        with new_stream(exchange, name="alice", publisher=publisher) as stream:
            assert stream.wait_ready(5)
            proxy.refuse()
            proxy.reset()
            for number in range(300):
                exchange.push({"channel": "numbers", "n": number, "more": "x" * 20_000})
            recorder.wait("on_unknown", 300)
            proxy.accept_again()
            until(lambda: numbers(server) == [*range(300)], 10)
    with server.client() as client:  # of which each must have gone out before it is timed out
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] > 300 / 8


def test_scripts_that_somebody_has_flushed_are_no_failure(
    exchange: Exchange,
    server: RedisServer,
    new_stream: NewStream,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with new_stream(exchange, name="alice", publisher=Publisher(server.url)) as stream:
        assert stream.wait_ready(5)
        until(lambda: "state" in kinds(server))
        for number in range(3):
            with server.client() as client:
                client.script_flush()
            push(exchange, number)
            until(lambda number=number: len(numbers(server)) == number + 1)  # type: ignore[misc]
    assert not logged(caplog, "publisher_failing")


@pytest.mark.parametrize("has_journal", [False, True], ids=["memory", "journal"])
def test_an_answer_that_is_lost_doubles_nothing(
    exchange: Exchange,
    server: RedisServer,
    new_stream: NewStream,
    tmp_path: Path,
    has_journal: bool,
) -> None:
    journal = Journal(tmp_path) if has_journal else None
    with TcpProxy(LOOPBACK, server.port) as proxy:
        publisher = Publisher(proxy.url("redis", "/0"), journal=journal)
        with new_stream(exchange, name="alice", publisher=publisher) as stream:
            assert stream.wait_ready(5)
            for round in range(3):
                first = 100 * round
                push(exchange, *range(first, first + 50))
                until(lambda: len(numbers(server)) == first + 50)  # noqa: B023
                until(lambda: not publisher.stats.waiting)  # it has heard that, too
                proxy.pause_downstream()
                push(exchange, *range(first + 50, first + 100))
                until(lambda: len(numbers(server)) > first + 50)  # noqa: B023
                proxy.reset()
                proxy.resume()
                until(lambda: len(numbers(server)) == first + 100)  # noqa: B023
    assert numbers(server) == [*range(300)]
    assert ids(server) == [(1, n) for n in range(1, len(entries(server)) + 1)]


def test_of_too_many_the_oldest_go_and_it_is_told(
    exchange: Exchange, own: RedisServer, new_stream: NewStream, recorder: Recorder
) -> None:
    publisher = Publisher(own.url, buffer_events=100)
    with new_stream(exchange, name="alice", publisher=publisher) as stream:
        assert stream.wait_ready(5)
        push(exchange, 0)
        until(lambda: numbers(own) == [0])
        own.kill()
        push(exchange, *range(1, 1001))
        recorder.wait("on_unknown", 1001)
        own.start()
        until(lambda: numbers(own)[-1] == 1000)
        # What is known is told soon, though the exchange sends nothing more by itself.
        until(lambda: kinds(own).count("state") == 2)
    found = entries(own)
    (dropped,) = [each for each in found if each[1] == "dropped"]
    told = numbers(own)
    first = told[1]
    assert told == [0, *range(first, 1001)]
    assert 900 <= first < 1000
    assert dropped[2]["count"] == first - 1
    events = {event.raw["n"]: event.received_ns for event in recorder.on_unknown}
    assert dropped[2]["from_ns"] == events[1]
    assert dropped[2]["to_ns"] == events[first - 1]
    sequences = [int(id.split("-")[1]) for id, _, _ in found]
    assert sequences[found.index(dropped) + 1] == sequences[found.index(dropped)] + 1
    assert sequences[-1] - sequences[0] + 1 == len(found) + first - 2  # as if all were there


def _fail_over(own: RedisServer, replica: RedisServer) -> None:
    """Have the replica be the master, without what has not come to it."""
    own.kill()
    with replica.client() as client:
        client.replicaof("NO", "ONE")
        client.config_set("port", own.port)
    replica.port = own.port


@pytest.mark.parametrize("has_journal", [False, True], ids=["memory", "journal"])
def test_what_a_failover_loses(
    exchange: Exchange,
    own: RedisServer,
    new_stream: NewStream,
    recorder: Recorder,
    tmp_path: Path,
    has_journal: bool,
) -> None:
    journal = Journal(tmp_path) if has_journal else None
    publisher = Publisher(own.url, journal=journal)
    with RedisServer() as replica, replica.client() as client:
        with new_stream(exchange, name="alice", publisher=publisher) as stream:
            assert stream.wait_ready(5)
            with own.client() as master:
                master.config_set("repl-diskless-sync-delay", 0)  # else it waits for others first
            client.replicaof(LOOPBACK, own.port)
            push(exchange, *range(100))
            until(lambda: len(numbers(replica)) == 100, 15)
            client.config_set("masterauth", "")
            client.replicaof(LOOPBACK, free_port())  # it hears nothing more
            push(exchange, *range(100, 200))
            until(lambda: len(numbers(own)) == 200)
            _fail_over(own, replica)
            push(exchange, *range(200, 300))
            until(lambda: numbers(replica)[-1] == 299)
            if has_journal:
                until(lambda: len(numbers(replica)) == 300)
            else:
                until(lambda: kinds(replica).count("state") == 2)
        told = numbers(replica)
        if has_journal:
            assert told == [*range(300)]
            assert "dropped" not in kinds(replica)
        else:
            assert told == [*range(100), *range(200, 300)]
            (dropped,) = [record for _, kind, record in entries(replica) if kind == "dropped"]
            assert dropped["count"] == 100


@pytest.mark.parametrize("is_kept", [False, True], ids=["in memory", "with a journal"])
@pytest.mark.parametrize(
    ("key", "wrong"),
    [("events", "type"), ("epoch", "type"), ("epoch", "content"), ("place", "type"),
     ("place", "content"), ("owner", "type")],
)  # fmt: skip
def test_keys_that_are_of_no_use_are_one_accounts_trouble(
    exchange: Exchange,
    server: RedisServer,
    new_stream: NewStream,
    key: str,
    wrong: str,
    is_kept: bool,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    theirs = Recorder()
    publisher = Publisher(server.url, journal=Journal(tmp_path) if is_kept else None)
    with server.client() as client:
        if wrong == "type":
            client.rpush(f"fastpos:{{alice}}:{key}", "of another type")
        else:
            client.set(f"fastpos:{{alice}}:{key}", "no number")
        alice = new_stream(exchange, name="alice", publisher=publisher, **theirs.callbacks)
        names = [f"account-{n}" for n in range(30)]
        streams = [new_stream(exchange, name=name, publisher=publisher) for name in names]
        with Fleet([alice, *streams], connect_rate=None) as fleet:
            assert fleet.wait_ready(10)
            push(exchange, *range(10))
            until(lambda: all(numbers(server, name) == [*range(10)] for name in names), 20)
            if key in ("events", "epoch"):  # the others are written over
                (error,) = theirs.wait("on_error")  # at once, though nothing more comes
                assert error.message.startswith("alice can't be published: ResponseError: ")
                assert str(error) == (
                    f"{error.message.rstrip('.')}. It is tried again; look at what that key holds, "
                    "and at the user's rights (ACL)."
                )
                until(lambda: logged(caplog, "publishing_refused"))
                assert len(logged(caplog, "publishing_refused")) == 1
                client.delete(f"fastpos:{{alice}}:{key}")
            push(exchange, 11)
            until(lambda: numbers(server)[-1:] == [11])
    assert not logged(caplog, "publisher_failing")


def test_a_server_that_has_forgotten_all(
    exchange: Exchange, server: RedisServer, new_stream: NewStream
) -> None:
    with new_stream(exchange, name="alice", publisher=Publisher(server.url)) as stream:
        assert stream.wait_ready(5)
        push(exchange, *range(10))
        until(lambda: len(numbers(server)) == 10)
        (epoch,) = epochs(server)
        with server.client() as client:
            client.flushall()
        push(exchange, 10)
        until(lambda: numbers(server) == [10])
        until(lambda: "state" in kinds(server))
    assert kinds(server)[0] == "dropped"
    with server.client() as client:
        assert client.get("fastpos:{alice}:epoch") == str(epoch)


# --- the end --------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_journal", [False, True], ids=["memory", "journal"])
@pytest.mark.parametrize("fault", [_kill, _hang])
def test_a_stop_while_redis_is_away_takes_no_longer_than_it_may(
    exchange: Exchange,
    own: RedisServer,
    new_stream: NewStream,
    recorder: Recorder,
    tmp_path: Path,
    fault: Callable[[RedisServer], Callable[[], None]],
    has_journal: bool,
) -> None:
    url = own.url + "?socket_timeout=40"  # nor is that waited for
    publisher = Publisher(url, journal=Journal(tmp_path) if has_journal else None)
    stream = new_stream(exchange, name="alice", publisher=publisher)
    with stream:
        assert stream.wait_ready(5)
        until(lambda: "state" in kinds(own))
        end = fault(own)
        push(exchange, 1)
        recorder.wait("on_unknown", 1)
        began = time.monotonic()
        stream.stop(timeout=30.0)
        assert time.monotonic() - began < 10  # it takes up to 3 s, where nothing else runs
        until(lambda: not [each for each in threading.enumerate() if "publisher" in each.name])
    end()


def test_a_fleet_stops_as_quickly(exchange: Exchange, own: RedisServer) -> None:
    publisher = Publisher(own.url)
    streams = [
        PositionStream(
            exchange.url, api_key=exchange.api_key, broker=exchange.broker, name=f"s{n}",
            publisher=publisher,
        )
        for n in range(20)
    ]  # fmt: skip
    with Fleet(streams, connect_rate=None) as fleet:
        assert fleet.wait_ready(10)
        own.kill()
        push(exchange, 1)
        began = time.monotonic()
        fleet.stop(timeout=30.0)
        assert time.monotonic() - began < 10  # not 20 times 2 s


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no os.fork() here")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_forked_child_does_no_harm(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, recorder: Recorder
) -> None:
    publisher = Publisher(server.url)
    with new_stream(exchange, name="alice", publisher=publisher) as stream:
        assert stream.wait_ready(5)
        push(exchange, 1)
        until(lambda: numbers(server) == [1])
        child = os.fork()
        if child == 0:
            status = 1
            try:
                signal.alarm(10)
                logging.disable()
                stream.stop()
                is_refused = False
                try:
                    PositionStream(
                        exchange.url, api_key="other", broker=1, name="bob", publisher=publisher
                    ).start()
                except RuntimeError:
                    is_refused = True
                status = 0 if is_refused else 2
            finally:
                os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
        push(exchange, *range(2, 20))
        until(lambda: numbers(server) == [*range(1, 20)])
    assert not recorder.on_error
    assert ids(server, kind="started") == [(1, 1)]


_ENDING = """
import sys
from fastpos import PositionStream
from fastpos.redis import Publisher
from fastpos.redis.files import Files
from fastpos.redis.memory import Memory

url, key, broker, redis = sys.argv[1:]
stream = PositionStream(
    url, api_key=key, broker=int(broker), name="alice", publisher=Publisher(redis)
)
stream.on_unknown = lambda event: got.append(event)
got = []
stream.start()
while len(got) < 500:
    pass
"""


def test_what_is_being_taken_at_the_end_of_a_program_is_waited_for(
    exchange: Exchange,
    server: RedisServer,
    new_stream: NewStream,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = Publisher(server.url)
    taken, original = threading.Event(), Memory.take

    def take(*args: Any) -> Any:
        given = original(*args)
        if taken.is_set():
            time.sleep(0.3)
        return given

    monkeypatch.setattr(Memory, "take", take)
    with new_stream(exchange, name="alice", publisher=publisher) as stream:
        assert stream.wait_ready(5)
        until(lambda: "state" in kinds(server))
        taken.set()
        push(exchange, 1)
        recorder.wait("on_unknown")
        sender = publisher._sender
        assert sender is not None
        until(lambda: not sender._source.has_news)
        sender.drain(5)
        assert numbers(server) == [1]


def test_at_the_end_of_a_program_that_stops_nothing_what_came_is_sent(
    exchange: Exchange, server: RedisServer
) -> None:
    command = [sys.executable, "-c", _ENDING, exchange.url, exchange.api_key]
    with subprocess.Popen([*command, str(exchange.broker), server.url]) as program:
        until(lambda: "state" in kinds(server), 20)
        push(exchange, *range(500))
        assert program.wait(20) == 0
    assert numbers(server) == [*range(500)]


# --- the way there --------------------------------------------------------------------------------


def test_tls_user_and_password(
    exchange: Exchange, certificates: Certificates, new_stream: NewStream, recorder: Recorder
) -> None:
    port, pem = free_port(), certificates.good.pem
    words = ["--tls-port", str(port), "--tls-auth-clients", "no"]
    words += ["--tls-cert-file", str(pem), "--tls-key-file", str(pem)]
    words += ["--tls-ca-cert-file", str(certificates.authority)]
    try:
        server = RedisServer(*words).__enter__()
    except AssertionError as error:
        pytest.skip(f"this server has no TLS: {error}")
    with server.client() as client:
        commands = ["+evalsha", "+script|load", "+ping", "+xrevrange", "+xadd", "+get", "+set"]
        client.acl_setuser(
            "bot", enabled=True, passwords=["+pass:word"], keys=["fastpos:*"],
            commands=[*commands, "+del", "+time"],
        )  # fmt: skip
    ca = f"?ssl_ca_certs={certificates.authority}"
    publisher = Publisher(f"rediss://bot:pass%3Aword@{LOOPBACK}:{port}/0{ca}")
    assert "pass" not in repr(publisher)
    try:
        with new_stream(exchange, name="alice", publisher=publisher) as stream:
            assert stream.wait_ready(5)
            push(exchange, 1)
            until(lambda: numbers(server) == [1])
        assert not recorder.on_error
        wrong = Publisher(f"rediss://bot:wrong-word@{LOOPBACK}:{port}/0{ca}")
        with new_stream(exchange, name="bob", publisher=wrong) as stream:
            assert stream.wait_ready(5)
            until(lambda: stream._settings.publisher and wrong._sender and wrong._sender.failure)
            push(exchange, 2)
            (error,) = recorder.wait("on_error")
        assert "WRONGPASS" in str(error) or "invalid username" in str(error)
        assert "wrong-word" not in str(error)
    finally:
        server.__exit__(None, None, None)


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("redis+sentinel://host:26379/mymaster", "not supported"),
        ("rediss+cluster://host:7000", "not supported"),
        ("sentinel://one:26379,two:26379/mymaster", "not supported"),
        ("http://host", "must begin with"),
        ("secret", "must begin with"),
        ("redis://:12/secret@host:6379/0", "percent-encoded"),
        ("redis://:12#secret@host:6379/0", "percent-encoded"),
        ("redis://:12?secret@host:6379/0", "percent-encoded"),
        ("redis://:[secret]12@host:6379/0", "percent-encoded"),
        ("redis://:secret\u2100@host:6379/0", "percent-encoded"),
        ("redis://host/secret", "percent-encoded"),
        ("redis://host/0?colour=secret", "options"),
        ("rediss://host/0?ssl_cert_reqs=secret", "options"),
        ("redis://host:no-port-secret/0", "can't be used"),
        ("redis://host/0?protocol=3", "protocol"),
        ("redis://:secret@host/0?socket_timeout=soon", "can't be used"),
    ],
)
def test_a_url_that_is_of_no_use(url: str, what: str) -> None:
    with pytest.raises(ValueError, match=re.escape(what)) as caught:
        Publisher(url)
    assert "secret" not in str(caught.value)


def test_arguments_of_no_use(tmp_path: Path) -> None:
    url = "redis://127.0.0.1/0"
    with pytest.raises(TypeError, match="url"):
        Publisher(7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="prefix"):
        Publisher(url, "a{b}")
    with pytest.raises(ValueError, match="max_length"):
        Publisher(url, max_length=0)
    with pytest.raises(TypeError, match="buffer_events"):
        Publisher(url, buffer_events=1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="journal"):
        Publisher(url, journal="folder")  # type: ignore[arg-type]
    publisher = Publisher(url, journal=Journal(tmp_path / "a"))
    with pytest.raises(ValueError, match="journal"):
        PositionStream(api_key="k", broker=1, journal=tmp_path / "b", publisher=publisher)
    with pytest.raises(TypeError, match="publisher"):
        PositionStream(api_key="k", broker=1, publisher=url)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(ImportError, match=r"fastpos\[redis\]"):
        Publisher("redis://127.0.0.1/0")


# --- with a journal -------------------------------------------------------------------------------


def _left_by_a_killed_process(
    exchange: Exchange, server: RedisServer, folder: Path, new_stream: NewStream
) -> None:
    """Publish 0 to 9, and have 10 to 19 in the journal alone, as if killed there."""
    publisher = Publisher(server.url, journal=Journal(folder))
    told = Recorder()
    with new_stream(exchange, name="alice", publisher=publisher, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        push(exchange, *range(10))
        until(lambda: len(numbers(server)) == 10)
        server.kill()
        push(exchange, *range(10, 20))
        told.wait("on_unknown", 20)
    server.start()


def test_what_a_process_has_left_is_sent_by_the_next(
    exchange: Exchange, own: RedisServer, new_stream: NewStream, tmp_path: Path
) -> None:
    _left_by_a_killed_process(exchange, own, tmp_path, new_stream)
    publisher = Publisher(own.url, journal=Journal(tmp_path))
    with new_stream(exchange, name="alice", publisher=publisher) as stream:
        assert stream.wait_ready(5)
        push(exchange, 20)
        until(lambda: len(numbers(own)) == 21)
    found = entries(own)
    assert numbers(own) == [*range(21)]
    begun = [n for n, (_, kind, _) in enumerate(found) if kind == "started"][1]
    assert found[begun - 1][1] == "stopped"
    assert ids(own)[begun] == (2, 1)
    assert "dropped" not in kinds(own)


def test_what_a_process_has_left_that_never_saw_redis_is_sent_by_the_next(
    exchange: Exchange,
    own: RedisServer,
    new_stream: NewStream,
    recorder: Recorder,
    tmp_path: Path,
) -> None:
    own.kill()
    for number in range(2):
        publisher = Publisher(own.url, journal=Journal(tmp_path))
        with new_stream(exchange, name="alice", publisher=publisher) as stream:
            assert stream.wait_ready(5)
            push(exchange, number)
            recorder.wait("on_unknown", number + 1)
    own.start()
    publisher = Publisher(own.url, journal=Journal(tmp_path))
    for number in range(2, 4):
        with new_stream(exchange, name="alice", publisher=publisher) as stream:
            assert stream.wait_ready(5)
            push(exchange, number)
            until(lambda number=number: numbers(own) == [*range(number + 1)])  # type: ignore[misc]
    assert ids(own, kind="started") == [(1, 1), (2, 1), (3, 1), (4, 1)]
    assert (
        not (tmp_path / ".publishing").read_bytes()
        or b'["alice"]' in (tmp_path / ".publishing").read_bytes().splitlines()
    )


def test_what_another_has_overtaken_and_given_back_is_not_sent_again(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, tmp_path: Path
) -> None:
    with TcpProxy(LOOPBACK, server.port) as proxy:
        publisher = Publisher(proxy.url("redis", "/0"), journal=Journal(tmp_path))
        with new_stream(exchange, name="zoe", publisher=publisher):  # it goes on
            with new_stream(exchange, name="alice", publisher=publisher) as stream:
                assert stream.wait_ready(5)
                push(exchange, 1, 2, 3)
                until(lambda: numbers(server) == [1, 2, 3])
                proxy.refuse()
                proxy.reset()
                push(exchange, 4)
                until(lambda: stream.stats.unknown_channels.get("numbers") == 4)
            sender = publisher._sender
            assert sender is not None
            until(lambda: len(sender._boxes) == 1)  # it was left behind
            with new_stream(exchange, name="alice", publisher=Publisher(server.url)) as stream:
                assert stream.wait_ready(5)
                push(exchange, 5)
                until(lambda: numbers(server)[-1] == 5)
            proxy.accept_again()
            with new_stream(exchange, name="alice", publisher=publisher) as stream:
                assert stream.wait_ready(5)
                push(exchange, 6)
                until(lambda: numbers(server)[-1] == 6)
    assert numbers(server) == [1, 2, 3, 5, 6]


def test_what_another_has_overtaken_is_told_to_be_dropped(
    exchange: Exchange, own: RedisServer, new_stream: NewStream, tmp_path: Path
) -> None:
    _left_by_a_killed_process(exchange, own, tmp_path / "here", new_stream)
    with own.client() as client:
        # Somebody who has not written down a place.
        overtaken = client.incrby("fastpos:{alice}:epoch", 1000)
    publisher = Publisher(own.url, journal=Journal(tmp_path / "here"))
    with new_stream(exchange, name="alice", publisher=publisher) as stream:
        assert stream.wait_ready(5)
        push(exchange, 20)
        until(lambda: len(numbers(own)) == 11)
    assert numbers(own) == [*range(10), 20]
    found = entries(own)
    (dropped,) = [each for each in found if each[1] == "dropped"]
    assert dropped[0] == f"{overtaken + 1}-0"
    assert dropped[2]["count"] == 12  # with "disconnected" and "stopped"
    assert found[found.index(dropped) + 1][1] == "started"


def test_what_the_journal_has_removed_is_told_to_be_dropped(
    exchange: Exchange,
    own: RedisServer,
    new_stream: NewStream,
    recorder: Recorder,
    tmp_path: Path,
) -> None:
    journal = Journal(tmp_path, segment_bytes=10_000, keep_bytes=5000)
    with new_stream(exchange, name="alice", publisher=Publisher(own.url, journal=journal)) as alice:
        assert alice.wait_ready(5)
        push(exchange, *range(10))
        until(lambda: len(numbers(own)) == 10)
        own.kill()
        for number in range(10, 2010, 100):
            push(exchange, *range(number, number + 100))
            recorder.wait("on_unknown", number + 100)
            journal.flush()
        own.start()
        until(lambda: numbers(own)[-1] == 2009)
        push(exchange, 2010)
        until(lambda: kinds(own)[-1] == "state" or kinds(own)[-2] == "state")
    told = numbers(own)
    assert told == sorted(told)
    assert "dropped" in kinds(own)
    assert len(told) < 2011


def test_a_stream_that_joins_later_disturbs_nobody(
    exchange: Exchange, own: RedisServer, new_stream: NewStream, tmp_path: Path
) -> None:
    _left_by_a_killed_process(exchange, own, tmp_path, new_stream)
    publisher = Publisher(own.url, journal=Journal(tmp_path, segment_bytes=5000))
    with new_stream(exchange, name="bob", publisher=publisher) as bob:
        assert bob.wait_ready(5)
        push(exchange, *range(100, 150))
        until(lambda: len(numbers(own, "bob")) == 50)
        with new_stream(exchange, name="alice", publisher=publisher) as alice:
            assert alice.wait_ready(5)
            push(exchange, *range(150, 200))
            until(lambda: len(numbers(own, "bob")) == 100)
            until(lambda: len(numbers(own)) == 70)
        push(exchange, *range(200, 250))
        until(lambda: len(numbers(own, "bob")) == 150)
    assert numbers(own, "bob") == [*range(100, 250)]
    assert numbers(own) == [*range(20), *range(150, 200)]
    assert ids(own, "bob") == [(1, n) for n in range(1, len(entries(own, "bob")) + 1)]


def test_what_does_not_begin_as_the_publisher_fails_leaves_its_journal_alone(
    exchange: Exchange,
    server: RedisServer,
    new_stream: NewStream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    publisher = Publisher(server.url)
    stream = new_stream(exchange, name="alice", publisher=publisher, journal=tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(Publisher, "enter", Mock(side_effect=RuntimeError("no thread")))
        with pytest.raises(RuntimeError):
            stream.start()
    Journal(tmp_path).open().close()  # nobody else writes there
    with stream:
        assert stream.wait_ready(5)


def test_a_stream_may_begin_after_the_journals_folder_was_removed(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, tmp_path: Path
) -> None:
    folder = tmp_path / "journal"
    publisher = Publisher(server.url, journal=Journal(folder))
    with new_stream(exchange, name="zoe", publisher=publisher) as first:
        assert first.wait_ready(5)
        until(lambda: "state" in kinds(server, "zoe"))
        shutil.rmtree(folder)
        with new_stream(exchange, name="alice", publisher=publisher) as stream:
            assert stream.wait_ready(5)
            push(exchange, 1)
            until(lambda: numbers(server) == [1])


@pytest.mark.parametrize("is_first", [True, False])
def test_a_journal_that_can_not_be_read_is_said_to_be_and_nothing_is_left(
    exchange: Exchange,
    server: RedisServer,
    new_stream: NewStream,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    is_first: bool,
) -> None:
    publisher = Publisher(server.url, journal=Journal(tmp_path))
    other = new_stream(exchange, name="zoe", publisher=publisher)
    if not is_first:
        other.start()
    stream = new_stream(exchange, name="alice", publisher=publisher)
    with monkeypatch.context() as patch:
        patch.setattr(Files, "begin", Mock(side_effect=PermissionError(13, "no way")))
        with pytest.raises(JournalError, match="no way"):
            stream.start()
    other.stop()
    assert publisher._sender is None
    with stream:
        assert stream.wait_ready(5)


def test_a_file_that_cannot_be_read_is_told_to_be_dropped(
    exchange: Exchange,
    own: RedisServer,
    new_stream: NewStream,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    _left_by_a_killed_process(exchange, own, tmp_path, new_stream)
    (packed,) = tmp_path.glob("*.gz")
    packed.write_bytes(packed.read_bytes()[:100] + b"altered" * 20)
    publisher = Publisher(own.url, journal=Journal(tmp_path))
    with new_stream(exchange, name="alice", publisher=publisher) as stream:
        assert stream.wait_ready(5)
        push(exchange, 20)
        until(lambda: numbers(own)[-1] == 20)
    assert len(logged(caplog, "unreadable")) == 1
    found = kinds(own)
    assert found.index("dropped") == len(found) - found[::-1].index("started") - 2


def test_a_journal_of_a_publisher_is_replayed_as_any(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, tmp_path: Path
) -> None:
    publisher = Publisher(server.url, journal=Journal(tmp_path))
    told = Recorder()
    with new_stream(exchange, name="alice", publisher=publisher, **told.callbacks) as stream:
        assert stream.wait_ready(5)
        position = exchange.open_position(volume=5)
        told.wait("on_position")
        exchange.drop()
        told.wait("on_ready", 2)
        exchange.update_position(position, volume=7)
        told.wait("on_position", 2)
        lived = stream.positions
    again = Recorder()
    replayed = replay(tmp_path, **again.callbacks)
    assert [(event.volume, event.change) for event in again.on_position] == [
        (event.volume, event.change) for event in told.on_position
    ]
    assert {id: position.volume for id, position in replayed.positions.items()} == {
        id: position.volume for id, position in lived.items()
    }


def test_only_the_last_stream_to_leave_waits_and_what_all_had_is_sent(
    server: RedisServer, tmp_path: Path
) -> None:
    names = [f"s{number}" for number in range(50)]
    for journal in (None, Journal(tmp_path, flush_interval=600)):
        publisher = Publisher(server.url, journal=journal)
        streams = [lines.Recorder(publisher, each, Credential("token", "x")) for each in names]
        for each in streams:
            each.open()
            each.started({})
        for each in streams:
            each.pushes([b'{"n":1}'], 1)
            each.stopped(None)
        waits = [each.close() for each in streams]
        assert waits[:-1] == [None] * 49
        assert waits[-1] is not None
        waits[-1]()
        for each in names:
            assert kinds(server, each) == ["started", "push", "stopped"] * (1 if not journal else 2)
        with server.client() as client:
            assert client.exists(*(f"fastpos:{{{each}}}:owner" for each in names)) == 0


def test_a_journal_that_another_writes_is_said_to_be(
    exchange: Exchange, server: RedisServer, new_stream: NewStream, tmp_path: Path
) -> None:
    with Journal(tmp_path):
        publisher = Publisher(server.url, journal=Journal(tmp_path))
        with pytest.raises(JournalError, match="another journal"):
            new_stream(exchange, name="alice", publisher=publisher).start()
