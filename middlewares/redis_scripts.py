"""What runs inside Redis: each decision is one script, whole or not at all, by the clock of Redis alone.

The buckets are those of `middlewares.buckets`, a hash each. Slots are leases: a sorted set of who holds one
and until when, which its process renews; those of a process that is gone are there again after `LEASE_MS`.
Every key expires by itself. The braces in names keep the keys of one decision in one slot of a cluster.
"""

from __future__ import annotations

from typing import NamedTuple


class Script(NamedTuple):
    """`name` is for those who read."""

    name: str
    text: str


LEASE_MS = 15_000
"""For which a slot stays taken that nobody renews."""
PROBE_MS = 5_000
"""The same for the one request that may try a provider whose breaker is open."""

_NOW = """
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1000000
"""

_BUCKET = (
    _NOW
    + """
local function level_of(key, count, seconds)
  local found = redis.call('HMGET', key, 'used', 'at', 'of')
  local used, at = tonumber(found[1]) or 0, tonumber(found[2]) or now
  local passed, of = math.max(0, now - at), tonumber(found[3]) or 0
  local level = math.min(used, of > count and count or used) - passed * count / seconds
  if of > count then level = math.min(level, used - passed * of / seconds) end
  level = math.max(0, level)
  if at > now then
    redis.call('HSET', key, 'used', string.format('%.17g', level), 'at', string.format('%.17g', now))
  end
  return level
end
local function fill(key, used, count, seconds)
  used = math.max(0, used)
  local shown, at = string.format('%.17g', used), string.format('%.17g', now)
  redis.call('HSET', key, 'used', shown, 'at', at, 'of', count)
  redis.call('PEXPIRE', key, math.ceil(used * seconds / count * 1000) + 1000)
end
"""
)

TAKE = Script(
    "take",
    _BUCKET
    + """
-- KEYS: the buckets, then the slots if there are any.
-- ARGV: how many buckets; count, seconds and cost of each; limit, lease and its milliseconds.
local buckets, longest, by, levels = tonumber(ARGV[1]), 0, 0, {}
for i = 1, buckets do
  local count, seconds = tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i])
  local cost = tonumber(ARGV[3 * i + 1])
  levels[i] = level_of(KEYS[i], count, seconds)
  local lacking = levels[i] + cost - count
  if lacking > count * 1e-9 then
    local wait = lacking * seconds / count
    if wait > longest then longest, by = wait, i end
  end
end
local slots = KEYS[buckets + 1]
if by == 0 and slots then
  redis.call('ZREMRANGEBYSCORE', slots, '-inf', string.format('%.17g', now))
  if redis.call('ZCARD', slots) >= tonumber(ARGV[3 * buckets + 2]) then by = buckets + 1 end
end
if by > 0 then return {by, string.format('%.17g', longest)} end
for i = 1, buckets do
  fill(KEYS[i], levels[i] + tonumber(ARGV[3 * i + 1]), tonumber(ARGV[3 * i - 1]), tonumber(ARGV[3 * i]))
end
if slots then
  local milliseconds = tonumber(ARGV[3 * buckets + 4])
  redis.call('ZADD', slots, string.format('%.17g', now + milliseconds / 1000), ARGV[3 * buckets + 3])
  redis.call('PEXPIRE', slots, milliseconds)
end
return {0, '0'}
""",
)
"""{0, "0"}, or which of the keys refuses and after how many seconds it would not."""

CORRECT = Script(
    "correct",
    _BUCKET
    + """
-- KEYS: a bucket. ARGV: count, seconds, and what was used more than was taken, or less.
local count, seconds = tonumber(ARGV[1]), tonumber(ARGV[2])
fill(KEYS[1], level_of(KEYS[1], count, seconds) + tonumber(ARGV[3]), count, seconds)
return 0
""",
)

RELEASE = Script("release", "return redis.call('ZREM', KEYS[1], ARGV[1])")
"""KEYS: the slots. ARGV: the lease."""

RENEW = Script(
    "renew",
    _NOW
    + """
-- KEYS: the slots. ARGV: milliseconds, then every lease of this process.
local milliseconds = tonumber(ARGV[1])
local till = string.format('%.17g', now + milliseconds / 1000)
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], till, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], milliseconds)
return 0
""",
)

SHARE = Script(
    "share",
    _NOW
    + """
-- KEYS: the circuits that are open, the keys that rest. ARGV: JSON, what is new; this process.
local news, process = cjson.decode(ARGV[1]), ARGV[2]
local function later(key, name, seconds)
  local till = math.max(now + seconds, tonumber(redis.call('HGET', key, name)) or 0)
  redis.call('HSET', key, name, string.format('%.17g', till))
end
for name, seconds in pairs(news.opened) do
  later(KEYS[1], name, seconds)
  redis.call('DEL', KEYS[1] .. ':probe:' .. name)
end
for _, name in ipairs(news.closed) do
  redis.call('HDEL', KEYS[1], name)
  redis.call('DEL', KEYS[1] .. ':probe:' .. name)
end
for _, name in ipairs(news.left) do
  local probe = KEYS[1] .. ':probe:' .. name
  if redis.call('GET', probe) == process then redis.call('DEL', probe) end
end
for _, name in ipairs(news.probing) do
  local probe = KEYS[1] .. ':probe:' .. name
  if redis.call('GET', probe) == process then redis.call('PEXPIRE', probe, tonumber(ARGV[3])) end
end
for name, seconds in pairs(news.resting) do
  if seconds > 0 then
    redis.call('HSET', KEYS[2], name, string.format('%.17g', now + seconds))
  else
    redis.call('HDEL', KEYS[2], name)
  end
end
local function all(key, kept)
  local told, found, last = {}, redis.call('HGETALL', key), 0
  for i = 1, #found, 2 do
    local left = tonumber(found[i + 1]) - now
    if left > -kept then
      told[found[i]] = left
      last = math.max(last, left + kept)
    else
      redis.call('HDEL', key, found[i])
    end
  end
  if last > 0 then redis.call('PEXPIRE', key, math.ceil(last * 1000)) end
  return told
end
return cjson.encode({circuits = all(KEYS[1], 3600), resting = all(KEYS[2], 0)})
""",
)
"""What of both there is now, in seconds to go. A circuit whose time is over waits an hour for a probe."""

PROBE = Script(
    "probe",
    """
-- KEYS: the probe of a route. ARGV: this process, milliseconds.
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', tonumber(ARGV[2])) then return 1 end
return redis.call('GET', KEYS[1]) == ARGV[1] and 1 or 0
""",
)

SCRIPTS = (TAKE, CORRECT, RELEASE, RENEW, SHARE, PROBE)
