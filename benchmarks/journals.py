"""What a journal costs the stream that writes it, and how fast it is read and replayed.

With a journal and without, side by side: a burst over plain TCP, and single frames beside a busy
thread. Then a journal of the same three kinds of frames is read, and replayed into a stream without
functions, by a process of its own (benchmarks/rereading.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.results import Group, Row
from benchmarks.spec import Unavailable
from benchmarks.worker import Worker

if TYPE_CHECKING:
    from benchmarks.groups import Bench

__all__ = ["JOURNALS", "REREAD", "reread"]

JOURNALS = ("fastpos-pure", "fastpos-pure-journal", "fastpos-native", "fastpos-native-journal")
REREAD = {
    "read": "read(), plain",
    "read-gzip": "read(), gzip",
    "replay-pure": "replay(), pure",
    "replay-native": "replay(), native",
}


def reread(bench: Bench) -> Group:
    """Records a second."""
    rows = {name: Row(label) for name, label in REREAD.items()}
    running: dict[str, Worker] = {}
    for name, row in rows.items():
        pure = {"FASTPOS_PURE": "1"} if name.endswith("pure") else {"FASTPOS_PURE": "0"}
        try:
            running[name] = Worker("benchmarks.rereading", name, **pure)
        except Unavailable as reason:
            row.missing = str(reason)
    try:
        for _ in range(bench.effort.rounds):
            for name, worker in running.items():
                answer = worker.ask(records=bench.effort.reread_records)
                rows[name].seconds.append(answer["seconds"])
    finally:
        for worker in running.values():
            worker.close()
    return Group("journal-read", "A journal, read and replayed without functions", "rate", rows)
