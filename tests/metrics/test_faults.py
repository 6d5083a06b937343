"""`Collector` where things go wrong: no count falls, and what has gone does not stay."""

from __future__ import annotations

import errno
import gc
import os
import threading
import weakref
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client")

from fastpos import Fleet, PositionStream
from fastpos.journal import Journal
from fastpos.journal.segments import Segment
from fastpos.metrics import Collector
from tests.support.bench import Bench
from tests.support.recording import SOON, until
from tests.support.scraped import Scraper

pytestmark = [pytest.mark.timeout(60), pytest.mark.usefixtures("tidy")]


def test_ticks_that_were_dropped_are_still_counted_after_a_fleet_was_started_anew(
    bench: Bench,
) -> None:
    stream = bench.new(queue_size=2)
    stream.on_order(bench.gate)
    fleet = Fleet([stream], callback_threads=1)
    scrape = Scraper(stream)
    conflated = lambda: scrape()("fastpos_conflated_ticks_total") or 0.0  # noqa: E731
    with fleet:
        assert fleet.wait_ready(SOON)
        bench.exchange.open_position()
        bench.push(1)
        assert bench.entered.wait(SOON)
        until(lambda: bench.exchange.tick() is not None and conflated() > 0)
        bench.open.set()
    dropped = conflated()
    assert dropped > 0
    with fleet:
        assert fleet.wait_ready(SOON)
        assert conflated() >= dropped
    fleet.remove(stream)
    assert conflated() >= dropped
    stream.start()
    assert conflated() >= dropped
    stream.stop()


def test_a_sum_of_seconds_does_not_fall_by_its_last_digit(bench: Bench) -> None:
    streams = [bench.new(name=f"s{number}") for number in range(3)]
    fleet = Fleet(streams)
    for stream, seconds in zip(streams, (0.1, 0.2, 0.3), strict=True):
        stream._times.total_s = seconds
        stream._counters.gap = seconds, None
    scrape, seen = Scraper(fleet), []
    look = lambda: seen.append(  # noqa: E731
        (scrape()("fastpos_gap_seconds_total"), scrape()("fastpos_callback_seconds_sum"))
    )
    look()
    for stream in (*streams, *streams[::-1], streams[1]):
        fleet.remove(stream)
        look()
        fleet.add(stream)
        look()
    assert seen == [seen[0]] * len(seen)


def test_counts_of_one_name_do_not_fall_when_one_of_two_goes(bench: Bench) -> None:
    first, second = bench.new(name="alice"), bench.new(name="alice")
    fleets = Fleet([first]), Fleet([second])
    first._counters.connects, second._counters.connects = 7, 5
    scrape = Scraper(*fleets, per_stream=True)
    assert scrape()("fastpos_connects_total", stream="alice") == 12
    fleets[0].remove(first)
    assert scrape()("fastpos_connects_total", stream="alice") == 12
    fleets[0].add(bench.new(name="alice"))
    assert scrape()("fastpos_connects_total", stream="alice") == 12
    fleets[1].remove(second)
    assert scrape()("fastpos_connects_total", stream="alice") == 12


def test_a_publisher_is_asked_once_however_many_streams_it_has(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("redis")
    from fastpos.redis import Publisher  # noqa: PLC0415

    publisher = Publisher("redis://127.0.0.1:1/0")
    asked = []
    stats = Publisher.stats.fget
    monkeypatch.setattr(Publisher, "stats", property(lambda self: asked.append(1) or stats(self)))
    scrape = Scraper(*(bench.new(name=f"s{n}", publisher=publisher) for n in range(5)))
    asked.clear()
    assert scrape()("fastpos_publisher_failing") == 0
    assert len(asked) == 1


def test_a_journal_that_has_gone_with_its_streams_is_not_failing_for_ever(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(tmp_path / "journal", flush_interval=0.02, buffer_bytes=8000)
    stream = bench.new(journal=journal)
    with Fleet([stream, bench.new(name="other")]) as fleet:
        assert fleet.wait_ready(SOON)
        scrape = Scraper(fleet)

        def no_room(*_: object) -> None:
            raise OSError(errno.ENOSPC, "no room")

        monkeypatch.setattr(Segment, "write", no_room)
        until(lambda: scrape()("fastpos_journal_lost_records_total") or bench.push(*range(50)))
        fleet.remove(stream)
        lost = scrape()("fastpos_journal_lost_records_total")
        assert lost
        assert scrape()("fastpos_journal_failing") in (0, None)
        assert scrape()("fastpos_journal_lag_seconds") in (0, None)
        monkeypatch.undo()


def test_what_was_removed_is_let_go_of(bench: Bench, tmp_path: Path) -> None:
    exchange = bench.exchange
    stream = PositionStream(
        exchange.url, api_key=exchange.api_key, broker=1, journal=Journal(tmp_path / "journal")
    )
    assert stream.journal is not None
    gone = weakref.ref(stream), weakref.ref(stream.journal)
    fleet = Fleet([stream, bench.new(name="stays")])
    scrape = Scraper(fleet)
    scrape()
    fleet.remove(stream)
    scrape()
    del stream
    gc.collect()
    assert [each() for each in gone] == [None, None]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_can_be_scraped_and_has_no_stream_that_is_up(bench: Bench) -> None:
    stream = bench.new()
    with Fleet([stream]) as fleet:
        assert fleet.wait_ready(SOON)
        collector = Collector(fleet)
        collector._lock.acquire()  # somebody scrapes just now
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                threading.Timer(5, os._exit, (3,)).start()
                found = {metric.name: metric for metric in collector.collect()}
                states = [s.labels["state"] for s in found["fastpos_streams"].samples if s.value]
                up = [s.value for s in found["fastpos_up"].samples]
                turn = "fastpos_fleet_last_turn_timestamp_seconds" in found
                os.write(write, repr((states, up, turn)).encode())
            finally:
                os._exit(0)
        os.close(write)
        collector._lock.release()
        said = os.read(read, 1000)
        os.close(read)
        os.waitpid(child, 0)
        assert said == b"(['stopped'], [0.0], False)"
        assert Scraper(fleet)()("fastpos_up") == 1
