"""`Worker`: takes part in sharing the accounts, for who serves those of its shards.

It tells Redis that it is there, has the shards that are its part (shards.py) for as long as it says
so in time (leases.py), and says what is to be done:

* shards were gained: begin to serve what is in them;
* shards are to be given to another, who asks for them: end what is in them in order, then
  `release`. Who joins asks for a few at a time, as many as it can connect at once, and until then
  their owner goes on: nobody has to wait long for an account that somebody serves;
* shards are lost, as Redis did not answer in time, or this process was held up: close what is in
  them now. It says so on whatever thread has found out.

While Redis is away it goes on until its leases are over by its own clock, lets go of them, and
takes part again when Redis is back. Who takes part anew looks around for a moment before it takes
anything, so that several that come back together do not take what is the others' part.

Threads: one talks to Redis, one hears there that something has changed, and one looks at the clock,
which neither of the others can as they may be waiting. `_lock` guards the leases; it is not held
while anything is waited for or anybody is told.
"""

from __future__ import annotations

import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from ..clock import monotonic
from ..logs import fields, log
from ..printable import printable
from ..wakeup import Wakeup
from .connecting import connect, shown
from .leases import RENEWAL, SYNC, Answer, Leases, WorkerKeys
from .shards import shards_for

__all__ = ["Worker"]

# How long Redis may take to answer, and how soon it is tried again, seconds. A lease must outlast
# a few of these.
TIMEOUT, RETRY = 1.0, 0.25
# Who takes part anew takes nothing for so long, seconds.
SETTLE = 0.7
# How often the clock is looked at, and whether there is room to ask for more, seconds.
LOOK = 0.1
# What is free is asked for so soon after that was seen, and a lease that ends so soon after its
# end, seconds.
SOON, AFTER = 0.02, 0.01


