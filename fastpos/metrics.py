"""`Collector`: what streams do, as Prometheus' metrics.

What is counted is counted by the streams anyway (runtime/stats.py); it is looked at when Prometheus
asks, on the thread that answers it, and nothing is done for it before. Each metric is one line in
the tables below. docs/metrics.md tells what they are for.

MANY STREAMS, ONE NUMBER

An account's name is in a label only where that is asked for. Else one number stands for all:
of counters it is the sum, of a gauge the worst.

A sum must not fall when a stream goes: Prometheus takes that for a restart. So the last counts of
one that has gone are kept, and taken out again if it comes back (`_Sums`).
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from time import sleep, time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

from . import __version__
from ._c import compiled
from .fleet import Fleet
from .model.exchange import CHANNELS
from .runtime.causes import ERROR_KINDS, Cause
from .runtime.run import State
from .runtime.stats import Stats
from .runtime.timing import BOUNDS
from .stream import PositionStream

try:
    from prometheus_client.core import (
        CounterMetricFamily,
        GaugeMetricFamily,
        HistogramMetricFamily,
        Metric,
    )
except ImportError:
    raise ImportError(
        'fastpos.metrics needs the package prometheus_client: pip install "fastpos[metrics]"'
    ) from None

if TYPE_CHECKING:
    from .journal.journal import Journal
    from .redis.publisher import PublisherStats

__all__ = ["Collector"]

# After so many streams a pause is made, as who reads them needs the interpreter, too.
AT_ONCE = 20
PAUSE = 0.0002  # seconds
# What a stream does that has ended: there is nothing to say of how it is.
_ENDED = (State.STOPPED.value, State.FAILED.value)
# Of a histogram, in place of the label's value.
_SUM = "sum"
_BOUNDS = (*map(str, BOUNDS), "+Inf")

# Numbers by the value of the metric's label; "" where it has none.
_Values = dict[str, float]


@runtime_checkable
class _Counts(Protocol):
    """What publishes, and says how it does: a `fastpos.redis.Publisher`."""

    @property
    def stats(self) -> PublisherStats:
        """How it does."""


class _Line(NamedTuple):
    """A metric."""

    name: str
    kind: type[Metric]
    text: str
    read: Callable[[Any], _Values]
    """Gives the numbers of one stream, or whatever it is of; none where there is nothing to say."""
    label: str = ""
    together: Callable[[Iterable[float]], float] = sum
    """Makes one number of several streams'."""


def _counter(
    name: str,
    text: str,
    read: Callable[[Any], float | dict[str, int]],
    label: str = "",
    known: Iterable[str] = (),
) -> _Line:
    """Give a counter; `known` are the label's values, which are there from the beginning."""
    zeros = dict.fromkeys(known, 0)

    def values(of: Any) -> _Values:
        found = read(of)
        return {**zeros, **found} if isinstance(found, dict) else {"": found}

    return _Line(name, CounterMetricFamily, text, values, label)


def _gauge(
    name: str,
    text: str,
    worst: Callable[[Iterable[float]], float],
    read: Callable[[Any], float | None],
) -> _Line:
    def values(of: Any) -> _Values:
        found = read(of)
        return {} if found is None else {"": float(found)}

    return _Line(name, GaugeMetricFamily, text, values, together=worst)


def _while_it_runs(read: Callable[[Stats], float | None]) -> Callable[[Stats], float | None]:
    return lambda stats: None if stats.state in _ENDED else read(stats)


_CHANNELS = {channel.event.__name__: str(channel.name) for channel in CHANNELS}


def _by_channel(stats: Stats) -> dict[str, int]:
    return {_CHANNELS.get(event, "unknown"): count for event, count in stats.events.items()}


def _by_time(stats: Stats) -> _Values:
    counts = zip(_BOUNDS, stats.callback_counts, strict=True)
    return {**{bound: float(count) for bound, count in counts}, _SUM: stats.callback_total_s}


def _last_message(stats: Stats) -> float | None:
    return None if stats.last_message_ns is None else stats.last_message_ns / 1e9


