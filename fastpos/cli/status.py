"""``fastpos status``: who serves which accounts, and how far behind those are who read them.

It only looks: at what workers say of themselves (redis/leases.py), and at the keys of each account
(redis/scripts.py).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

from ..journal.format import time_of
from ..printable import printable
from ..redis.connecting import connect, shown
from ..redis.leases import WorkerKeys
from ..redis.scripts import Keys
from ..redis.shards import SHARDS, shard_of

__all__ = ["read_status", "table"]

# So many accounts are asked for at once.
BATCH = 500


def read_status(url: str, prefix: str) -> dict[str, Any]:
    """Ask Redis; give what JSON has.

    Raises:
        OSError: it does not answer, or not what it should.
        ValueError, TypeError: the URL is unusable.
        ImportError: redis-py is not there.
    """
    client = connect(url)
    from redis.exceptions import RedisError  # noqa: PLC0415 -- an extra

    try:
        with client:
            return _read(client, url, prefix)
    except RedisError as error:
        said = printable(str(error))
        raise OSError(f"{shown(url)}: {type(error).__name__}: {said}") from None


def _read(client: Any, url: str, prefix: str) -> dict[str, Any]:
    keys = WorkerKeys(prefix)
    pipeline = client.pipeline(transaction=False)
    pipeline.time()
    pipeline.zrange(keys.alive, 0, -1, withscores=True)
    pipeline.hgetall(keys.leases)
    (seconds, _), alive, leases = pipeline.execute()
    now = seconds * 1000
    living = {name.decode(): until for name, until in alive if until > now}
    shards = {}
    for shard, text in leases.items():
        with suppress(ValueError):  # somebody else has written it
            owner, epoch, until = text.decode().split()
            if owner != "-" and int(until) > now:
                shards[int(shard)] = {"owner": owner, "epoch": int(epoch)}
    accounts = sorted(_accounts(client, prefix), key=lambda each: str(each["name"]))
    counts = Counter(each["owner"] for each in shards.values())
    publishing = Counter(each["owner"] for each in accounts)
    return {
        "url": shown(url),
        "prefix": prefix,
        "workers": [
            {
                "name": name,
                "shards": counts[name],
                "accounts": publishing[name],
                "expires_in_s": round((until - now) / 1000, 1),
            }
            for name, until in sorted(living.items())
        ],
        "shards": {
            "total": SHARDS,
            "owned": len(shards),
            "owners": {str(shard): shards[shard] for shard in sorted(shards)},
        },
        "accounts": accounts,
    }


def _accounts(client: Any, prefix: str) -> Iterator[dict[str, Any]]:
    head, tail = f"{prefix}:{{".encode(), b"}:events"
    pattern = b"".join(b"\\" + bytes([c]) if c in b"*?[]\\^-" else bytes([c]) for c in head)
    found = (
        key[len(head) : -len(tail)].decode("utf-8", "replace")
        for key in client.scan_iter(match=pattern + b"*" + tail, count=1000)
    )
    names = iter(dict.fromkeys(found))  # a scan may give a key twice
    while some := list(islice(names, BATCH)):
        pipeline = client.pipeline(transaction=False)
        for name in some:
            its = Keys(prefix, name)
            pipeline.get(its.owner)
            pipeline.xlen(its.events)
            pipeline.xrevrange(its.events, count=1)
            pipeline.xinfo_groups(its.events)
        answers = iter(pipeline.execute(raise_on_error=False))
        for name in some:
            owner, length, last, groups = (next(answers) for _ in range(4))
            if any(isinstance(each, Exception) for each in (owner, length, last)):
                continue  # it is something else's key
            yield {
                "name": name,
                "shard": shard_of(name),
                "owner": owner.decode("utf-8", "replace").partition(" ")[2] if owner else None,
                "records": length,
                "last_id": last[0][0].decode() if last else None,
                "last_age_s": _age(last[0][1]) if last else None,
                "groups": {} if isinstance(groups, Exception) else dict(map(_group, groups)),
            }


def _age(values: dict[bytes, bytes]) -> float | None:
    """Give how long ago a record was received, seconds."""
    try:
        return round(max(time.time() - time_of(values[b"record"]) / 1e9, 0.0), 1)
    except (KeyError, ValueError):  # somebody else has written it
        return None


def _group(group: dict[str, Any]) -> tuple[str, dict[str, int | None]]:
    return group["name"].decode("utf-8", "replace"), {
        "consumers": group["consumers"],
        "pending": group["pending"],
        "lag": group.get("lag"),  # None: the server can't tell
    }


def table(status: dict[str, Any]) -> str:
    """Give the same as lines for people."""
    shards, accounts = status["shards"], status["accounts"]
    unowned = sum(each["owner"] is None for each in accounts)
    rows = [["WORKER", "SHARDS", "ACCOUNTS"]]
    rows += [[each["name"], each["shards"], each["accounts"]] for each in status["workers"]]
    lines = [
        f"{status['url']}  {status['prefix']}:  {len(status['workers'])} workers, "
        f"{shards['owned']} of {shards['total']} shards owned, {len(accounts)} accounts, "
        f"{unowned} without an owner",
        "",
        *_aligned(rows),
        "",
    ]
    rows = [["ACCOUNT", "SHARD", "OWNER", "RECORDS", "LAST", "GROUPS (lag, pending)"]]
    for each in accounts:
        age = each["last_age_s"]
        groups = "  ".join(
            f"{name} ({'?' if group['lag'] is None else group['lag']}, {group['pending']})"
            for name, group in sorted(each["groups"].items())
        )
        rows.append(
            [
                each["name"],
                each["shard"],
                each["owner"] or "-",
                each["records"],
                "-" if age is None else f"{age:.1f} s",
                groups or "-",
            ]
        )
    return "\n".join([*lines, *_aligned(rows)])


def _aligned(rows: list[list[Any]]) -> list[str]:
    shown = [[printable(str(cell)) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]
