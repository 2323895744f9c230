"""Scripts that Redis runs: each decides and acts in one step.

A renewal and a reclaim that meet cannot both win. Every time is the server's: a wrong clock on a
host ends nobody's lease.
"""

from __future__ import annotations

from crisper_worker.oom_bypass import OPEN

_NOW = """
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
"""
# Whatever somebody else has written there: another type, a text, the largest number.
_COUNT = """
local function count(key, seconds)
  local deaths = redis.pcall('INCR', key)
  if type(deaths) == 'table' then
    redis.call('SET', key, 1)
    deaths = 1
  end
  redis.call('EXPIRE', key, seconds)
  return deaths
end
"""


# KEYS: deaths. ARGV: seconds kept. Answers how many they are with this one.
COUNT = OPEN + _COUNT + "return count(KEYS[1], ARGV[1])"


# KEYS: unacked, index, lease, holder, then the lists in their order. ARGV: holder.
# Answers false, or the list, the message, whether it can be read (1, 0), and its tag. What cannot
# be read has a tag of its own, and no place in the index: kombu itself would restore it from there,
# and end its worker. The channel sets it aside, or the others do as soon as the lease expires.
# A Redis that takes no writes (its disk is full) refuses the first one, and nothing is lost; at its
# memory limit that one opens the way.
# The hash is written last: a key of another type ends the script, which is not undone by that, and
# what is in the hash would be a second copy of the message.
# The message is wrapped as text: encoding it again would turn its empty lists into empty objects.
TAKE = (
    _NOW
    + """
local refused = redis.pcall('DEL', 'unacked_nothing')
if type(refused) == 'table' and refused.err then return false end
-- A few bytes of JSON make a table of a hundred, and Redis would be ended for its memory, again and
-- again. What kombu writes is small but for its body, a text that begins the message.
local function light(raw)
  if #raw <= 1048576 then return raw end
  local _, last = string.find(raw, '^{"body": ?"[^"\\\\]*"')
  local rest = last and '{"body": ""' .. string.sub(raw, last + 1) or raw
  if #rest <= 1048576 then return rest end
  local _, tables = string.gsub(rest, '[%[{]', '')
  local _, values = string.gsub(rest, ',', '')
  assert(tables * 200 + values * 60 < 50000000)
  return rest
end
local function read(raw)
  local properties = cjson.decode(light(raw)).properties
  local info = properties.delivery_info
  local wrapped = '[' .. raw .. ',' .. cjson.encode(info.exchange) .. ','
    .. cjson.encode(info.routing_key) .. ']'
  assert(type(properties.delivery_tag) == 'string')
  return properties.delivery_tag, wrapped
end
for i = 5, #KEYS do
  local raw = redis.pcall('LINDEX', KEYS[i], -1)
  if type(raw) == 'string' then
    local readable, tag, wrapped = pcall(read, raw)
    if not readable then tag, wrapped = 'unreadable-' .. redis.sha1hex(raw), raw end
    redis.call('ZADD', KEYS[3], now, tag)
    redis.call('HSET', KEYS[4], tag, ARGV[1] .. '\\n' .. KEYS[i])
    if readable then redis.call('ZADD', KEYS[2], now, tag) end
    redis.call('HSET', KEYS[1], tag, wrapped)
    redis.call('RPOP', KEYS[i])
    return {KEYS[i], raw, readable and 1 or 0, tag}
  end
end
return false
"""
)


# KEYS: index, lease, holder. ARGV: holder, tags. Answers the time and the tags not held any more.
# A tag with a holder is not acknowledged: its lease is made again if somebody has removed the key.
RENEW = (
    OPEN
    + _NOW
    + """
local answer, mine = {now}, ARGV[1] .. '\\n'
for i = 2, #ARGV do
  local entry = redis.call('HGET', KEYS[3], ARGV[i])
  if entry and string.sub(entry, 1, #mine) == mine then
    redis.call('ZADD', KEYS[2], now, ARGV[i])
    redis.call('ZADD', KEYS[1], 'XX', now, ARGV[i])
  else
    answer[#answer + 1] = ARGV[i]
  end
end
return answer
"""
)


# KEYS: unacked, index, lease, holder, started, the list, deaths, aside.
# ARGV: tag, whose ('=' and a holder, or '<' and a time since which it was not renewed), RPUSH,
# LPUSH or HSET (set aside), what to store, the task id, 1 if a started task counts as a death,
# seconds kept. Answers 1 if the message was moved, -1 if what it goes to does not take it.
# A script is not undone by an error: once the message is out of its hash, no command may raise one.
MOVE = (
    _COUNT
    + """
local tag, whose = ARGV[1], string.sub(ARGV[2], 1, 1)
local limit = string.sub(ARGV[2], 2)
if whose == '=' then
  local entry = redis.call('HGET', KEYS[4], tag)
  if not entry or string.sub(entry, 1, #limit + 1) ~= limit .. '\\n' then return 0 end
else
  local renewed = redis.call('ZSCORE', KEYS[3], tag)
  if not renewed or tonumber(renewed) > tonumber(limit) then return 0 end
end
local target, kind = KEYS[6], 'list'
if ARGV[3] == 'HSET' then target, kind = KEYS[8], 'hash' end
local found = redis.call('TYPE', target).ok
if redis.call('HEXISTS', KEYS[1], tag) == 1 and found ~= 'none' and found ~= kind then return -1 end
local held = redis.call('HDEL', KEYS[1], tag)
redis.pcall('ZREM', KEYS[2], tag)
redis.call('ZREM', KEYS[3], tag)
redis.pcall('HDEL', KEYS[4], tag)
local started = redis.pcall('SREM', KEYS[5], tag)
if held == 0 then return 0 end
if ARGV[6] == '1' and started == 1 then count(KEYS[7], ARGV[7]) end
if ARGV[3] == 'HSET' then
  redis.call('HSET', KEYS[8], ARGV[5], ARGV[4])
else
  redis.call(ARGV[3], KEYS[6], ARGV[4])
end
return 1
"""
)


# KEYS: unacked, index, lease, holder, started. ARGV: tag. What stands in place of the started tasks
# and is no set is removed: it holds nothing but marks, by which deaths are counted.
ACK = (
    OPEN
    + """
redis.call('HDEL', KEYS[1], ARGV[1])
redis.pcall('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('HDEL', KEYS[4], ARGV[1])
if type(redis.pcall('SREM', KEYS[5], ARGV[1])) == 'table' then redis.call('DEL', KEYS[5]) end
"""
)


# KEYS: lease, started. ARGV: tag. What is acknowledged already is not marked any more.
START = (
    OPEN
    + """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then redis.call('SADD', KEYS[2], ARGV[1]) end
"""
)


# KEYS: unacked, index, lease, holder. ARGV: tag, a time since which it was not renewed. Ends the
# lease only: the message stays where kombu's visibility timeout finds it. Answers 1 if it did.
LEAVE = (
    OPEN
    + _NOW
    + """
local renewed = redis.call('ZSCORE', KEYS[3], ARGV[1])
if not renewed or tonumber(renewed) > tonumber(ARGV[2]) then return 0 end
redis.call('ZREM', KEYS[3], ARGV[1])
redis.pcall('HDEL', KEYS[4], ARGV[1])
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.pcall('ZADD', KEYS[2], 'NX', now, ARGV[1])
end
return 1
"""
)


# KEYS: aside, the list, deaths. ARGV: task id, the message. Answers 1 if it was set aside.
REQUEUE = (
    OPEN
    + """
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('LPUSH', KEYS[2], ARGV[2])
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('DEL', KEYS[3])
return 1
"""
)
