"""Which worker serves which account, where several share them.

An account's name gives its shard, for ever and on every machine. A shard goes to the worker that
weighs the most for it, of those that are alive (rendezvous hashing: Thaler and Ravishankar, 1998):
each worker has a weight for each shard, a hash of both names. So who joins takes its part from all
others, and no shard moves between these; and what is left by who leaves is spread over all.

Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

__all__ = ["SHARDS", "shard_of", "shards_for"]

SHARDS = 256
"""How many there are. All workers of a Redis must agree on it."""


def _hash(text: str) -> int:
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")


def shard_of(account: str, shards: int = SHARDS) -> int:
    """Give the shard of an account, from 0 on."""
    return _hash(account) % shards


def shards_for(worker: str, workers: Iterable[str], shards: int = SHARDS) -> frozenset[int]:
    """Give the shards that `worker` is to have of all that there are.

    Args:
        worker: its name.
        workers: the names of all that are alive; whether its own is among them makes no difference.
        shards: how many shards there are.
    """
    others = set(workers) - {worker}

    def weight(name: str, shard: int) -> tuple[int, str]:
        return _hash(f"{shard} {name}"), name

    return frozenset(
        shard
        for shard in range(shards)
        if all(weight(worker, shard) > weight(other, shard) for other in others)
    )
