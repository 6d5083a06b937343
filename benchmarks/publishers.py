"""What a publisher costs the stream whose events it publishes, and how many it publishes.

With a publisher and without, side by side: a burst over plain TCP. Then events a second that are
published to a Redis with an append-only file, out of memory or a journal's files, by a process of
its own (benchmarks/publishing.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import Group, Row
from benchmarks.spec import Unavailable
from benchmarks.worker import Worker

if TYPE_CHECKING:
    from benchmarks.groups import Bench

__all__ = ["PUBLISHED", "PUBLISHERS", "published"]

PUBLISHERS = (
    "fastpos-pure", "fastpos-pure-publisher", "fastpos-native", "fastpos-native-publisher",
)  # fmt: skip
PUBLISHED = {"memory": "Publisher", "journal": "Publisher with a journal"}


def published(bench: Bench) -> Group:
    """Records a second."""
    rows = {name: Row(label) for name, label in PUBLISHED.items()}
    running: dict[str, Worker] = {}
    for name, row in rows.items():
        try:
            running[name] = Worker("benchmarks.publishing", name)
        except Unavailable as reason:
            row.missing = str(reason)
    try:
        for _ in range(bench.effort.rounds):
            for name, worker in running.items():
                answer = worker.ask(records=bench.effort.published_records)
                rows[name].seconds.append(answer["seconds"])
    finally:
        for worker in running.values():
            worker.close()
    title = "Published to Redis with appendfsync everysec"
    return Group("publisher-rate", title, "rate", rows)
