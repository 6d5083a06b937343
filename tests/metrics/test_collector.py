"""`Collector`: what it says of real streams, fleets, journals and publishers."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("prometheus_client")

from fastpos import (
    AuthenticationError,
    ConnectionFailed,
    Disconnect,
    FastposError,
    Fleet,
    Position,
    PositionStream,
    ProtocolError,
    Snapshot,
    SubscriptionError,
)
from fastpos.clock import monotonic
from fastpos.journal import Journal, replay
from fastpos.journal.segments import Segment
from fastpos.metrics import Collector
from fastpos.runtime.causes import Cause, cause_of
from fastpos.runtime.run import State
from fastpos.runtime.stats import Counters
from fastpos.runtime.timing import BOUNDS, CallbackTimes
from fastpos.simulator import Exchange
from tests.support.bench import Bench
from tests.support.recording import SOON, until
from tests.support.redis_server import RedisServer
from tests.support.rig import free_port
from tests.support.scraped import Scraper

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidy")]

NewStream = Callable[..., PositionStream]


# --- a stream -------------------------------------------------------------------------------------


def test_a_streams_numbers(bench: Bench) -> None:
    stream = bench.new(ping_interval=0.05, snapshot=lambda: Snapshot([], []))
    scrape = Scraper(stream)
    before = scrape()
    assert before("fastpos_up") == 0
    assert before("fastpos_streams", state="stopped") == 1
    assert before("fastpos_disconnects_total", reason="lost") == 0  # there from the beginning
    assert before("fastpos_last_message_timestamp_seconds") is None

    def fail(_: object) -> None:
        raise ValueError

    stream.on_trigger(fail)
    with stream:
        assert stream.wait_ready(SOON)
        bench.push(1, 2)
        bench.exchange.open_position()
        bench.exchange.push({"channel": "news"})
        bench.exchange.push_bytes(b"garbage")
        bench.exchange.place_trigger()
        bench.wait("on_error", 2)
        bench.wait("on_synced")
        until(lambda: scrape()("fastpos_ping_seconds") is not None)
        bench.exchange.drop()
        bench.wait("on_ready", 2)
        bench.wait("on_synced", 2)
        calls = len(bench.recorder.calls) + 1  # and `fail`
        until(lambda: scrape()("fastpos_callback_seconds_count") == calls)  # it has returned, too
        now = scrape()
        assert now("fastpos_up") == now("fastpos_synced") == 1
        assert {s.value: now("fastpos_streams", state=s.value) for s in State} == {
            **dict.fromkeys((s.value for s in State), 0),
            "ready": 1,
        }
        messages = {
            channel: now("fastpos_messages_total", channel=channel)
            for channel in now.values("fastpos_messages_total", "channel")
        }
        assert messages == {
            "ACCOUNT_UPDATE": 1, "ADL_PRICE": 0, "SYSTEM": 0, "order": 2, "trigOrder": 1,
            "unknown": 1,
        }  # fmt: skip
        assert now("fastpos_connects_total") == now("fastpos_connect_attempts_total") == 2
        assert now("fastpos_subscriptions_total") == 2
        assert now("fastpos_disconnects_total", reason="lost") == 1
        assert now("fastpos_errors_total", kind="callback") == 1
        assert now("fastpos_errors_total", kind="decode") == 1
        assert now("fastpos_errors_total", kind="connection") == 1
        assert 0 < (now("fastpos_gap_seconds_total") or 0) < SOON
        assert 0 < (now("fastpos_ping_seconds") or 0) < SOON
        assert abs((now("fastpos_last_message_timestamp_seconds") or 0) - time.time()) < SOON
        assert (now("fastpos_received_bytes_total") or 0) > 500
        assert now("fastpos_callback_seconds_count") == calls
        assert now("fastpos_callback_seconds_bucket", le="+Inf") == calls
        assert now("fastpos_callback_running_seconds") == 0
        assert (now("fastpos_event_lag_seconds") or 0) < SOON
        assert now("fastpos_queued_events") == 0
        assert now("fastpos_build_info", version="0.1.0", compiled="yes") or now(
            "fastpos_build_info", version="0.1.0", compiled="no"
        )
    after = scrape()
    assert after("fastpos_up") == 0
    assert after("fastpos_disconnects_total", reason="stopped") == 1
    assert after("fastpos_ping_seconds") is after("fastpos_synced") is None


def test_without_a_snapshot_source_nothing_is_said_of_being_synced(bench: Bench) -> None:
    stream = bench.start()
    assert Scraper(stream)()("fastpos_synced") is None


def test_what_a_stream_does_is_a_state(bench: Bench, new_stream: NewStream) -> None:
    stream = bench.new()
    assert stream.stats.state == "stopped"
    stream.start()
    assert stream.wait_ready(SOON)
    assert stream.stats.state == "ready"
    stream.unsubscribe()
    until(lambda: stream.stats.state == "paused")
    stream.subscribe()
    until(lambda: stream.stats.state == "ready")
    bench.exchange.stall()
    bench.exchange.drop()
    until(lambda: stream.stats.state == "connecting")
    bench.exchange.clear_faults()
    stream.stop()
    assert stream.stats.state == "stopped"
    failed = new_stream(f"ws://127.0.0.1:{free_port()}/", reconnect=None)
    with pytest.raises(ConnectionFailed):
        failed.run_forever()
    assert failed.stats.state == "failed"
    scrape = Scraper(stream, failed)()
    assert scrape("fastpos_streams", state="failed") == 1
    assert scrape("fastpos_streams", state="stopped") == 1


def test_a_gap_grows_while_it_lasts_and_no_longer(bench: Bench) -> None:
    began = monotonic()
    stream = bench.start()
    scrape = Scraper(stream)
    gap = lambda: scrape()("fastpos_gap_seconds_total") or 0.0  # noqa: E731
    assert gap() == 0
    bench.exchange.refuse_upgrade(502)
    bench.exchange.drop()
    until(lambda: gap() > 0.05)
    assert gap() < gap()
    bench.exchange.clear_faults()
    bench.wait("on_ready", 2)
    first = gap()
    assert first == gap()
    assert bench.recorder.on_ready[1].gap_s <= first < monotonic() - began
    stream.unsubscribe()  # a pause is one
    until(lambda: gap() > first)
    stream.stop()
    second = gap()
    assert second == gap() > first


def test_a_function_that_takes_long_is_in_its_class(bench: Bench) -> None:
    stream = bench.start()
    scrape = Scraper(stream)
    stream.on_order(lambda _: time.sleep(0.02))
    stream.on_trigger(bench.gate)
    bench.push(1, 2)
    bench.wait("on_order", 2)
    bench.exchange.place_trigger()
    assert bench.entered.wait(SOON)
    until(lambda: (scrape()("fastpos_callback_running_seconds") or 0) > 0.01)
    now = scrape()
    count, under = (
        now("fastpos_callback_seconds_count"),
        now("fastpos_callback_seconds_bucket", le="0.01"),
    )
    assert count is not None
    assert under is not None
    assert count - under >= 2
    assert 0.04 <= (now("fastpos_callback_seconds_sum") or 0) < SOON
    bench.open.set()


def test_times_are_counted_in_classes_whose_upper_bound_is_in() -> None:
    times = CallbackTimes(60.0)
    for seconds in (0.0, 0.0005, *BOUNDS, 0.002, 0.3, 7.0, 100.0):
        times.took("on_order", print, seconds)
    assert times.counts() == [3, 2, 1, 1, 1, 2, 1, 1, 2]
    assert times.total_s == pytest.approx(sum(BOUNDS) + 0.0005 + 0.002 + 0.3 + 107.0)
    assert times.limit <= BOUNDS[0]  # so all that is longer is told


def test_a_gap_that_is_under_way_is_no_shorter_when_it_is_over() -> None:
    counters = Counters()
    counters.gap_ends()
    assert counters.gap == (0.0, None)
    began = time.monotonic() - 7.0
    counters.gap_begins(began)
    counters.gap_begins(began + 3.0)  # it has begun already
    before = counters.gap_s
    counters.gap_ends()
    assert 7.0 <= before <= counters.gap_s < 7.0 + SOON


# --- why connections end --------------------------------------------------------------------------


def of(reason: str, error: FastposError | None = None, code: int | None = None) -> Cause:
    return cause_of(Disconnect(reason=reason, error=error, close_code=code))


@pytest.mark.parametrize(
    ("cause", "found"),
    [
        (Cause.STOPPED, of("stopped")),
        (Cause.CLOSED, of("closed by the server with code 1012", None, 1012)),
        (Cause.REFUSED, of("no upgrade", ConnectionFailed("no upgrade", 502))),
        (Cause.UNREACHABLE, of("nobody", ConnectionFailed("nobody"))),
        (Cause.AUTHENTICATION, of("bad", AuthenticationError("bad"))),
        (Cause.SUBSCRIPTION, of("no", SubscriptionError("no"))),
        (Cause.PROTOCOL, of("mask", ProtocolError("mask"))),
        (Cause.OTHER, of("unexpected KeyError: 1", FastposError("unexpected KeyError: 1"))),
    ],
)
def test_a_disconnect_has_a_cause(cause: Cause, found: Cause) -> None:
    assert found is cause


@pytest.mark.parametrize(
    ("cause", "fault"),
    [  # of which the first is looked at: what follows a fault that lasts may have another
        ("lost", lambda exchange: exchange.drop()),
        ("closed", lambda exchange: exchange.drop(clean=True, code=1012)),
        ("closed", lambda exchange: exchange.system_close(close_after=0.0)),
        ("pong_timeout", lambda exchange: exchange.stall()),
        ("protocol", lambda exchange: exchange.announce_frame(1 << 40)),
    ],
)
def test_the_end_of_a_real_connection_has_a_cause(
    bench: Bench, cause: str, fault: Callable[[Exchange], object]
) -> None:
    times = {"ping_interval": 0.05, "pong_timeout": 0.2} if cause == "pong_timeout" else {}
    stream = bench.start(**times)
    fault(bench.exchange)
    until(lambda: stream.stats.causes)
    assert next(iter(stream.stats.causes)) == cause


@pytest.mark.parametrize(
    ("cause", "fault", "options"),
    [
        ("refused", lambda exchange: exchange.refuse_upgrade(502), {}),
        (
            "subscription",
            lambda exchange: exchange.refuse_subscription("busy"),
            {"subscribe_timeout": 0.1},
        ),
        (
            "subscription",
            lambda exchange: exchange.ignore_subscription(),
            {"subscribe_timeout": 0.1},
        ),
        ("authentication", lambda _: None, {"api_key": "no-such-key-9"}),
    ],
)
def test_a_connection_that_can_not_be_made_has_a_cause(
    bench: Bench,
    cause: str,
    fault: Callable[[Exchange], object],
    options: dict[str, Any],
) -> None:
    fault(bench.exchange)
    stream = bench.new(**options).start()
    until(lambda: stream.stats.causes)
    assert [*stream.stats.causes] == [cause]


def test_where_nobody_listens_it_is_unreachable(new_stream: NewStream) -> None:
    stream = new_stream(f"ws://127.0.0.1:{free_port()}/").start()
    until(lambda: stream.stats.causes)
    assert [*stream.stats.causes] == ["unreachable"]
    assert (stream.stats.attempts, stream.stats.connects) >= (1, 0)


# --- many streams ---------------------------------------------------------------------------------


def test_a_fleets_numbers_are_sums_and_what_is_worst_and_have_no_name(
    bench: Bench, new_stream: NewStream
) -> None:
    names = ("alice", "bob", "carol")
    streams = [bench.new(name=name, ping_interval=0.05) for name in names]
    alice = streams[0]
    with Fleet(streams) as fleet:
        assert fleet.wait_ready(SOON)
        bench.push(1, 2)
        bench.wait("on_order", 6)
        scrape = Scraper(fleet)
        until(lambda: all(stream.stats.round_trip_s for stream in streams))
        now = scrape()
        assert now("fastpos_up") == 1
        assert now("fastpos_messages_total", channel="order") == 6
        assert now("fastpos_streams", state="ready") == 3
        longest = max(stream.stats.round_trip_s or 0 for stream in streams)
        assert (now("fastpos_ping_seconds") or 0) <= max(longest, now("fastpos_ping_seconds") or 0)
        assert abs((now("fastpos_fleet_last_turn_timestamp_seconds") or 0) - time.time()) < SOON
        assert (now("fastpos_fleet_slowest_turn_seconds") or 0) > 0
        alice.stop()
        worse = scrape()
        assert worse("fastpos_up") == 0
        assert worse("fastpos_streams", state="ready") == 2
        assert not any(name in worse.text for name in names)
        named = Scraper(fleet, per_stream=True)()
        assert named("fastpos_up", stream="alice") == 0
        assert named("fastpos_up", stream="bob") == 1
        assert named("fastpos_messages_total", stream="bob", channel="order") == 2
        assert named("fastpos_callback_seconds_bucket", stream="bob", le="+Inf") is not None
        assert named("fastpos_streams", state="ready") == 2
    assert scrape()("fastpos_fleet_last_turn_timestamp_seconds") is None


def test_sums_do_not_fall_when_streams_go_and_are_not_doubled_when_they_return(
    bench: Bench,
) -> None:
    alice, bob = bench.new(name="alice"), bench.new(name="bob")
    with Fleet([alice, bob]) as fleet:
        scrape = Scraper(fleet)
        assert fleet.wait_ready(SOON)
        bench.push(1, 2)
        bench.wait("on_order", 4)
        orders = lambda: scrape()("fastpos_messages_total", channel="order")  # noqa: E731
        assert orders() == 4
        before = scrape()
        fleet.remove(alice)
        after = scrape()
        for key, number in before.counters().items():
            assert after.counters()[key] >= number, key
        assert orders() == 4
        bench.push(3)
        bench.wait("on_order", 5)
        assert orders() == 5
        fleet.add(alice)
        assert fleet.wait_ready(SOON)
        assert orders() == 5
        bench.push(4)
        bench.wait("on_order", 7)
        assert orders() == 7
        fleet.remove(bob)
        fleet.remove(alice)
        assert orders() == 7
        assert scrape()("fastpos_up") is None  # there is none
        fleet.add(bench.new(name="alice"))  # another one
        assert fleet.wait_ready(SOON)
        bench.push(5)
        bench.wait("on_order", 8)
        assert orders() == 8


def test_two_of_one_name_are_one_series(bench: Bench) -> None:
    first, second = bench.new(name="alice"), bench.new(name="alice")
    with first, second:
        assert first.wait_ready(SOON)
        assert second.wait_ready(SOON)
        scrape = Scraper(first, second, first, per_stream=True)()
        assert scrape("fastpos_connects_total", stream="alice") == 2


def test_a_scrape_neither_fails_nor_holds_up_a_stream_while_streams_come_and_go(
    bench: Bench,
) -> None:
    stays = bench.new(name="stays")
    with Fleet([stays], connect_rate=None) as fleet:
        assert fleet.wait_ready(SOON)
        scrape, over = Scraper(fleet), threading.Event()
        numbers = count()

        def come_and_go() -> None:
            while not over.is_set():
                fleet.remove(fleet.add(bench.new(name=f"guest-{next(numbers)}")))

        last: dict[object, float] = {}
        failed: list[str] = []

        def look() -> None:
            while not over.is_set():
                now = scrape().counters()
                with lock:
                    pass
                failed.extend(
                    f"{key}: {last[key]} {value}"
                    for key, value in now.items()
                    if value < last.get(key, 0)
                )
                last.update(now)

        lock = threading.Lock()
        threads = [threading.Thread(target=each) for each in (come_and_go, look)]
        for thread in threads:
            thread.start()
        for number in range(50):
            bench.push(number)
            until(lambda number=number: stays.stats.events.get("Order", 0) > number)
        until(lambda: next(numbers) > 20, 20)
        over.set()
        for thread in threads:
            thread.join()
        assert not failed


def test_who_scrapes_at_once_with_others_gets_the_same(bench: Bench) -> None:
    stream = bench.start()
    scrape = Scraper(stream)
    found: list[float | None] = []
    threads = [
        threading.Thread(
            target=lambda: found.extend(scrape()("fastpos_connects_total") for _ in range(20))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1.0] * 80


def test_a_fleet_that_is_held_up_says_since_when(bench: Bench) -> None:
    stream = bench.new()
    with Fleet([stream]) as fleet:
        assert fleet.wait_ready(SOON)
        assert (fleet.last_turn_s or 0) < SOON
        stream.on_order(bench.gate)
        bench.push(1)
        assert bench.entered.wait(SOON)
        until(lambda: (fleet.last_turn_s or 0) > 0.6)  # it turns every half second
        scrape = Scraper(fleet)()  # is not held up
        assert time.time() - (scrape("fastpos_fleet_last_turn_timestamp_seconds") or 0) > 0.6
        bench.open.set()
        until(lambda: (fleet.last_turn_s or 0) < 0.6)
    assert fleet.last_turn_s is None


# --- arguments ------------------------------------------------------------------------------------


def test_something_else_than_streams_is_refused(bench: Bench) -> None:
    with pytest.raises(TypeError, match="a stream or a fleet"):
        Collector()
    with pytest.raises(TypeError, match="not 7"):
        Collector(bench.new(), 7)  # type: ignore[arg-type]


def test_what_is_described_is_what_is_collected(bench: Bench) -> None:
    collector = Collector(bench.start())
    described = {metric.name: metric.type for metric in collector.describe()}
    collected = {metric.name: metric.type for metric in collector.collect()}
    assert collected.items() <= described.items()


# --- journals, publishers, followers --------------------------------------------------------------


def test_what_a_journal_does_not_write_is_seen(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal", flush_interval=0.02, buffer_bytes=8000)
    stream = bench.start(journal=journal)
    assert stream.journal is journal
    scrape = Scraper(stream)
    until(lambda: scrape()("fastpos_journal_waiting_bytes") == 0)
    now = scrape()
    assert now("fastpos_journal_failing") == now("fastpos_journal_lag_seconds") == 0

    def no_room(*_: object) -> None:
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(Segment, "write", no_room)
    bench.push(1)
    until(lambda: (scrape()("fastpos_journal_lag_seconds") or 0) > 0.2)
    assert (scrape()("fastpos_journal_waiting_bytes") or 0) > 0
    until(lambda: scrape()("fastpos_journal_failing") == 1)
    pushed = 1
    while not scrape()("fastpos_journal_lost_records_total"):
        bench.push(1)
        pushed += 1
    bench.wait("on_order", pushed)
    monkeypatch.undo()
    until(lambda: scrape()("fastpos_journal_failing") == 0)
    until(lambda: scrape()("fastpos_journal_waiting_bytes") == 0)
    lost = scrape()("fastpos_journal_lost_records_total") or 0
    assert scrape()("fastpos_journal_lag_seconds") == 0
    stream.stop()
    assert scrape()("fastpos_journal_lost_records_total") == lost
    stream.start()
    assert stream.wait_ready(SOON)
    assert scrape()("fastpos_journal_lost_records_total") == lost
    assert journal.stats.lost == lost


def test_what_is_published_is_counted_and_so_is_what_is_not(bench: Bench) -> None:
    from fastpos.redis import Publisher  # noqa: PLC0415 -- needs the extra

    with RedisServer() as redis:
        publisher = Publisher(redis.url, buffer_events=20)
        stream = bench.start(publisher=publisher)
        assert (stream.publisher, stream.journal) == (publisher, None)
        scrape = Scraper(stream)
        until(lambda: (scrape()("fastpos_publisher_sent_records_total") or 0) >= 3)
        until(lambda: scrape()("fastpos_publisher_waiting_records") == 0)
        now = scrape()
        assert now("fastpos_publisher_failing") == now("fastpos_publisher_lost_records_total") == 0
        redis.kill()
        bench.push(*range(5))
        until(lambda: scrape()("fastpos_publisher_failing") == 1)
        until(lambda: (scrape()("fastpos_publisher_lag_seconds") or 0) > 0.2)
        until(lambda: (scrape()("fastpos_publisher_waiting_records") or 0) >= 5)
        bench.push(*range(5, 60))
        until(lambda: (scrape()("fastpos_publisher_lost_records_total") or 0) > 10)
        until(lambda: scrape()("fastpos_errors_total", kind="publisher"))
        sent = scrape()("fastpos_publisher_sent_records_total") or 0
        redis.start()
        until(lambda: scrape()("fastpos_publisher_failing") == 0)
        until(lambda: scrape()("fastpos_publisher_waiting_records") == 0)
        until(lambda: scrape()("fastpos_publisher_lag_seconds") == 0)
        assert (scrape()("fastpos_publisher_sent_records_total") or 0) >= sent + 20
        other = bench.new(publisher=Publisher(redis.url), name=stream.name).start()
        until(lambda: scrape()("fastpos_publisher_fenced_streams") == 1 or bench.push(99))
        other.stop()
        stream.stop()


def test_a_publisher_with_a_journal_says_for_how_long_redis_is_away(
    bench: Bench, tmp_path: Path
) -> None:
    from fastpos.redis import Publisher  # noqa: PLC0415

    with RedisServer(persistent=True) as redis:
        journal = Journal(tmp_path / "journal", flush_interval=0.02)
        publisher = Publisher(redis.url, journal=journal)
        stream = bench.start(publisher=publisher)
        assert stream.journal is journal
        scrape = Scraper(stream)
        until(lambda: (scrape()("fastpos_publisher_sent_records_total") or 0) >= 3)
        redis.kill()
        bench.push(1)
        until(lambda: scrape()("fastpos_publisher_failing") == 1)
        until(lambda: (scrape()("fastpos_publisher_lag_seconds") or 0) > 0.3)
        assert scrape()("fastpos_journal_failing") == 0
        redis.start()
        until(lambda: scrape()("fastpos_publisher_lag_seconds") == 0)
        stream.stop()
        assert scrape()("fastpos_publisher_lost_records_total") == 0


def test_a_scrape_waits_for_no_lock_that_a_stream_needs(bench: Bench, tmp_path: Path) -> None:
    from fastpos.redis import Publisher  # noqa: PLC0415

    publisher = Publisher(
        f"redis://127.0.0.1:{free_port()}/0", journal=Journal(tmp_path / "journal")
    )
    stream = bench.new(publisher=publisher)
    journal = stream.journal
    assert journal is not None
    with Fleet([stream]) as fleet:
        assert fleet.wait_ready(SOON)
        scrape, found = Scraper(fleet), list[float | None]()
        stream.on_order(bench.gate)  # nor for the loop
        bench.push(1)
        assert bench.entered.wait(SOON)
        looking = threading.Thread(target=lambda: found.append(scrape()("fastpos_up")))
        with publisher._lock, journal._lock, journal._episode, fleet._changing:
            looking.start()
            looking.join(SOON)
            assert found == [1]
        bench.open.set()


def test_a_follower_is_up_while_it_follows(bench: Bench) -> None:
    from fastpos.redis import Publisher, RemoteStream  # noqa: PLC0415

    with RedisServer(persistent=True) as redis:
        owner = bench.start(publisher=Publisher(redis.url), name="alice")
        with RemoteStream(redis.url, "alice") as follower:
            scrape = Scraper(follower)
            assert follower.wait_ready(SOON)
            bench.push(1)
            until(lambda: scrape()("fastpos_messages_total", channel="order") == 1)
            now = scrape()
            assert now("fastpos_up") == now("fastpos_connects_total") == 1
            assert now("fastpos_gap_seconds_total") == 0
            assert now("fastpos_ping_seconds") is None
            redis.kill()
            until(lambda: scrape()("fastpos_up") == 0)
            until(lambda: scrape()("fastpos_disconnects_total", reason="redis"))
            until(lambda: (scrape()("fastpos_gap_seconds_total") or 0) > 0.1)
            redis.start()
            until(lambda: scrape()("fastpos_up") == 1)
            gap = scrape()("fastpos_gap_seconds_total")
            assert gap == scrape()("fastpos_gap_seconds_total")
            owner.stop()
            until(lambda: scrape()("fastpos_up") == 0)
            until(lambda: scrape()("fastpos_stales_total") == 1, 10)


def test_a_replay_can_be_looked_at(bench: Bench, tmp_path: Path) -> None:
    stream = bench.start(journal=tmp_path)
    bench.push(1)
    bench.wait("on_order")
    stream.stop()
    replayed = replay(tmp_path)
    scrape = Scraper(replayed)()
    assert scrape("fastpos_messages_total", channel="order") == 1
    assert scrape("fastpos_disconnects_total", reason="stopped") == 1


def test_a_position_and_its_ticks_are_what_stale_is_about(bench: Bench) -> None:
    stream = bench.start(tick_timeout=0.3)
    bench.exchange.open_position()
    bench.wait("on_position")
    bench.exchange.tick()
    bench.wait("on_stale")
    assert Scraper(stream)()("fastpos_stales_total") == 1
    assert isinstance(bench.recorder.on_position[0], Position)
