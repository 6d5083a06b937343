"""`Sharing`: the accounts of a file, shared by several ``fastpos serve`` on one Redis.

It is what redis/worker.py says in shards, said in accounts: which are to be served here, and how
many more can be connected at once.

Threads: all is the main thread's. A worker's threads ask it for what is to be done, close what is
lost, and call `_choose`, which looks at what is replaced and never changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

from ..redis import Publisher
from ..redis.shards import shard_of
from ..redis.worker import Worker

if TYPE_CHECKING:
    from ..journal import Journal

__all__ = ["Sharing"]

# Others are asked for as much as can be connected in so many seconds.
SOON = 0.25


class Sharing:
    """Which accounts are served here.

    Args:
        url: of the Redis.
        prefix: what all keys there begin with.
        rate: so many accounts can be connected in a second.
        max_length: about so many records are kept there of each account.

    Raises:
        TypeError, ValueError: the URL or the prefix is unusable.
        ImportError: redis-py is not there.
    """

    def __init__(self, url: str, prefix: str, rate: float, max_length: int) -> None:
        # Of each journal, and of none: what can't be sent yet is read from the journal later.
        first = Publisher(url, prefix, max_length)
        self._publishers: dict[Journal | None, Publisher] = {None: first}
        self._fenced: Callable[[str], object] | None = None
        self._max_length = max_length
        self._url, self._prefix, self._rate = url, prefix, rate
        self._counts: Counter[int] = Counter()  # accounts in each shard; replaced, never changed
        self._expected: Callable[[], int] = int
        self._worker: Worker | None = None
        self.giving: set[int] = set()
        """What is to be released as soon as nothing of it is served any more."""

    def shard_of(self, account: str) -> int:
        """Give the shard of an account."""
        return shard_of(account)

    def count(self, accounts: Iterable[str]) -> None:
        """Take note of what accounts there are."""
        self._counts = Counter(map(shard_of, accounts))

    def start(
        self,
        expected: Callable[[], int],
        cut: Callable[[frozenset[int]], object],
        settle: Callable[[], object],
        anew: Callable[[str], object],
        ask: Callable[[Callable[[], object]], object],
    ) -> None:
        """Begin to take part.

        Args:
            expected: gives how many accounts are about to be connected; for any thread.
            cut: closes what is in shards, at once; for any thread.
            settle: has what is to be served begun, and what is not ended.
            anew: has an account begin anew that another has published, if its shard is here.
            ask: has the main thread do something.
        """

        def give(shards: frozenset[int]) -> None:
            if not shards <= self.giving:
                self.giving |= shards
                settle()

        def lose(shards: frozenset[int]) -> None:
            cut(shards)
            ask(settle)

        self._expected = expected
        self._worker = Worker(
            self._url,
            self._prefix,
            gained=partial(ask, settle),
            lost=lose,
            give=lambda shards: ask(partial(give, shards)),
            choose=self._choose,
        )
        self._fenced = lambda name: ask(partial(anew, name))
        self._worker.start()

    def publisher_of(self, journal: Journal | None) -> Publisher:
        """Give what publishes the accounts with this journal."""
        publisher = self._publishers.get(journal)
        if publisher is None:
            publisher = self._publishers[journal] = Publisher(
                self._url, self._prefix, self._max_length, journal
            )
        if self._worker is not None:
            publisher.who, publisher.on_fenced = self._worker.name, self._fenced
        return publisher

    @property
    def has_its_part(self) -> bool:
        """Whether it takes part and has all the shards that are to be its own; for any thread."""
        return self._worker is not None and self._worker.has_its_part

    def has(self, shard: int) -> bool:
        """Whether what is in a shard is to be served here."""
        return self._worker is not None and shard not in self.giving and self._worker.has(shard)

    def are_free(self, shards: Iterable[int]) -> None:
        """Nothing of these is served any more: others may have what is being given."""
        for shard in self.giving.intersection(shards):
            self.giving.discard(shard)
            if self._worker is not None:
                self._worker.release(shard)

    def leave(self, timeout: float) -> None:
        """Let others have all of it; nothing is served any more."""
        if self._worker is not None:
            self._worker.leave(timeout)

    def _choose(self, shards: frozenset[int]) -> list[int]:
        """Give as many of these shards as can be connected soon."""
        room = max(self._rate * SOON, 1) - self._expected()
        chosen = []
        for shard in sorted(shards, key=lambda each: (self._counts[each], each)):
            if room <= 0 and self._counts[shard]:
                break
            chosen.append(shard)
            room -= self._counts[shard]
        return chosen