_OF_STREAMS: tuple[_Line, ...] = (
    _gauge(
        "fastpos_up",
        "1 while the stream is subscribed, so that pushes come; of several: all are.",
        min,
        lambda stats: stats.state == State.READY.value,
    ),
    _gauge(
        "fastpos_synced",
        "1 while positions and balances are the account's; of several: all are. "
        "Only where there is a snapshot source.",
        min,
        _while_it_runs(lambda stats: stats.synced),
    ),
    _counter(
        "fastpos_messages_total",
        "Pushes decoded, by the exchange's channel.",
        _by_channel,
        "channel",
        (*_CHANNELS.values(), "unknown"),
    ),
    _counter(
        "fastpos_received_bytes_total",
        "Bytes read off the network, after decryption.",
        lambda stats: stats.bytes_received,
    ),
    _gauge(
        "fastpos_last_message_timestamp_seconds",
        "When something was last received, Unix time; of several: of the one that has been "
        "silent for longest.",
        min,
        _while_it_runs(_last_message),
    ),
    _gauge(
        "fastpos_ping_seconds",
        "From the last answered ping to its pong; of several: the longest.",
        max,
        _while_it_runs(lambda stats: stats.round_trip_s),
    ),
    _counter(
        "fastpos_connect_attempts_total",
        "Connections that were tried.",
        lambda stats: stats.attempts,
    ),
    _counter(
        "fastpos_connects_total",
        "Connections that were opened.",
        lambda stats: stats.connects,
    ),
    _counter(
        "fastpos_subscriptions_total",
        "Times the stream became subscribed.",
        lambda stats: stats.subscriptions,
    ),
    _counter(
        "fastpos_disconnects_total",
        "Connections that ended or could not be made, by why.",
        lambda stats: stats.causes,
        "reason",
        [cause.value for cause in Cause],
    ),
    _counter(
        "fastpos_gap_seconds_total",
        "Seconds without pushes, since the stream was first subscribed and while it was not "
        "stopped; the gap that is under way included.",
        lambda stats: stats.gap_s,
    ),
    _counter(
        "fastpos_stales_total",
        "Times of silence that should not be: no ticks though a position is open, or nobody "
        "publishes the account.",
        lambda stats: stats.stales,
    ),
    _counter(
        "fastpos_errors_total",
        "Errors that did not end the stream, by kind.",
        lambda stats: stats.errors,
        "kind",
        ERROR_KINDS.values(),
    ),
    _Line(
        "fastpos_callback_seconds",
        HistogramMetricFamily,
        "How long calls of callbacks took.",
        _by_time,
    ),
    _gauge(
        "fastpos_callback_running_seconds",
        "For how long the callback that runs has been running, 0 where none does; of several: "
        "the longest.",
        max,
        _while_it_runs(lambda stats: stats.current_callback_s),
    ),
    _gauge(
        "fastpos_event_lag_seconds",
        "How long the last event waited from its receipt until its callback began; of several: "
        "the longest.",
        max,
        _while_it_runs(lambda stats: stats.lag_s),
    ),
    _gauge(
        "fastpos_queued_events",
        "Events that wait for a callback thread; of several: the most.",
        max,
        _while_it_runs(lambda stats: stats.queue_depth),
    ),
    _counter(
        "fastpos_conflated_ticks_total",
        "Ticks dropped in favour of a newer one, because the queue was full.",
        lambda stats: stats.conflated_ticks,
    ),
)


def _states(counts: Counter[str]) -> _Values:
    return {state.value: float(counts[state.value]) for state in State}


_STREAMS = _Line(
    "fastpos_streams",
    GaugeMetricFamily,
    "How many streams do what at this moment.",
    _states,
    "state",
)


def _last_turn(fleet: Fleet) -> float | None:
    age = fleet.last_turn_s
    return None if age is None else time() - age


_OF_FLEETS: tuple[_Line, ...] = (
    _gauge(
        "fastpos_fleet_last_turn_timestamp_seconds",
        "When the fleet's loop began its last turn, Unix time.",
        min,
        _last_turn,
    ),
    _gauge(
        "fastpos_fleet_slowest_turn_seconds",
        "The longest time for which one stream has kept the fleet's others waiting, since the "
        "fleet was started.",
        max,
        lambda fleet: fleet.slowest_turn_s,
    ),
)


