"""Leases: for a few seconds a shard is a worker's, and it says so again and again.

WHAT REDIS HOLDS

Four keys, and nothing in them but names of workers, numbers and times (milliseconds by the server's
clock, the only one that all share):

    fastpos:{workers}:alive    a sorted set: each worker, by when it is taken for dead
    fastpos:{workers}:leases   a hash: shard -> "<owner> <epoch> <until>"
    fastpos:{workers}:asked    a hash: worker -> the shards that it asks their owners for, as JSON
    fastpos:{workers}:server   a hash: which server this is, and since when it was seen

and a channel, fastpos:{workers}:news, on which is said that something has changed.

One script does all of it. A worker calls it every 1.5 s, and sooner where there is a reason: it
says which shards it has, which it wants and which it is done with, and gets what is its own now.

A shard's epoch rises whenever it changes hands. It never goes back, whatever a server has lost: a
new one is at least the server's time in seconds.

A SERVER THAT WAS NOT THERE BEFORE

A server that was restarted, or took over from another, may have lost what was granted last. Who has
a shard says so with its epoch, and is believed if that is not below what the server knows. But for
as long as a lease lasts nothing is granted anew there: its owner may not have come yet. So the
first worker of all waits that long, too.

WHAT A WORKER KNOWS

What it was granted ends for the worker a lease's time after it had *asked*, less a margin in which
it closes its connections; the server counts from when it *answered*, which is later. So at any
moment one worker at the most thinks that it has a shard, if the clocks of server and worker run at
about the same speed and the server's is not set forward. Where it was set back, or a server that
took over is behind, what lasts longer than a lease can is cut to two of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..clock import monotonic

__all__ = ["LEASE", "MARGIN", "RENEWAL", "SYNC", "Answer", "Lease", "Leases", "WorkerKeys"]

# How long a lease lasts, how often it is renewed, and how long before its end it is over for its
# owner, seconds.
LEASE, RENEWAL, MARGIN = 5.0, 1.5, 1.0


class WorkerKeys:
    """The keys that workers share.

    Args:
        prefix: what all keys begin with.
    """

    __slots__ = ("alive", "asked", "leases", "news", "server")

    def __init__(self, prefix: str) -> None:
        self.alive: str = f"{prefix}:{{workers}}:alive"
        self.leases: str = f"{prefix}:{{workers}}:leases"
        self.asked: str = f"{prefix}:{{workers}}:asked"
        self.server: str = f"{prefix}:{{workers}}:server"
        self.news: str = f"{prefix}:{{workers}}:news"

    @property
    def of_script(self) -> list[str]:
        """Those of `SYNC`, in its order."""
        return [self.alive, self.leases, self.asked, self.server]


# What it writes is small and of bounded size: a server whose memory is full takes it, so that
# nobody has to let go of what is still being pushed.
SYNC = """#!lua flags=allow-oom
-- KEYS: alive, leases, asked, server. ARGV: the channel, and what is asked for as JSON: who,
-- ttl (ms), held {shard: epoch}, wanted, released and asked [shard], leaving.
-- Gives JSON: held {shard: epoch}, leases {shard: [owner, epoch, ms left]}, alive [worker],
-- asked {worker: [shard]}, wait (ms until anything is granted anew).
local ask = cjson.decode(ARGV[2])
local me, ttl = ask.who, ask.ttl
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local news = false

local run = string.match(redis.call('INFO', 'server'), 'run_id:(%x+)')
local since = tonumber(redis.call('HGET', KEYS[4], 'since') or '0')
if redis.call('HGET', KEYS[4], 'run_id') ~= run or since > now then
  since = now
  redis.call('HSET', KEYS[4], 'run_id', run, 'since', string.format('%.0f', now))
end
local wait = since + ttl - now

-- No time is later than this but by a clock that was set back; other versions may have more.
local latest = now + 2 * ttl
local above = string.format('(%.0f', latest)
for _, late in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], above, '+inf')) do
  redis.call('ZADD', KEYS[1], string.format('%.0f', latest), late)
end
for _, dead in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], dead)
  redis.call('HDEL', KEYS[3], dead)
  news = true
end
if ask.leaving then
  news = redis.call('ZREM', KEYS[1], me) == 1 or news
elseif redis.call('ZADD', KEYS[1], string.format('%.0f', now + ttl), me) == 1 then
  news = true
end

local leases = {}
local flat = redis.call('HGETALL', KEYS[2])
for n = 1, #flat, 2 do
  local owner, epoch, ends = string.match(flat[n + 1], '^(%S+) (%d+) (%d+)$')
  leases[flat[n]] = {owner, tonumber(epoch), tonumber(ends)}
end
local function put(shard, owner, epoch, ends)
  leases[shard] = {owner, epoch, ends}
  redis.call('HSET', KEYS[2], shard, string.format('%s %.0f %.0f', owner, epoch, ends))
end
for shard, lease in pairs(leases) do
  if lease[3] > latest then put(shard, lease[1], lease[2], latest) end
end

local held = {}
for shard, epoch in pairs(ask.held) do
  local lease = leases[shard]
  if not lease or epoch > lease[2] or (epoch == lease[2] and lease[1] == me) then
    put(shard, me, epoch, now + ttl)
    held[shard] = epoch
  end
end
for _, shard in ipairs(ask.wanted) do
  local lease = leases[shard] or {'-', 0, 0}
  if not held[shard] and wait <= 0 and (lease[3] <= now or lease[1] == me) then
    local epoch = math.max(lease[2] + 1, math.floor(now / 1000))
    put(shard, me, epoch, now + ttl)
    held[shard] = epoch
  end
