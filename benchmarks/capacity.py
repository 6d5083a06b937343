"""What 10,000, 100,000 and 1,000,000 accounts take, from what was measured.

    python -m benchmarks.capacity [--check] [--results results.md] [--output docs/capacity.md]

Every measured figure is looked up in results.md, by its table, row and column, and none is written
here: where one is missing, that is said, and nothing is made. What is assumed is written here, and
stands on the page. `--check` writes nothing, and fails if the page is not what would be written.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.lookup import Missing, Results

__all__ = ["Figures", "Plan", "main"]

_ROOT = Path(__file__).parent.parent
_COMMAND = "python -m benchmarks.capacity"
_GIB, _KIB = 1024**3, 1024

ACCOUNTS = (10_000, 100_000, 1_000_000)

# --- what is assumed ------------------------------------------------------------------------------

TICKS = 1.0  # a second an account
OTHERS = 0.1  # other pushes a second an account, on the average
CORE = 0.5  # so much of a core is in use on the average: the rest is for when much happens at once
TOGETHER = 8  # workers that share accounts: with more the 256 shards are dealt out less evenly
MARGIN = 1.0  # seconds between a lease's end for its owner and for the others
REDIS_MEMORY = 16 * _GIB  # of one server, for records
PROCESS = 60 * 1024 * _KIB  # bytes of a worker without accounts
OVERHEAD = 80  # bytes of TCP/IP, TLS and WebSocket around a push
RATES = (20, 100)  # connections a second that a worker opens; the first is `serve`'s default
LENGTHS = (1_000, 10_000, 100_000)  # of `--redis-max-length`


_FLEET = ("fleet-tls", r"[\d,]+ streams in a process, TLS, .*", "fastpos, native, Fleet")
_RATE = ("publisher-rate", "Published to Redis with appendfsync everysec")
_MANY = (*_RATE, "Publisher, 1,000 streams, a push of each in turn")
_SIZE = ("publisher-size", "What a record takes that is published, bytes")
_TAKEN = ("takeover", r"\d+ accounts on \d+ workers: .*")
_CLOSED = ("closing", r"[\d,]+ accounts on a worker: .*", "Redis lost", "closed a second")


@dataclass(frozen=True)
class Figures:
    """What was measured: seconds, bytes, and times."""

    frame: float
    """CPU time of a push in a fleet, TLS."""
    published: float
    """CPU time of the publisher for a record, where each is a call of its own."""
    redis: float
    """The server's for it."""
    stream: float
    """Memory of a stream in a fleet, TLS."""
    publishing: float
    """Memory of a stream in its publisher."""
    opened: float
    """Connections a second that a process opened, TLS."""
    burst: float
    """Records a second that one publisher gets rid of, in batches."""
    received: float
    """Bytes of a push from the exchange, the average."""
    stored: float
    """Bytes of a record in Redis' memory."""
    sent: float
    """Bytes of a record on the way to Redis."""
    appended: float
    """Bytes of a record in Redis' file, and on the way to a replica."""
    lease: float
    killed: float
    """The worst time until accounts were subscribed again whose worker had been killed."""
    killed_connecting: float
    terminated: float
    closed: float
    """Connections a second that a worker closes."""

    @classmethod
    def of(cls, results: Results) -> Figures:
        """Look them up; raises `Missing`."""
        get = results.figure

        def average(column: str) -> float:
            tick = get(*_SIZE, "adl_price", column)
            other = [get(*_SIZE, kind, column) for kind in ("account_update_create", "order")]
            return (tick * TICKS + statistics.mean(other) * OTHERS) / (TICKS + OTHERS)

        streams = re.match(r"[\d,]+", results.title(*_FLEET[:2]))
        assert streams is not None
        return cls(
            frame=get(*_FLEET, "at 1/s") / 1e6,
            published=get(*_MANY, "publisher CPU µs") / 1e6,
            redis=get(*_MANY, "Redis CPU µs") / 1e6,
            stream=get(*_FLEET, "KiB a stream") * _KIB,
            publishing=get(*_SIZE, "adl_price", "of the process, a stream"),
            opened=float(streams[0].replace(",", "")) / get(*_FLEET, "ready s"),
            burst=get(*_RATE, "Publisher", "frames/s"),
            received=average("compressed"),
            stored=average("in Redis' memory"),
            sent=average("on the way to Redis"),
            appended=average("in its append-only file"),
            lease=get(*_TAKEN, "SIGKILL of one", "of that lease s"),
            killed=get(*_TAKEN, "SIGKILL of one", "worst s"),
            killed_connecting=get(*_TAKEN, "SIGKILL of one", "connecting s"),
            terminated=get(*_TAKEN, "SIGTERM of one", "worst s"),
            closed=get(*_CLOSED),
        )


