"""What a publisher costs the stream whose events it publishes, and how many it publishes.

With a publisher and without, side by side: a burst over plain TCP. Then events a second that are
published to a Redis with an append-only file, out of memory or a journal's files, and of many
streams in turn, by a process of its own (benchmarks/publishing.py). CPU time is that process' and
the server's. At last what a record takes: of Redis' memory, on the way there, in its file.
"""

from __future__ import annotations

import gzip
import statistics
from typing import TYPE_CHECKING

from benchmarks.frames import FRAMES, MIXED
from benchmarks.publishing import STREAMS
from benchmarks.results import Group, Row
from benchmarks.spec import Unavailable
from benchmarks.worker import Worker

if TYPE_CHECKING:
    from benchmarks.groups import Bench

__all__ = ["PUBLISHED", "PUBLISHERS", "SIZES", "published", "sizes"]

PUBLISHERS = (
    "fastpos-pure", "fastpos-pure-publisher", "fastpos-native", "fastpos-native-publisher",
)  # fmt: skip
PUBLISHED = {
    "memory": "Publisher",
    "journal": "Publisher with a journal",
    "many": f"Publisher, {STREAMS:,} streams, a push of each in turn",
}
SIZES = {kind: kind for kind in MIXED}
# A stream of Redis takes some KiB with its first records: not those are measured.
_BEGINNING = 20


def published(bench: Bench) -> Group:
    """Records a second."""
    rows = {name: Row(label) for name, label in PUBLISHED.items()}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in rows}
    running: dict[str, Worker] = {}
    for name, row in rows.items():
        try:
            running[name] = Worker("benchmarks.publishing", name)
        except Unavailable as reason:
            row.missing = str(reason)
    try:
        for _ in range(bench.effort.rounds):
            for name, worker in running.items():
                answers[name].append(worker.ask(records=bench.effort.published_records))
    finally:
        for worker in running.values():
            worker.close()
    for name in running:
        row = rows[name]
        row.seconds = [answer["seconds"] for answer in answers[name]]
        for used, title in (("cpu", "publisher CPU µs"), ("redis_cpu", "Redis CPU µs")):
            row.extra[title] = statistics.median(answer[used] for answer in answers[name]) * 1e6
    title = "Published to Redis with appendfsync everysec"
    return Group("publisher-rate", title, "rate", rows)


def sizes(bench: Bench) -> Group:
    """Bytes a record, of one kind after the other."""
    rows = {kind: Row(label) for kind, label in SIZES.items()}
    for kind, row in rows.items():
        try:
            worker = Worker("benchmarks.publishing", kind)
        except Unavailable as reason:
            row.missing = str(reason)
            continue
        try:
            worker.ask(records=_BEGINNING * STREAMS)
            answer = worker.ask(records=bench.effort.published_records)
        finally:
            worker.close()
        row.seconds = [answer["seconds"]]
        row.extra = {
            "bytes of the push": len(gzip.decompress(FRAMES[kind])),
            "compressed": len(FRAMES[kind]),
            "in Redis' memory": answer["memory"],
            "on the way to Redis": answer["received"],
            "in its append-only file": answer["appended"],
            "of the process, a stream": answer["resident"],
        }
    title = "What a record takes that is published, bytes"
    return Group("publisher-size", title, "figures", rows)
