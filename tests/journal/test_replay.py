"""`replay`: every function is called again as it was, and what is known is what was known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from fastpos import CallbackError, Order, Position, PositionStream, Snapshot
from fastpos.clock import monotonic
from fastpos.errors import ConnectionFailed, JournalError, SnapshotError
from fastpos.journal import Journal, read, replay
from fastpos.journal.replay import Players
from fastpos.simulator import Exchange
from tests.support.digest import told
from tests.support.recording import KEY, Recorder, until


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    with Exchange(api_key=KEY) as exchange:
        yield exchange


class Log(Recorder):
    """Keeps with each call what the stream showed at that moment."""

    def __init__(self) -> None:
        super().__init__()
        self.shown: list[tuple[Any, ...]] = []
        self.stream: PositionStream | None = None

    def _function(self, name: str) -> Callable[[Any], None]:
        record = super()._function(name)

        def note(event: Any) -> None:
            if self.stream is not None:
                self.shown.append(state_of(self.stream))
            record(event)

        return note

    @property
    def told(self) -> list[bytes]:
        return [told(name, event) for name, event in self.calls]


def state_of(stream: PositionStream) -> tuple[Any, ...]:
    """What a stream shows."""
    parts = (stream.positions, stream.balances, stream.orders, stream.triggers)
    shown = [[told("", each) for each in part.values() if each] for part in parts[:1]]
    rest = [sorted((id, str(each), each.stale) for id, each in part.items()) for part in parts[1:]]
    return (*shown, *rest, stream.synced)


def live(exchange: Exchange, folder: Path | Journal, log: Log, **arguments: Any) -> PositionStream:
    stream = PositionStream(
        exchange.url,
        api_key=KEY,
        broker=exchange.broker,
        journal=folder,
        **{"tick_timeout": None, **arguments},
        **log.callbacks,
    )
    log.stream = stream
    return stream


def again(folder: Path, log: Log, **arguments: Any) -> PositionStream:
    """Replay into a stream that the log looks at."""
    numbers = {record.values.get("number") for record in read(folder)}
    number = Decimal if "Decimal" in numbers else float
    stream = PositionStream(
        "ws://127.0.0.1:9",
        api_key="x",
        broker=1,
        number=number,
        name=next(read(folder)).stream,
        **log.callbacks,
    )
    log.stream = stream
    return replay(folder, into=stream, **arguments)


def a_day(exchange: Exchange, stream: PositionStream, log: Log) -> None:
    """Positions, orders, triggers, balances, ticks, gaps and pauses."""
    assert stream.wait_ready(5)
    exchange.set_balance("USDT", available=98000, frozen=2000)
    order = exchange.place_order(price=61001, volume=12)
    exchange.fill_order(order, volume=5)
    first = exchange.open_position(volume=5, open_price=61001)
    exchange.tick()
    exchange.place_trigger(trigger_price=60000, price=59990, volume=12)
    exchange.drop()
    log.wait("on_ready", 2)
    second = exchange.open_position(volume=1)
    exchange.update_position(first, volume=4, realized_pnl=210.5)
    exchange.tick()
    exchange.push({"channel": "news", "n": 1})
    exchange.push_bytes(b"no push")
    log.wait("on_unknown", 1)
    log.wait("on_error", 2)  # of the end of the connection, and of what is no push
    stream.unsubscribe()
    stream.subscribe()
    log.wait("on_ready", 3)
    exchange.close_position(second)
    exchange.system_close()
    log.wait("on_ready", 4)


@pytest.mark.parametrize("number", [float, Decimal])
def test_every_call_is_made_again_and_what_is_known_then_is_the_same(
    exchange: Exchange, tmp_path: Path, number: type
) -> None:
    before, after = Log(), Log()
    with live(exchange, tmp_path, before, number=number) as stream:
        a_day(exchange, stream, before)
    replayed = again(tmp_path, after)
    assert after.told == before.told
    assert after.shown == before.shown
    assert state_of(replayed) == state_of(stream)
    assert replayed.stats.events == stream.stats.events
    assert replayed.stats.disconnects == stream.stats.disconnects
    assert replayed.stats.subscriptions == stream.stats.subscriptions == 4
    assert replayed.stats.decode_errors == 1


def test_snapshots_are_merged_again_and_their_failures_told(
    exchange: Exchange, tmp_path: Path
) -> None:
    before, after = Log(), Log()
    answers: list[Any] = [
        SnapshotError("busy", retry_after=0.01),
        Snapshot(
            [Position(id=7, side="BUY", volume=Decimal("3.10"), open_price=0.1 + 0.2)],
            [],
            [Order(order_id="9", price=5.5, volume=1, type=1)],
            None,
        ),
        Snapshot([], []),
    ]

    def source() -> Snapshot:
        answer = answers.pop(0) if answers else Snapshot([], [])
        if isinstance(answer, Exception):
            raise answer
        return answer

    with live(exchange, tmp_path, before, snapshot=source) as stream:
        assert stream.wait_ready(5)
        before.wait("on_synced", 1)
        exchange.open_position(volume=5)
        before.wait("on_position", 2)
        exchange.drop()
        before.wait("on_synced", 2)
        until(lambda: stream.synced)
    replayed = again(tmp_path, after)
    assert after.told == before.told
    assert after.shown == before.shown
    assert [event.source for event in after.on_position] == [
        event.source for event in before.on_position
    ]
    assert replayed.orders.keys() == stream.orders.keys() == {"9"}
    assert "on_error" in after.names


def test_a_second_process_begins_with_what_it_knew(exchange: Exchange, tmp_path: Path) -> None:
    first = Log()
    with live(exchange, tmp_path, first, name="a") as stream:
        assert stream.wait_ready(5)
        exchange.open_position(volume=5)
        first.wait("on_position")
        kept = stream.book.dump()
    logs = []
    for dump in (kept, None):  # as another process would
        log = Log()
        with live(exchange, tmp_path, log, name="a") as stream:
            pass
        stream = live(exchange, tmp_path, log, name="a")
        if dump is not None:
            stream.book.load(dump)
        with stream:
            assert stream.wait_ready(5)
            exchange.tick()
            log.wait("on_adl_price")
        logs.append(log)
        ended = stream
    after = Log()
    replayed = again(tmp_path, after)
    assert after.told == [*first.told, *logs[0].told, *logs[1].told]
    assert state_of(replayed) == state_of(ended)


def test_a_bot_of_a_subclass_is_replayed_into_and_may_stop(
    exchange: Exchange, tmp_path: Path
) -> None:
    log = Log()
    with live(exchange, tmp_path, log) as stream:
        assert stream.wait_ready(5)
        for _ in range(5):
            exchange.place_order(price=1, volume=1)
        log.wait("on_order", 5)

    class Bot(PositionStream):
        def on_order(self, order: Order) -> None:  # type: ignore[override]
            seen.append(order)
            if len(seen) == 3:
                self.stop()

    seen: list[Order] = []
    bot = Bot("ws://127.0.0.1:9", api_key="x", broker=1)
    assert replay(tmp_path, into=bot) is bot
    assert len(seen) == 3
    assert replay(tmp_path, into=bot) is bot
    assert len(seen) == 8
    with pytest.raises(TypeError, match="into has its own arguments"):
        replay(tmp_path, into=bot, on_order=print)


def test_what_a_function_raises_goes_to_on_error(exchange: Exchange, tmp_path: Path) -> None:
    log = Log()
    with live(exchange, tmp_path, log) as stream:
        assert stream.wait_ready(5)
        exchange.place_order(price=1, volume=1)
        log.wait("on_order")

    def fail(order: Order) -> None:
        raise ValueError("of the bot")

    errors: list[Exception] = []
    replay(tmp_path, on_order=fail, on_error=errors.append)
    (error,) = errors
    assert isinstance(error, CallbackError)


@pytest.mark.parametrize("speed", [1.0, 10.0])
def test_the_recorded_pace_is_kept(exchange: Exchange, tmp_path: Path, speed: float) -> None:
    log = Log()
    with live(exchange, tmp_path, log) as stream:
        assert stream.wait_ready(5)
        push_at = monotonic() + 0.3
        until(lambda: monotonic() >= push_at)
        exchange.place_order(price=1, volume=1)
        log.wait("on_order")
    times: list[float] = []
    began = monotonic()
    replay(
        tmp_path,
        speed=speed,
        on_ready=lambda _: times.append(monotonic()),
        on_order=lambda _: times.append(monotonic()),
    )
    ready, order = (
        record.received_ns for record in read(tmp_path) if record.kind in ("subscribed", "push")
    )
    lasted = (order - ready) / 1e9 / speed
    # The first is told a moment after its time, the second not before its own.
    assert lasted - (times[0] - began) <= times[1] - times[0] < lasted + 5.0


@pytest.mark.parametrize("speed", [0, -1, "max", None])
def test_a_speed_that_makes_no_sense_is_refused(tmp_path: Path, speed: Any) -> None:
    with pytest.raises((ValueError, JournalError), match=r"speed|no segment"):
        replay(tmp_path, speed=speed)


def test_of_several_streams_one_is_to_be_named(exchange: Exchange, tmp_path: Path) -> None:
    logs = {name: Log() for name in ("alice", "bob")}
    with (
        live(exchange, tmp_path, logs["alice"], name="alice") as alice,
        live(exchange, tmp_path, logs["bob"], name="bob") as bob,
    ):
        assert alice.wait_ready(5)
        assert bob.wait_ready(5)
        exchange.open_position(volume=5)
        for log in logs.values():
            log.wait("on_position")
    with pytest.raises(ValueError, match=r"several streams, .* say which"):
        replay(tmp_path)
    with pytest.raises(ValueError, match="nothing of a stream 'carol'"):
        replay(tmp_path, stream="carol")
    assert len(replay(tmp_path, stream="bob").positions) == 1
    players = Players(lambda name, number: made[name])
    made = {name: PositionStream("ws://h", api_key="k", broker=1, name=name) for name in logs}
    players.play(read(tmp_path))
    assert players.streams == made
    assert [len(stream.positions) for stream in made.values()] == [1, 1]


def test_a_journal_with_a_hole_says_so(exchange: Exchange, tmp_path: Path) -> None:
    log = Log()
    with live(exchange, tmp_path, log, name="a") as stream:
        assert stream.wait_ready(5)
    (path,) = tmp_path.glob("*.gz")
    extra = (
        b'{"ns":1,"stream":"a","connection":1,"kind":"dropped","count":3,'
        b'"from_ns":1000000000,"to_ns":3000000000}\n'
    )
    import gzip  # noqa: PLC0415

    path.with_name("zz.jsonl").write_bytes(gzip.decompress(path.read_bytes()) + extra)
    path.unlink()
    errors: list[Exception] = []
    replay(tmp_path, on_error=errors.append)
    assert [error.message for error in errors] == ["3 records of 2.0 s are not in the journal"]


def test_what_can_not_be_replayed_into_is_refused(exchange: Exchange, tmp_path: Path) -> None:
    log = Log()
    journal = Journal(tmp_path / "day")
    with live(exchange, journal, log) as stream:
        assert stream.wait_ready(5)
        assert journal.flush()
        with pytest.raises(ValueError, match="has a journal"):
            replay(tmp_path / "day", into=stream)
        other = PositionStream(exchange.url, api_key=KEY, broker=exchange.broker)
        with other:
            assert other.wait_ready(5)
            with pytest.raises(RuntimeError, match="running"):
                replay(tmp_path / "day", into=other)
    threaded = PositionStream("ws://h", api_key="k", broker=1, dispatch="thread")
    with pytest.raises(ValueError, match="dispatch"):
        replay(tmp_path / "day", into=threaded)


def test_a_replay_may_begin_while_a_snapshot_was_on_its_way(
    exchange: Exchange, tmp_path: Path
) -> None:
    log, after = Log(), Log()
    with live(
        exchange, tmp_path, log, snapshot=lambda: Snapshot([Position(id=7, side="BUY")], [])
    ) as stream:
        assert stream.wait_ready(5)
        log.wait("on_synced")
    (taken,) = (each for each in read(tmp_path) if each.kind == "snapshot")
    replayed = again(tmp_path, after, since=taken.received_ns)
    assert after.names[:2] == ["on_position", "on_synced"]
    assert replayed.positions.keys() == {7}


def test_what_a_source_gives_that_is_no_snapshot_does_not_end_the_connection(
    exchange: Exchange, tmp_path: Path
) -> None:
    before, after = Log(), Log()
    answers: list[Any] = [Snapshot([object()], []), Snapshot([], [])]  # type: ignore[list-item]
    with live(exchange, tmp_path, before, snapshot=lambda: answers.pop(0)) as stream:
        assert stream.wait_ready(5)
        before.wait("on_synced", 1)
    again(tmp_path, after)
    assert before.names == ["on_error", "on_synced", "on_disconnect"]
    assert after.told == before.told


def test_an_error_of_somebody_s_own_class_is_replayed_as_the_nearest(
    exchange: Exchange, tmp_path: Path
) -> None:
    class Gone(SnapshotError):
        """Its arguments are not those of its base."""

        def __init__(self, path: str, reasons: list[str]) -> None:
            super().__init__(f"{path} is gone")
            self.args = (self.args[0], reasons, 1, 2, 3)

    def source() -> Snapshot:
        if answers:
            return answers.pop()
        answers.append(Snapshot([], []))
        raise Gone("\udcff", ["odd"])  # a path as the system gives it

    answers: list[Snapshot] = []
    before, after = Log(), Log()
    with live(exchange, tmp_path, before, snapshot=source) as stream:
        assert stream.wait_ready(5)
        before.wait("on_synced", 1)
    again(tmp_path, after)
    assert after.names == before.names == ["on_error", "on_synced", "on_disconnect"]
    assert type(after.on_error[0]) is SnapshotError
    assert str(after.on_error[0]) == str(before.on_error[0])
    assert after.on_error[0].message == "\udcff is gone"


def test_a_process_that_only_loaded_its_book_leaves_nothing_to_the_next(
    exchange: Exchange, tmp_path: Path
) -> None:
    log = Log()
    with live(exchange, tmp_path / "other", log, name="a") as stream:
        assert stream.wait_ready(5)
        exchange.open_position(volume=5)
        log.wait("on_position")
    dump = stream.book.dump()
    exchange.refuse_upgrade(503, times=1)
    first = live(exchange, tmp_path / "day", Log(), name="a", reconnect=None)
    first.book.load(dump)
    with pytest.raises(ConnectionFailed):
        first.run_forever()
    assert first.positions
    with live(exchange, tmp_path / "day", log, name="a") as second:
        assert second.wait_ready(5)
    assert second.positions == again(tmp_path / "day", Log()).positions == {}


def test_what_was_replayed_into_and_has_no_source_wants_no_snapshot_afterwards(
    exchange: Exchange, tmp_path: Path
) -> None:
    with live(exchange, tmp_path, Log()) as stream:
        assert stream.wait_ready(5)
    bot = PositionStream(exchange.url, api_key=KEY, broker=exchange.broker)
    with replay(tmp_path, into=bot):
        assert bot.wait_ready(5)
        assert not bot._sync.pending


def test_a_record_that_makes_no_sense_is_told_as_such(exchange: Exchange, tmp_path: Path) -> None:
    with live(exchange, tmp_path, Log(), name="a") as stream:
        assert stream.wait_ready(5)
    (path,) = tmp_path.glob("*.gz")
    import gzip  # noqa: PLC0415

    content = gzip.decompress(path.read_bytes())
    path.unlink()
    for rest in (b'"kind":"snapshot","positions":[7]}', b'"kind":"snapshot_failed","error":[]}'):
        line = b'{"ns":1,"stream":"a","connection":1,' + rest + b"\n"
        path.with_name("zz.jsonl").write_bytes(content + line)
        with pytest.raises(JournalError, match=r"can.t be used"):
            replay(tmp_path)