end
local function release(shard)
  local lease = leases[shard]
  if lease and lease[1] == me then
    put(shard, '-', lease[2], 0)
    held[shard] = nil
    news = true
  end
end
for _, shard in ipairs(ask.released) do release(shard) end
if ask.leaving then
  for shard, _ in pairs(leases) do release(shard) end
end

local before = redis.call('HGET', KEYS[3], me)
if ask.leaving or #ask.asked == 0 then
  redis.call('HDEL', KEYS[3], me)
else
  local asked = cjson.encode(ask.asked)
  if asked ~= before then
    redis.call('HSET', KEYS[3], me, asked)
    news = true
  end
end

if news then redis.call('PUBLISH', ARGV[1], me) end
local answer = {held = held, leases = {}, wait = math.max(wait, 0), asked = {},
  alive = redis.call('ZRANGE', KEYS[1], 0, -1)}
for shard, lease in pairs(leases) do
  answer.leases[shard] = {lease[1], lease[2], math.max(lease[3] - now, 0)}
end
flat = redis.call('HGETALL', KEYS[3])
for n = 1, #flat, 2 do answer.asked[flat[n]] = cjson.decode(flat[n + 1]) end
return cjson.encode(answer)
"""


class Lease(NamedTuple):
    """What Redis says of a shard."""

    owner: str
    """The worker that has it, or had it; "-" where it was released."""
    epoch: int
    left: float
    """For how long it is the owner's yet, seconds; 0: it is nobody's."""


@dataclass(frozen=True)
class Answer:
    """What Redis says."""

    held: Mapping[int, int] = field(default_factory=dict)
    """The epochs of those shards that are the worker's."""
    leases: Mapping[int, Lease] = field(default_factory=dict)
    """All that were ever granted."""
    alive: frozenset[str] = frozenset()
    """The workers that have said so in time."""
    asked: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """Which shards each asks their owners for."""
    wait: float = 0.0
    """For how long nothing is granted anew, seconds."""

    @classmethod
    def of(cls, text: bytes | str) -> Answer:
        """Take apart what `SYNC` gave."""
        given: dict[str, Any] = json.loads(text)
        return cls(
            {int(shard): int(epoch) for shard, epoch in given["held"].items()},
            {
                int(shard): Lease(owner, int(epoch), left / 1000)
                for shard, (owner, epoch, left) in given["leases"].items()
            },
            frozenset(given["alive"]),
            {who: frozenset(map(int, shards)) for who, shards in given["asked"].items()},
            given["wait"] / 1000,
        )


class Leases:
    """Which shards a worker has, by its own clock. Whoever uses it sees to it that one does at a
    time, but for `has`, which anybody may ask.

    Args:
        worker: its name, without spaces.
        now: the clock; it must count the time asleep.
        lease, margin: how long a lease lasts, and how long before its end it is over here, seconds.
    """

    def __init__(
        self,
        worker: str,
        now: Callable[[], float] = monotonic,
        lease: float = LEASE,
        margin: float = MARGIN,
    ) -> None:
        self.worker = worker
        self._now = now
        self._lease = lease
        self._margin = margin
        self._epochs: dict[int, int] = {}  # replaced, never changed
        self._until = 0.0  # of all of them
        self.released: set[int] = set()
        """What Redis is to be told that it is done with."""

    def has(self, shard: int) -> bool:
        """Whether it has it at this moment."""
        return shard in self._epochs and self._now() < self._until

    @property
    def takes_part(self) -> bool:
        """Whether it has said in time that it is there."""
        return self._now() < self._until

    @property
    def shards(self) -> frozenset[int]:
        """Those that it has."""
        return frozenset(self._epochs) if self._now() < self._until else frozenset()

    def request(
        self, wanted: Iterable[int] = (), asked: Iterable[int] = (), leaving: bool = False
    ) -> str:
        """Give what `SYNC` is to be asked for.

        Args:
            wanted: what it would have if it were nobody's.
            asked: what their owners are to hand over.
            leaving: it has nothing any more and wants nothing.
        """
        held = {} if leaving or self._now() >= self._until else self._epochs
        return json.dumps(
            {
                "who": self.worker,
                "ttl": round(self._lease * 1000),
                "held": held,
                "wanted": [] if leaving else [str(each) for each in sorted(wanted)],
                "asked": [] if leaving else [str(each) for each in sorted(asked)],
                "released": [str(each) for each in self.released],
                "leaving": leaving,
            }
        )

    def take(
        self, answer: Answer, sent_at: float, released: frozenset[int]
    ) -> tuple[frozenset[int], frozenset[int]]:
        """Take note of an answer; give the shards that are its own now, and those that are no more.

        Args:
            answer: what Redis said.
            sent_at: the clock when it was asked.
            released: what it was told then that this is done with.
        """
        # What has lapsed, and nobody has looked yet, is served still: it is lost, or begins anew.
        known, before = frozenset(self._epochs), self.shards
        self.released -= released
        late = sent_at + self._lease - self._margin <= self._now()
        # What was let go of meanwhile is not to come back.
        self._epochs = {
            shard: epoch
            for shard, epoch in answer.held.items()
            if shard not in self.released and not late
        }
        self._until = sent_at + self._lease - self._margin
        after = frozenset(self._epochs)
        return after - before, known - after

    def release(self, shard: int) -> None:
        """It is done with a shard."""
        self._epochs = {each: epoch for each, epoch in self._epochs.items() if each != shard}
        self.released.add(shard)

    def lapse(self) -> frozenset[int]:
        """Give what it had if its time is over, and have nothing then."""
        if not self._epochs or self._now() < self._until:
            return frozenset()
        lapsed, self._epochs = frozenset(self._epochs), {}
        return lapsed