_OF_JOURNALS: tuple[_Line, ...] = (
    _gauge(
        "fastpos_journal_failing",
        "1 while the journal can't be written, or is written too slowly.",
        max,
        lambda stats: stats.is_failing,
    ),
    _gauge(
        "fastpos_journal_lag_seconds",
        "How long ago the oldest record came that is not in the journal's file.",
        max,
        lambda stats: stats.lag_s,
    ),
    _gauge(
        "fastpos_journal_waiting_bytes",
        "Bytes that wait to be written in the journal.",
        max,
        lambda stats: stats.waiting_bytes,
    ),
    _counter(
        "fastpos_journal_lost_records_total",
        "Records that the journal did not take, as too much waited.",
        lambda stats: stats.lost,
    ),
)

_OF_PUBLISHERS: tuple[_Line, ...] = (
    _gauge(
        "fastpos_publisher_failing",
        "1 while nothing can be published.",
        max,
        lambda stats: stats.is_failing,
    ),
    _gauge(
        "fastpos_publisher_lag_seconds",
        "How long ago the oldest record came that Redis does not have.",
        max,
        lambda stats: stats.lag_s,
    ),
    _gauge(
        "fastpos_publisher_waiting_records",
        "Records that wait in memory to be published.",
        max,
        lambda stats: stats.waiting,
    ),
    _gauge(
        "fastpos_publisher_fenced_streams",
        "How many of the streams another process publishes now.",
        max,
        lambda stats: stats.fenced,
    ),
    _counter(
        "fastpos_publisher_sent_records_total",
        "Records that Redis has taken.",
        lambda stats: stats.sent,
    ),
    _counter(
        "fastpos_publisher_lost_records_total",
        "Records that were not published, as too much waited, or that Redis has lost.",
        lambda stats: stats.lost,
    ),
)

_INFO = "fastpos_build_info", "1, with what is installed in the labels."

# --- sums over what comes and goes ----------------------------------------------------------------

# Of a counter its name and its label's value.
_Totals = dict[tuple[str, str], float]


class _Sums:
    """Adds up the counters of the streams that there are and of those that there were."""

    def __init__(self) -> None:
        self._here: tuple[PositionStream, ...] = ()
        self._gone: WeakKeyDictionary[PositionStream, _Totals] = WeakKeyDictionary()
        self._past: Counter[tuple[str, str]] = Counter()

    def add_past(self, here: dict[PositionStream, Stats]) -> dict[str, _Values]:
        """Give what is to be added, by metric, to the counts of those that are here."""
        for stream in self._here:
            if stream not in here:
                self._gone[stream] = totals = _totals(stream.stats)
                self._past.update(totals)
        for stream in here:
            if stream in self._gone:
                self._past.subtract(self._gone.pop(stream))
        self._here = tuple(here)
        past: dict[str, _Values] = {}
        for (name, value), number in self._past.items():
            past.setdefault(name, {})[value] = number
        return past


def _totals(stats: Stats) -> _Totals:
    return {
        (line.name, value): number
        for line in _OF_STREAMS
        if line.kind is not GaugeMetricFamily
        for value, number in line.read(stats).items()
    }


# --- the collector --------------------------------------------------------------------------------


