"""`Collector`: what streams do, as Prometheus' metrics.

What is counted is counted by the streams anyway (runtime/stats.py); it is looked at when Prometheus
asks, on the thread that answers it, and nothing is done for it before. Each metric is one line in
the tables below. docs/metrics.md tells what they are for.

MANY STREAMS, ONE NUMBER

An account's name is in a label only where that is asked for. Else one number stands for all:
of counters it is the sum, of a gauge the worst.

A sum must not fall when a stream goes: Prometheus takes that for a restart. So the last counts of
one that has gone are kept, and taken out again if it comes back (`_Sums`). Nor may it fall by its
last digit, as one of floats does when it is added up in another order: seconds are added as whole
nanoseconds.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from time import sleep, time
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeGuard, TypeVar
from weakref import WeakKeyDictionary

from . import __version__
from ._c import compiled
from .fleet import Fleet
from .fork import OwnerProcess
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
_NS = 1_000_000_000

# Numbers by the value of the metric's label; "" where it has none.
_Values = dict[str, float]


class _Counts(Protocol):
    """What publishes, and says how it does: a `fastpos.redis.Publisher`."""

    @property
    def stats(self) -> PublisherStats:
        """How it does."""


def _is_counting(publisher: object) -> TypeGuard[_Counts]:
    return hasattr(type(publisher), "stats")  # of itself would have it add them up


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
    per: int = 1
    """By what a counter, or a histogram's sum, is divided when it is shown."""


def _counter(
    name: str,
    text: str,
    read: Callable[[Any], float | dict[str, int]],
    label: str = "",
    known: Iterable[str] = (),
    per: int = 1,
) -> _Line:
    """Give a counter; `known` are the label's values, which are there from the beginning."""
    zeros = dict.fromkeys(known, 0)

    def values(of: Any) -> _Values:
        found = read(of)
        return {**zeros, **found} if isinstance(found, dict) else {"": found}

    return _Line(name, CounterMetricFamily, text, values, label, per=per)


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
    return {**dict(counts), _SUM: _ns(stats.callback_total_s)}


def _ns(seconds: float) -> int:
    return round(seconds * _NS)


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
        lambda stats: _ns(stats.gap_s),
        per=_NS,
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
        per=_NS,
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
_T = TypeVar("_T")  # what has `stats`


class _Sums(Generic[_T]):
    """Adds up the counters of the streams, or whatever it is, that there are and that there were.

    Args:
        lines: of what.
    """

    def __init__(self, lines: Sequence[_Line]) -> None:
        self._lines = [line for line in lines if line.kind is not GaugeMetricFamily]
        self._here: tuple[Any, ...] = ()
        self._gone: WeakKeyDictionary[_T, _Totals] = WeakKeyDictionary()
        self._past: Counter[tuple[str, str]] = Counter()

    def add_past(self, here: dict[_T, Any]) -> dict[str, _Values]:
        """Give what is to be added, by metric, to the counts of those that are here.

        Args:
            here: of each its `stats`.
        """
        for each in self._here:
            if each not in here:
                self._gone[each] = totals = self._totals(each.stats)
                self._past.update(totals)
        for each in here:
            if each in self._gone:
                self._past.subtract(self._gone.pop(each))
        self._here = tuple(here)
        past: dict[str, _Values] = {}
        for (name, value), number in self._past.items():
            past.setdefault(name, {})[value] = number
        return past

    def _totals(self, stats: Any) -> _Totals:
        return {
            (line.name, value): number
            for line in self._lines
            for value, number in line.read(stats).items()
        }


class _Group(NamedTuple):
    """What one number is made of, of each metric."""

    labels: tuple[str, ...]
    """The values of labels beside the metric's own."""
    all: list[Any]
    """What it is read from."""
    past: Mapping[str, _Values] = MappingProxyType({})
    """By metric, what is to be added."""


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
        self._begin()
        self._owner = OwnerProcess()
        self._owner.in_child = self._begin  # the lock may be held there for ever
        self._owner.claim()

    def _begin(self) -> None:
        self._lock = threading.Lock()  # guards all that follows
        # By the name in the label; of () where one number is for all.
        self._sums: dict[tuple[str, ...], _Sums[PositionStream]] = {}
        self._of_journals: _Sums[Journal] = _Sums(_OF_JOURNALS)
        self._of_publishers: _Sums[_Counts] = _Sums(_OF_PUBLISHERS)

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
        journals: dict[Journal, Any] = {}
        publishers: dict[_Counts, Any] = {}
        for stream in self._all_streams():
            streams[stream] = stream.stats
            journal, publisher = stream.journal, stream.publisher
            if journal is not None and journal not in journals:
                journals[journal] = journal.stats
            if _is_counting(publisher) and publisher not in publishers:
                publishers[publisher] = publisher.stats
            _let_others_on(len(streams))
        fleets = [source for source in self._sources if isinstance(source, Fleet)]
        states = Counter(stats.state for stats in streams.values())
        families = [self._build_info(), *self._of_streams(streams)]
        for lines, group in (
            ((_STREAMS,), _Group((), [states])),
            (_OF_FLEETS, _Group((), fleets)),
            (_OF_JOURNALS, _group((), journals, self._of_journals)),
            (_OF_PUBLISHERS, _group((), publishers, self._of_publishers)),
        ):
            families += [_filled(line, [group]) for line in lines]
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
        named: dict[tuple[str, ...], dict[PositionStream, Stats]] = {}
        if self._labels:  # of several of one name: one number
            for stream, stats in streams.items():
                named.setdefault((stream.name,), {})[stream] = stats
        else:
            named[()] = streams
        self._sums = {name: self._sums.get(name) or _Sums(_OF_STREAMS) for name in named}
        groups = [_group(name, here, self._sums[name]) for name, here in named.items()]
        for line in _OF_STREAMS:
            yield _filled(line, groups, self._labels)
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


def _group(labels: tuple[str, ...], here: dict[_T, Any], sums: _Sums[_T]) -> _Group:
    return _Group(labels, [*here.values()], sums.add_past(here))


def _filled(line: _Line, groups: Iterable[_Group], labels: Sequence[str] = ()) -> Metric:
    """Give a metric with a number, or several, for each group; `labels` are beside its own."""
    family: Any = _family(line, labels)
    for number, group in enumerate(groups, 1):
        _let_others_on(number)
        read = [line.read(each) for each in group.all]
        if line.name in group.past:
            read.append(group.past[line.name])
        values = {
            value: line.together([each[value] for each in read if value in each])
            for value in dict.fromkeys(value for each in read for value in each)
        }
        if not values:
            continue
        if line.kind is HistogramMetricFamily:
            _add_histogram(family, group.labels, values, line.per)
        else:
            for value, sample in values.items():
                names = [*group.labels, value] if line.label else group.labels
                family.add_metric(names, sample if line.per == 1 else sample / line.per)
    filled: Metric = family
    return filled


def _add_histogram(
    family: HistogramMetricFamily, labels: Sequence[str], values: _Values, per: int
) -> None:
    buckets, total = [], 0.0
    for bound in _BOUNDS:
        total += values[bound]
        buckets.append((bound, total))
    family.add_metric(labels, buckets, values[_SUM] / per)