class Worker:
    """One of those that share the accounts.

    Args:
        url: of the Redis, see `Publisher`.
        prefix: what all keys begin with.
        gained: called when there are shards more.
        lost: called with shards that it has no more; must not wait.
        give: called with shards that are to be released soon; may be called again with them.
        choose: called with shards that are its part and others', gives those to ask for now.
        name: what it is called in Redis; None: host, process and something of its own.

    Raises:
        TypeError, ValueError: the URL is unusable.
        ImportError: redis-py is not there.
    """

    def __init__(
        self,
        url: str,
        prefix: str,
        *,
        gained: Callable[[], object],
        lost: Callable[[frozenset[int]], object],
        give: Callable[[frozenset[int]], object],
        choose: Callable[[frozenset[int]], Iterable[int]] = lambda shards: shards,
        name: str | None = None,
    ) -> None:
        connect(url)  # whether that can be
        self._url = url
        self._keys = WorkerKeys(prefix)
        self._gained, self._lost, self._give, self._choose = gained, lost, give, choose
        self.name: str = name or _own_name()
        self._lock = threading.Lock()
        self._leases = Leases(self.name)
        self._wake = Wakeup()
        self._ending = threading.Event()
        self._leaving = False
        # All that follows is the talking thread's; `_answer` and `_part` are replaced as a whole.
        self._redis: Any = None
        self._sync: Any = None  # the script
        self._answer = Answer()
        self._part: frozenset[int] = frozenset()  # the shards that are to be its own
        self._joined_at = 0.0
        self._failed_at: float | None = None
        self._threads = [
            threading.Thread(target=run, name=f"fastpos-worker-{what}", daemon=True)
            for what, run in (("redis", self._talk), ("news", self._hear), ("clock", self._watch))
        ]
        self._talking = self._threads[0]

    # --- for whoever serves -----------------------------------------------------------------

    def start(self) -> None:
        """Begin to take part."""
        for thread in self._threads:
            thread.start()

    @property
    def has_its_part(self) -> bool:
        """Whether it takes part and has all the shards that are to be its own; for any thread."""
        part, answer = self._part, self._answer
        with self._lock:
            return self.name in answer.alive and part <= self._leases.shards

    def has(self, shard: int) -> bool:
        """Whether a shard is its own at this moment; for any thread."""
        return self._leases.has(shard)

    def release(self, shard: int) -> None:
        """Let another have a shard: nothing of it is served any more."""
        with self._lock:
            self._leases.release(shard)
        self._wake.set()

    def leave(self, timeout: float) -> None:
        """Take part no more, and let others have all that it had: nothing is served any more.

        Args:
            timeout: for how long at most is Redis told so, seconds.
        """
        self._leaving = True
        self._ending.set()
        self._wake.set()
        self._talking.join(timeout)

    # --- the thread that looks at the clock -------------------------------------------------

    def _watch(self) -> None:
        while not self._ending.wait(LOOK):
            with self._lock:
                lapsed = self._leases.lapse()
            if lapsed:
                self._lose(lapsed, "they could not be renewed in time")
                self._wake.set()

    def _lose(self, shards: frozenset[int], why: str) -> None:
        """Have what is in them closed, before anything else."""
        try:
            self._lost(shards)
        except Exception:  # a mistake of ours: the next time this is needed again
            log.exception("closing what is lost fails", extra=fields("worker_failed"))
        log.error(
            "%d shards are not served here any more: %s",
            len(shards),
            why,
            extra=fields("shards_lost", shards=len(shards), reason=why),
        )

    # --- the thread that hears --------------------------------------------------------------

    def _hear(self) -> None:
        """Wake the one that talks when another worker says that something has changed."""
        while not self._ending.is_set():
            with (
                suppress(*_errors()),
                connect(self._url, 2 * RENEWAL) as redis,
                redis.pubsub(ignore_subscribe_messages=True) as news,
            ):
                news.subscribe(self._keys.news)
                while not self._ending.is_set():
                    message: Any = news.get_message(timeout=RENEWAL)
                    if message is not None and message["data"] != self.name.encode():
                        self._wake.set()
            self._ending.wait(RENEWAL)

    # --- the thread that talks --------------------------------------------------------------

    def _talk(self) -> None:
        delay = 0.0
        while not self._ending.is_set():
            self._wake.wait(delay)
            if self._ending.is_set():
                break
            try:
                delay = self._follow(*self._ask())
            except _errors() as error:
                self._failed(error)
                delay = RETRY
            except Exception as error:  # a mistake of ours: it must be seen, and be got over
                log.exception("sharing the accounts fails", extra=fields("worker_failed"))
                self._failed(error)
                delay = RENEWAL
        if self._leaving:
            self._say_goodbye()
        with suppress(*_errors()):
            if self._redis is not None:
                self._redis.close()

    def _say_goodbye(self) -> None:
        """Tell Redis that others may have all of it; a connection that is broken is made again."""
        for _ in range(2):
            try:
                self._ask()
            except _errors() as error:
                self._failed(error)
            else:
                return

    def _ask(self) -> tuple[frozenset[int], frozenset[int]]:
        """Tell Redis what it has, and hear what is so.

        Returns:
            What was asked for, and what is lost.
        """
        if self._redis is None:
            self._redis = connect(self._url, TIMEOUT)
            self._sync = self._redis.register_script(SYNC)
        with self._lock:
            now = monotonic()
            if not self._leases.takes_part:
                self._joined_at = now
            mine = self._leases.shards
            is_settled = now - self._joined_at >= SETTLE
            wanted = self._part - mine if is_settled else frozenset()
            others = frozenset(
                shard for shard in wanted if self._is_anothers(shard) and not self._leaving
            )
        asked = frozenset(self._choose(others)) & others if others else others
        with self._lock:
            released = frozenset(self._leases.released)
            text = self._leases.request(wanted, asked, self._leaving)
        sent_at = monotonic()
        answer = Answer.of(self._sync(keys=self._keys.of_script, args=[self._keys.news, text]))
        with self._lock:
            gained, lost = self._leases.take(answer, sent_at, released)
        self._answer_came(answer)
        if lost and not self._leaving:
            self._lose(lost, "another has them")
        if gained:
            self._gained()
        return wanted, lost

    def _is_anothers(self, shard: int) -> bool:
        lease = self._answer.leases.get(shard)
        return lease is not None and lease.left > 0 and lease.owner != self.name

    def _answer_came(self, answer: Answer) -> None:
        if answer.alive != self._answer.alive:
            self._part = shards_for(self.name, answer.alive)
        self._answer = answer
        if self._failed_at is not None:
            lasted, self._failed_at = monotonic() - self._failed_at, None
            url = shown(self._url)
            log.warning(
                "%s can be used again, after %.1f s",
                url,
                lasted,
                extra=fields("redis_again", url=url, seconds=lasted),
            )

    def _follow(self, wanted: frozenset[int], lost: frozenset[int]) -> float:
        """Do what follows from the last answer; give in how many seconds to ask again."""
        answer = self._answer
        asked = frozenset(
            shard
            for who, shards in answer.asked.items()
            if who != self.name and who in answer.alive
            for shard in shards
        )
        with self._lock:
            mine = self._leases.shards
        given = asked & mine - self._part
        if given:
            self._give(given)
        # Who is gone is known when what it had is over.
        ends = [
            lease.left + AFTER
            for lease in answer.leases.values()
            if lease.left > 0 and lease.owner != self.name
        ]
        delay = min([RENEWAL, *ends])
        settled_in = self._joined_at + SETTLE - monotonic()
        missing = self._part - mine
        if missing and (settled_in > 0 or answer.wait > 0):
            delay = min(delay, max(settled_in, answer.wait) + AFTER)
        elif missing:
            others = {shard for shard in missing if self._is_anothers(shard)}
            if missing - others - wanted - lost or (others and not wanted):
                delay = SOON
            elif others:  # there may be room for more of them soon
                delay = min(delay, LOOK)
        return delay

    def _failed(self, error: Exception) -> None:
        """Try again, with a new connection, and tell once."""
        if self._redis is not None:
            with suppress(*_errors()):
                self._redis.close()
            self._redis = None
        if self._failed_at is None:
            self._failed_at = monotonic()
            url = shown(self._url)
            log.error(
                "%s can't be used, so no accounts can be shared: %s: %s",
                url,
                type(error).__name__,
                printable(str(error)),
                extra=fields("redis_away", url=url, error=type(error).__name__),
            )


def _own_name() -> str:
    host = re.sub(r"\s", "-", socket.gethostname())
    return f"{host}:{os.getpid()}:{secrets.token_hex(2)}"


def _errors() -> tuple[type[Exception], ...]:
    from redis.exceptions import RedisError  # noqa: PLC0415 -- an extra

    return RedisError, OSError