class Collector:
    """Gives Prometheus the numbers of streams: `REGISTRY.register(Collector(fleet))`.

    A registry takes one: give it all that there is. What is added to a fleet later comes with it.

    Threads: whoever scrapes reads, one at a time (`_lock`); no stream waits for it. It keeps what
    it has seen last until the next scrape, also if that was removed from its fleet.

    Args:
        sources: streams (a `RemoteStream` is one) and fleets.
        per_stream: have each stream's name as the label ``stream``. False: one number for all, a
            counter's sum and a gauge's worst.

    Raises:
        TypeError: something else was given, or nothing.
        ImportError: prometheus_client is not there (extra "metrics").
    """

    def __init__(self, *sources: PositionStream | Fleet, per_stream: bool = False) -> None:
        if not sources:
            raise TypeError("a Collector needs a stream or a fleet")
        for source in sources:
            if not isinstance(source, (PositionStream, Fleet)):
                raise TypeError(f"a PositionStream or a Fleet is needed, not {source!r}")
        self._sources = sources
        self._labels = ("stream",) if per_stream else ()
        self._lock = threading.Lock()  # guards all that follows
        self._sums = _Sums()
        # All that were ever seen: there are few, and so their counts do not fall.
        self._journals: dict[Journal, None] = {}
        self._publishers: dict[_Counts, None] = {}

    def describe(self) -> Iterator[Metric]:
        """Give the metrics without numbers: what a registry asks for when it takes this."""
        yield self._build_info()
        for line in (*_OF_STREAMS, _STREAMS, *_OF_FLEETS, *_OF_JOURNALS, *_OF_PUBLISHERS):
            yield _family(line, self._labels if line in _OF_STREAMS else ())

    def collect(self) -> Iterator[Metric]:
        """Give the metrics as they are now, those that have a number."""
        with self._lock:
            families = self._collected()
        return iter(families)

    def _collected(self) -> list[Metric]:
        streams: dict[PositionStream, Stats] = {}
        for stream in self._all_streams():
            streams[stream] = stream.stats
            if stream.journal is not None:
                self._journals[stream.journal] = None
            if isinstance(stream.publisher, _Counts):
                self._publishers[stream.publisher] = None
            _let_others_on(len(streams))
        fleets = [source for source in self._sources if isinstance(source, Fleet)]
        states = Counter(stats.state for stats in streams.values())
        families = [self._build_info(), *self._of_streams(streams)]
        for lines, things in (
            ((_STREAMS,), [states]),
            (_OF_FLEETS, fleets),
            (_OF_JOURNALS, [journal.stats for journal in self._journals]),
            (_OF_PUBLISHERS, [publisher.stats for publisher in self._publishers]),
        ):
            families += [_filled(line, [((), things)]) for line in lines]
        return [family for family in families if family.samples]

    def _all_streams(self) -> Iterator[PositionStream]:
        """Give each once."""
        seen = set()
        for source in self._sources:
            for stream in source.streams.values() if isinstance(source, Fleet) else (source,):
                if stream not in seen:
                    seen.add(stream)
                    yield stream

    def _of_streams(self, streams: dict[PositionStream, Stats]) -> Iterator[Metric]:
        groups: dict[tuple[str, ...], list[Stats]] = {}
        past: dict[str, _Values] = {}
        if self._labels:  # of several of one name: one number
            for stream, stats in streams.items():
                groups.setdefault((stream.name,), []).append(stats)
        else:
            groups[()] = list(streams.values())
            past = self._sums.add_past(streams)
        for line in _OF_STREAMS:
            yield _filled(line, groups.items(), past.get(line.name, {}), self._labels)
            if len(streams) >= AT_ONCE:
                sleep(PAUSE)

    def _build_info(self) -> Metric:
        family = GaugeMetricFamily(*_INFO, labels=["version", "compiled"])
        family.add_metric([__version__, "yes" if compiled else "no"], 1)
        return family


def _let_others_on(number: int) -> None:
    """Make a pause after so many streams, now and then."""
    if number % AT_ONCE == 0:
        sleep(PAUSE)


def _family(line: _Line, labels: Sequence[str]) -> Metric:
    names = [*labels, line.label] if line.label else [*labels]
    return line.kind(line.name.removesuffix("_total"), line.text, labels=names)  # type: ignore[call-arg]


def _filled(
    line: _Line,
    groups: Iterable[tuple[tuple[str, ...], list[Any]]],
    past: _Values | None = None,
    labels: Sequence[str] = (),
) -> Metric:
    """Give a metric with a number, or several, for each group.

    Args:
        line: which.
        groups: the values of `labels`, and what the numbers are read from.
        past: what is to be added.
        labels: the names of labels beside its own.
    """
    family: Any = _family(line, labels)
    for number, (named, group) in enumerate(groups, 1):
        _let_others_on(number)
        read = [line.read(each) for each in group]
        if past:
            read.append(past)
        values = {
            value: line.together([each[value] for each in read if value in each])
            for value in dict.fromkeys(value for each in read for value in each)
        }
        if not values:
            continue
        if line.kind is HistogramMetricFamily:
            _add_histogram(family, named, values)
        else:
            for value, sample in values.items():
                family.add_metric([*named, value] if line.label else [*named], sample)
    filled: Metric = family
    return filled


def _add_histogram(family: HistogramMetricFamily, labels: Sequence[str], values: _Values) -> None:
    buckets, total = [], 0.0
    for bound in _BOUNDS:
        total += values[bound]
        buckets.append((bound, total))
    family.add_metric(labels, buckets, values[_SUM])