# --- what follows ---------------------------------------------------------------------------------

_PARTIES = 20  # so many times workers get names: which shards are theirs follows from these


def _parties(workers: int) -> list[list[str]]:
    return [[f"{party}:{n}" for n in range(workers)] for party in range(_PARTIES)]


@cache
def busiest(workers: int) -> float:
    """Give the part of the accounts that the busiest of them has, the median of many parties."""
    from fastpos.redis.shards import SHARDS, shards_for  # noqa: PLC0415 -- for who makes a page

    return statistics.median(
        max(len(shards_for(name, names)) for name in names) / SHARDS for names in _parties(workers)
    )


@cache
def inherited(workers: int) -> float:
    """Give the part of the accounts that one of them gets at the most when another dies."""
    from fastpos.redis.shards import SHARDS, shards_for  # noqa: PLC0415

    return statistics.median(
        max(len(shards_for(name, left) - shards_for(name, names)) for name in left) / SHARDS
        for names in _parties(workers)
        for left in [names[1:]]
    )


PUSHES = TICKS + OTHERS  # a second an account


def _rounded(value: float) -> int:
    """Give two digits of it, and no more than it is."""
    unit = 10 ** max(int(math.log10(value)) - 1, 0)
    return int(value / unit) * unit


def by_cpu(figures: Figures) -> int:
    """How many accounts the share of a core can do that a worker has."""
    return _rounded(CORE / (PUSHES * (figures.frame + figures.published)))


def by_closing(figures: Figures) -> int:
    """How many accounts a worker can close in time."""
    return _rounded(figures.closed * MARGIN)


