"""How long accounts are without a worker when one of several that share them ends, and how fast a
worker closes the connections of those that it has lost.

Three processes of `fastpos serve --redis` share the accounts; one is killed, or gets SIGTERM, and
another comes in its place when the others have all of them. Measured is until each account is owned
and subscribed again. Peers there are none: beside it stand what a lease lasts, which is what nobody
can know earlier, and what connecting takes at the workers' rate, if it is shared evenly.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from benchmarks.results import Group, Row
from benchmarks.spec import Unavailable
from benchmarks.worker import Worker

if TYPE_CHECKING:
    from benchmarks.groups import Bench

__all__ = ["CLOSING", "TAKEOVERS", "closing", "takeover"]

TAKEOVERS = {"kill": "SIGKILL of one", "term": "SIGTERM of one"}
CLOSING = {"lose": "Redis lost"}
WORKERS, RATE = 3, 100  # and how many connections a second each opens


def takeover(bench: Bench) -> Group:
    """One after the other, in turns."""
    effort = bench.effort
    rows = {name: Row(label) for name, label in TAKEOVERS.items()}
    try:
        rig = Worker("benchmarks.sharing", str(effort.shared_accounts), str(WORKERS), str(RATE))
    except Unavailable as reason:
        for row in rows.values():
            row.missing = str(reason)
    else:
        try:
            for _ in range(effort.takeovers):
                for name, row in rows.items():
                    row.seconds.append(rig.ask(do=name)["seconds"])
                    rig.ask(do="settle")
        finally:
            rig.close()
        connecting = effort.shared_accounts / WORKERS / (WORKERS - 1) / RATE
        for name, row in rows.items():
            row.extra = {
                "median s": statistics.median(row.seconds),
                "worst s": max(row.seconds),
                "times": len(row.seconds),
                "of that lease s": rig.hello["lease"] if name == "kill" else 0,
                "connecting s": connecting,
            }
    title = (
        f"{effort.shared_accounts} accounts on {WORKERS} workers: until all are subscribed again, "
        f"each worker connecting {RATE} a second"
    )
    return Group("takeover", title, "figures", rows)


def closing(bench: Bench) -> Group:
    """All of one worker's, again and again."""
    effort = bench.effort
    row = Row(CLOSING["lose"])
    try:
        rig = Worker("benchmarks.sharing", str(effort.closed_accounts), "1", "500")
    except Unavailable as reason:
        row.missing = str(reason)
    else:
        try:
            row.seconds = [rig.ask(do="lose")["seconds"] for _ in range(effort.takeovers)]
        finally:
            rig.close()
        median = statistics.median(row.seconds)
        row.extra = {
            "median s": median,
            "worst s": max(row.seconds),
            "times": len(row.seconds),
            "closed a second": effort.closed_accounts / median,
        }
    title = f"{effort.closed_accounts:,} accounts on a worker: from the first to the last closed"
    return Group("closing", title, "figures", {"lose": row})
