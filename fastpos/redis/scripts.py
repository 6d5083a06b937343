"""What Redis does in one step each: names of keys, and scripts (Lua, run by the server).

Of each account there are four keys, with its name in braces so that a cluster keeps them together:

    fastpos:{alice}:events   a stream: its records, oldest first, of bounded length
    fastpos:{alice}:epoch    the epoch that was given last
    fastpos:{alice}:owner    who publishes, for as long as it says so in time
    fastpos:{alice}:place    with a journal: up to where it is published (files.py)

AN ID IS <epoch>-<sequence>

Who begins to publish a run of an account asks for an epoch. It is above the last that was given,
and above that of the last record, as a server that took over from another may have lost the one or
the other. And it is the server's time in seconds at the least: where a server has lost both, as it
has lost everything, it is above all that were given while no account began more than one run a
second, and the server's clock is not set back. From then on each record has the next sequence
number, from 1; 0 is for what tells of records that are missing before it. The server takes no id
that is not above the last one. So

* a batch that is sent again, as the answer to the first time was lost, is taken once;
* a batch whose predecessor is not there is refused: it was refused itself, or a server that took
  over from another does not have it;
* what has lost the ownership can't write any more once its successor has an epoch.

One call appends a batch, all of it or nothing.
"""

from __future__ import annotations

__all__ = [
    "ACQUIRE", "APPEND", "FENCED", "HOLD", "LET_GO", "MISSING", "PRUNE", "READ", "RELEASE", "Keys",
]  # fmt: skip

FENCED = b"FENCED"
"""What `APPEND` answers who is the owner no more."""
MISSING = b"MISSING "
"""What it answers where the record before is not there; the last one's number follows."""


class Keys:
    """The keys of an account.

    Args:
        prefix: what all keys begin with.
        name: the account's.
    """

    __slots__ = ("epoch", "events", "owner", "place")

    def __init__(self, prefix: str, name: str) -> None:
        self.events: str = f"{prefix}:{{{name}}}:events"
        self.epoch: str = f"{prefix}:{{{name}}}:epoch"
        self.owner: str = f"{prefix}:{{{name}}}:owner"
        self.place: str = f"{prefix}:{{{name}}}:place"


_LAST = """
local function last_id(key)
  local found = redis.call('XREVRANGE', key, '+', '-', 'COUNT', 1)
  if #found == 0 then return 0, -1 end
  local dash = string.find(found[1][1], '-', 1, true)
  return tonumber(string.sub(found[1][1], 1, dash - 1)), tonumber(string.sub(found[1][1], dash + 1))
end
"""

ACQUIRE = (
    _LAST
    + """
-- KEYS: events, epoch, owner, place. ARGV: who, for so many milliseconds, the place of the run's
-- first record or nothing. Gives the new epoch.
local given = tonumber(redis.call('GET', KEYS[2]) or '0')
local written = last_id(KEYS[1])
local epoch = math.max(given, written, tonumber(redis.call('TIME')[1]) - 1) + 1
redis.call('SET', KEYS[2], epoch)
redis.call('SET', KEYS[3], epoch .. ' ' .. ARGV[1], 'PX', ARGV[2])
if ARGV[3] == '' then redis.call('DEL', KEYS[4])
else redis.call('SET', KEYS[4], epoch .. ' 1 ' .. ARGV[3]) end
return epoch
"""
)

APPEND = (
    _LAST
    + """
-- KEYS: events, epoch, owner, place. ARGV: epoch, sequence of the first, that of the record before
-- it (-1: none), greatest length, who, for so many milliseconds, the place after the last or
-- nothing, then the records. Gives the last sequence there is, FENCED, or MISSING and the last
-- there is.
local epoch, sequence, before = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local last_epoch, last = last_id(KEYS[1])
local given = tonumber(redis.call('GET', KEYS[2]) or '0')
if last_epoch > epoch or given > epoch then return 'FENCED' end
if last_epoch < epoch then last = -1 end
if last < before then return 'MISSING ' .. last end
for n = 8, #ARGV do
  if sequence > last then
    redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], ARGV[1] .. '-' .. sequence,
      'kind', string.match(ARGV[n], '"kind":"([a-z_]+)"'), 'record', ARGV[n])
    last = sequence
  end
  sequence = sequence + 1
end
if given < epoch then redis.call('SET', KEYS[2], ARGV[1]) end
redis.call('SET', KEYS[3], ARGV[1] .. ' ' .. ARGV[5], 'PX', ARGV[6])
if ARGV[7] ~= '' then redis.call('SET', KEYS[4], ARGV[1] .. ' ' .. sequence .. ' ' .. ARGV[7]) end
return last
"""
)

HOLD = """
-- KEYS: a lock. ARGV: who, for so many milliseconds. Gives 0 if it is another's, 1 if it is his
-- now, 2 if it was before.
local held = redis.call('GET', KEYS[1])
if held and held ~= ARGV[1] then return 0 end
if not held then
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
  return 1
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])  -- which a server without memory does not refuse
return 2
"""

LET_GO = """
-- KEYS: a lock. ARGV: who.
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('DEL', KEYS[1]) end
return 0
"""

READ = """
-- KEYS: a lock, events. ARGV: who, for so many milliseconds, group, consumer, where to read from,
-- how many at most. Gives the entries, or nothing if the lock is not his: who has lost it must take
-- none away from who has it.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return false end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
local found = redis.call('XREADGROUP', 'GROUP', ARGV[3], ARGV[4], 'COUNT', ARGV[6],
  'STREAMS', KEYS[2], ARGV[5])
if not found then return {} end
return found[1][2]
"""

PRUNE = """
-- KEYS: events. ARGV: group, consumer. Removes the group's others that have nothing to acknowledge:
-- in one step, as with such a consumer all goes that it was given meanwhile.
for _, each in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local told = {}
  for n = 1, #each, 2 do told[each[n]] = each[n + 1] end
  if told.pending == 0 and told.name ~= ARGV[2] then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], told.name)
  end
end
return 0
"""

RELEASE = """
-- KEYS: owner, place. ARGV: epoch, who. All is published: nobody need look at where that ended.
if redis.call('GET', KEYS[1]) ~= ARGV[1] .. ' ' .. ARGV[2] then return 0 end
redis.call('DEL', KEYS[1], KEYS[2])
return 1
"""