@dataclass(frozen=True)
class Plan:
    """What a number of accounts takes. Each set has a file of accounts, and workers that share
    these; each server is the Redis of one or more sets."""

    accounts: int
    sets: int
    workers: int
    """Of each set."""
    servers: int

    @classmethod
    def of(cls, accounts: int, figures: Figures) -> Plan:
        """Take the fewest sets that do, and in each the fewest workers, of which one may die."""
        of_worker = min(by_closing(figures), by_cpu(figures))
        of_server = CORE / (PUSHES * figures.redis)
        sets = 0
        while True:
            sets += 1
            each = accounts / sets
            if each > of_server:
                continue
            for workers in range(2, TOGETHER + 1):
                if each * busiest(workers - 1) <= of_worker:
                    return cls(accounts, sets, workers, math.ceil(sets / (of_server // each)))

    @property
    def each(self) -> float:
        """Accounts of a set."""
        return self.accounts / self.sets

    @property
    def busy(self) -> float:
        """Accounts on the busiest worker."""
        return self.each * busiest(self.workers)

    @property
    def on_server(self) -> float:
        """Accounts on a Redis server."""
        return self.accounts / self.servers

    def length(self, figures: Figures) -> int:
        """How many records of each account fit into a server, as `--redis-max-length`."""
        return min(_rounded(REDIS_MEMORY / (self.on_server * figures.stored)), max(LENGTHS))


def _cores(value: float) -> str:
    return f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _bytes(value: float) -> str:
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while value >= _KIB and len(units) > 1:
        value /= _KIB
        del units[0]
    unit = units[0]
    return f"{value:,.0f} {unit}" if value >= 10 else f"{value:.1f} {unit}"


def _bits(value: float) -> str:
    """Bytes a second as a line's rate."""
    bits = value * 8 / 1e6
    return f"{bits:,.0f} Mbit/s" if bits < 1000 else f"{bits / 1000:,.1f} Gbit/s"


def _time(seconds: float) -> str:
    if seconds < 300:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.0f} h"


def _table(head: list[str], rows: list[list[str]]) -> str:
    rule = ["---", *("---:" for _ in head[1:])]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (head, rule, *rows))


def _needs(plans: list[Plan], f: Figures) -> str:
    def row(title: str, value: Callable[[Plan], str]) -> list[str]:
        return [title, *map(value, plans)]

    def back(rate: float) -> list[str]:
        return row(
            f"all are back after the exchange's restart, `--connect-rate {rate}`",
            lambda plan: _time(plan.busy / rate),
        )

    def taken(rate: float) -> list[str]:
        return row(
            f"a worker was killed: all are back, `--connect-rate {rate}`",
            lambda plan: _time(f.lease + plan.each * inherited(plan.workers) / rate),
        )

    rows = [
        row("sets: a file of accounts, and workers that share it", lambda plan: f"{plan.sets}"),
        row("accounts of each", lambda plan: f"{plan.each:,.0f}"),
        row("workers of each, of which one may be missing", lambda plan: f"{plan.workers}"),
        row("**workers**, all in all", lambda plan: f"**{plan.workers * plan.sets:,}**"),
        row("accounts on the busiest worker", lambda plan: f"{plan.busy:,.0f}"),
        row("CPU of all workers, cores in use",
            lambda plan: _cores(plan.accounts * PUSHES * (f.frame + f.published))),
        row("memory of a worker while one is missing", lambda plan: _bytes(
            PROCESS + plan.each * busiest(plan.workers - 1) * (f.stream + f.publishing))),
        row("**Redis servers**", lambda plan: f"**{plan.servers}**"),
        row("accounts on each server", lambda plan: f"{plan.on_server:,.0f}"),
        row("records a second into each", lambda plan: f"{plan.on_server * PUSHES:,.0f}"),
        row("CPU of each, cores in use", lambda plan: f"{plan.on_server * PUSHES * f.redis:.2f}"),
        row(f"`--redis-max-length` that fits into {_bytes(REDIS_MEMORY)} each",
            lambda plan: f"{plan.length(f):,}"),
        row("which is what came in the last", lambda plan: _time(plan.length(f) / PUSHES)),
        row("network, from the exchange to all workers",
            lambda plan: _bits(plan.accounts * PUSHES * (f.received + OVERHEAD))),
        row("network, from the workers to each Redis",
            lambda plan: _bits(plan.on_server * PUSHES * f.sent)),
        row("and from each Redis to each replica, and to whoever reads all of it",
            lambda plan: _bits(plan.on_server * PUSHES * f.appended)),
        row("append-only file of each, a day, before Redis rewrites it",
            lambda plan: _bytes(plan.on_server * PUSHES * f.appended * 86400)),
        *map(back, RATES),
        *map(taken, RATES),
    ]  # fmt: skip
    return _table(["", *(f"{plan.accounts:,} accounts" for plan in plans)], rows)


def _memory(plans: list[Plan], f: Figures) -> str:
    rows = [
        [
            f"{length:,}",
            _time(length / PUSHES),
            _bytes(length * f.stored),
            *(_bytes(plan.accounts * length * f.stored) for plan in plans),
        ]
        for length in LENGTHS
    ]
    head = ["`--redis-max-length`", "reaches back", "an account"]
    return _table([*head, *(f"{plan.accounts:,} accounts" for plan in plans)], rows)


def _measured(f: Figures) -> str:
    def us(seconds: float) -> str:
        return f"{seconds * 1e6:.1f} µs"

    rows = [
        ["CPU of a worker for a push: TLS, WebSocket, inflating, decoding, merging, calling",
         us(f.frame), _FLEET[0]],
        ["and for publishing it, each record as a call of its own", us(f.published), _RATE[0]],
        ["CPU of Redis for it", us(f.redis), _RATE[0]],
        ["memory of a worker for an account, TLS", _bytes(f.stream), _FLEET[0]],
        ["and for publishing it", _bytes(f.publishing), _SIZE[0]],
        ["connections that a worker with nothing else to do opened, TLS",
         f"{f.opened:,.0f}/s", _FLEET[0]],
        ["records that one publisher gets rid of in a burst", f"{f.burst:,.0f}/s", _RATE[0]],
        ["bytes of a push from the exchange, compressed", f"{f.received:,.0f}", _SIZE[0]],
        ["bytes of a record in Redis' memory", f"{f.stored:,.0f}", _SIZE[0]],
        ["bytes of a record on the way to Redis", f"{f.sent:,.0f}", _SIZE[0]],
        ["bytes of a record in the append-only file, and to a replica", f"{f.appended:,.0f}",
         _SIZE[0]],
        ["how long a lease lasts", f"{f.lease:.0f} s", _TAKEN[0]],
        ["300 accounts, one of three workers killed: all subscribed again, the worst",
         f"{f.killed:.1f} s", _TAKEN[0]],
        ["of which connecting takes, at that rate", f"{f.killed_connecting:.1f} s", _TAKEN[0]],
        ["the same, SIGTERM", f"{f.terminated:.1f} s", _TAKEN[0]],
        ["connections that a worker closes that has lost Redis", f"{f.closed:,.0f}/s", _CLOSED[0]],
    ]  # fmt: skip
    return _table(["figure", "", "benchmark"], rows)


def _filled(text: str) -> str:
    """Give a text with its paragraphs and points filled; headings and tables stay as they are."""
    blocks = []
    for block in text.strip().split("\n\n"):
        if block.startswith(("|", "#")):
            blocks.append(block)
            continue
        points = re.split(r"^(?=\* )", block, flags=re.MULTILINE)
        indent = "  " if block.startswith("* ") else ""
        fill = textwrap.TextWrapper(
            105, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
        ).fill
        blocks.append("\n".join(fill(point) for point in points if point))
    return "\n\n".join(blocks) + "\n"


def page(f: Figures) -> str:
    """Give the page."""
    plans = [Plan.of(accounts, f) for accounts in ACCOUNTS]
    cpu = f.frame + f.published
    of_worker = min(by_closing(f), by_cpu(f))
    unfair, very_unfair = (f"{busiest(n) * n:.2f}" for n in (TOGETHER, 2 * TOGETHER))
    opened = ", ".join(f"{plan.workers * plan.sets * RATES[0]:,}" for plan in plans)
    return _filled(f"""
# What many accounts take

How many [workers](workers.md) and Redis servers, how much memory and network, and how long until
all accounts are back after the exchange's restart. `{_COMMAND}` writes this page, from the
figures in [benchmarks/results.md](../benchmarks/results.md) and the assumptions below; `--check`
says whether it is still what it would write. All of it is an estimate, for machines like the one
that was measured. Measure on yours (`python -m benchmarks.report`), change an assumption at the
top of `benchmarks/capacity.py`, and run it again.

Up to some {of_worker:,} accounts one process of `fastpos serve` is enough. A second one is for
the case that it dies.

{_needs(plans, f)}

## How many records Redis keeps

The memory of Redis is what to decide on first. With the default of {max(LENGTHS):,} records of
each account it is large for many accounts:

{_memory(plans, f)}

A reader needs nothing older than the last `state`, of which there is one in each half of that.
More is for readers that were away: a group that is further behind than this reaches back has lost
records, and is told so. So take the longest time that you want a reader to be away for. What is
to be kept for longer is a journal's (`--journal`).

Redis forks to rewrite its append-only file, and needs memory for what changes meanwhile: leave
some free, and set `maxmemory` with `noeviction`.

## Assumed

* An account has {TICKS:g} tick a second, as it has a position open, and {OTHERS:g} other pushes a
second on the average. One without a position has no ticks; its owner says to Redis every 1.5 s
that it is there, which costs about as much there.
* A core is in use for {CORE:.0%} on the average. The rest is for bursts, connecting and the
system. A worker is one process and uses one core; so does a Redis.
* A worker that loses Redis has {MARGIN:g} second between the end of its leases for itself and for
the others. It should be done with closing by then, also while another worker is missing, so it
has at most {by_closing(f):,} accounts. It needs as many open files (`ulimit -n`) and some.
* At most {TOGETHER} workers share one file of accounts. The 256 shards are dealt out by hashes:
of {TOGETHER} workers the busiest has {unfair} times the average, of {2 * TOGETHER} it would have
{very_unfair} times. More accounts are split into several files, each with workers and a
`--redis-prefix` of its own. Several of these sets may be on one Redis.
* A Redis server has {_bytes(REDIS_MEMORY)} for records. A worker without accounts takes
{_bytes(PROCESS)}.
* Around a push from the exchange there are {OVERHEAD} bytes of TCP/IP, TLS and WebSocket.
* The exchange takes connections as fast as they are opened: all workers together open {opened} a
second at the default rate of {RATES[0]} each. If it limits them by IP address or account, that
decides, and not these figures. (HTTP 429 and 418 are waited on.)
* The journal, snapshots by REST and the lines that `serve` writes are not in it.

## Measured

{_measured(f)}

## How it follows

* Accounts on a worker: what it can close in time ({by_closing(f):,}), or what {CORE:g} of a core
can do at {PUSHES:g} pushes a second and {cpu * 1e6:.0f} µs each ({by_cpu(f):,}), whichever is
less. There are so many workers that this holds while one is missing.
* Accounts on a Redis: as many sets as {CORE:g} of a core can do at {f.redis * 1e6:.0f} µs a
record.
* All are back after the exchange's restart: the accounts of the busiest worker, divided by its
connections a second. Accounts with open positions come first.
* A worker was killed: the lease's {f.lease:.0f} s, and the largest part that one of the others
gets, divided by its connections a second. After a SIGTERM it is the same without the lease.
""")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog=_COMMAND, description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; is the page right?")
    parser.add_argument("--results", type=Path, default=_ROOT / "benchmarks" / "results.md")
    parser.add_argument("--output", type=Path, default=_ROOT / "docs" / "capacity.md")
    options = parser.parse_args(arguments)
    try:
        text = page(Figures.of(Results(options.results.read_text(encoding="utf-8"))))
    except Missing as missing:
        print(f"{options.results}: {missing}", file=sys.stderr)
        return 1
    if options.check:
        if options.output.read_text(encoding="utf-8") == text:
            return 0
        print(f"{options.output} is of other figures: run {_COMMAND}", file=sys.stderr)
        return 1
    options.output.write_text(text, encoding="utf-8")
    print(f"wrote {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
