"""The lease in Redis: who holds which message, until when, how often it killed its worker.

Beside kombu's ``unacked`` (tag -> message) and ``unacked_index`` (tag -> time of delivery) stand

=====================  ====  ==========================================================
``unacked_lease``      zset  tag -> time of the last renewal, by the clock of the server
``unacked_holder``     hash  tag -> holder, newline, the list that the message came from
``unacked_started``    set   tags whose task was started
``unacked_deaths:ID``  int   how often the worker or process of task ID died running it
``unacked_aside``      hash  task id -> what was set aside, as JSON
=====================  ====  ==========================================================

Every step that decides and acts is one script, so that a renewal and a reclaim that meet cannot
both win. Every time is the server's: a wrong clock on a host ends nobody's lease.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from crisper_worker.past_limit import OPEN, PastLimitRedis

DEATHS_KEPT = 86400  # seconds after the last death of a task's worker
BATCH = 500  # tags of one renewal, messages of one sweep

_NOW = """
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
"""

# KEYS: unacked, index, lease, holder, then the lists in their order. ARGV: holder.
# Answers false, or the list, the message and whether it was registered (1). What cannot be read
# is handed over unregistered, for kombu to complain about. A Redis that takes no writes (its disk
# is full) refuses the first one, and nothing is lost; at its memory limit that one opens the way.
# The message is wrapped as text: encoding it again would turn its empty lists into empty objects.
TAKE = (
    _NOW
    + """
local refused = redis.pcall('DEL', 'unacked_nothing')
if type(refused) == 'table' and refused.err then return false end
local function read(raw)
  local properties = cjson.decode(raw).properties
  local info = properties.delivery_info
  local wrapped = '[' .. raw .. ',' .. cjson.encode(info.exchange) .. ','
    .. cjson.encode(info.routing_key) .. ']'
  return properties.delivery_tag .. '', wrapped
end
for i = 5, #KEYS do
  local raw = redis.call('LINDEX', KEYS[i], -1)
  if raw then
    local readable, tag, wrapped = pcall(read, raw)
    if readable then
      redis.call('HSET', KEYS[1], tag, wrapped)
      redis.call('ZADD', KEYS[2], now, tag)
      redis.call('ZADD', KEYS[3], now, tag)
      redis.call('HSET', KEYS[4], tag, ARGV[1] .. '\\n' .. KEYS[i])
    end
    redis.call('RPOP', KEYS[i])
    return {KEYS[i], raw, readable and 1 or 0}
  end
end
return false
"""
)

# KEYS: index, lease, holder. ARGV: holder, tags. Answers the time and the tags not held any more.
RENEW = (
    OPEN
    + _NOW
    + """
local answer, mine = {now}, ARGV[1] .. '\\n'
for i = 2, #ARGV do
  local entry = redis.call('HGET', KEYS[3], ARGV[i])
  if entry and string.sub(entry, 1, #mine) == mine then
    redis.call('ZADD', KEYS[2], 'XX', now, ARGV[i])
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
# seconds kept. Answers 1 if the message was moved.
MOVE = """
local tag, whose = ARGV[1], string.sub(ARGV[2], 1, 1)
local limit = string.sub(ARGV[2], 2)
if whose == '=' then
  local entry = redis.call('HGET', KEYS[4], tag)
  if not entry or string.sub(entry, 1, #limit + 1) ~= limit .. '\\n' then return 0 end
else
  local renewed = redis.call('ZSCORE', KEYS[3], tag)
  if not renewed or tonumber(renewed) > tonumber(limit) then return 0 end
end
local held = redis.call('HDEL', KEYS[1], tag)
redis.call('ZREM', KEYS[2], tag)
redis.call('ZREM', KEYS[3], tag)
redis.call('HDEL', KEYS[4], tag)
local started = redis.call('SREM', KEYS[5], tag)
if held == 0 then return 0 end
if ARGV[6] == '1' and started == 1 then
  redis.call('INCR', KEYS[7])
  redis.call('EXPIRE', KEYS[7], ARGV[7])
end
if ARGV[3] == 'HSET' then
  redis.call('HSET', KEYS[8], ARGV[5], ARGV[4])
else
  redis.call(ARGV[3], KEYS[6], ARGV[4])
end
return 1
"""

# KEYS: lease, started. ARGV: tag. What is acknowledged already is not marked any more.
START = (
    OPEN
    + """
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then redis.call('SADD', KEYS[2], ARGV[1]) end
"""
)

# KEYS: aside, the list, deaths. ARGV: task id, the message. Answers 1 if it was set aside.
REQUEUE = """
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[3])
redis.call('LPUSH', KEYS[2], ARGV[2])
return 1
"""


@dataclass(frozen=True)
class Delivery:
    """A message that some worker holds, as Redis has it."""

    tag: str
    message: dict[str, Any]
    source: str  # the list it came from, with kombu's prefix
    holder: str

    @property
    def task_id(self) -> str:
        """The task's id; the tag where the message has none (another protocol)."""
        return str((self.message.get("headers") or {}).get("id") or self.tag)

    @property
    def task(self) -> str:
        """The task's name."""
        return str((self.message.get("headers") or {}).get("task") or "unknown")

    def again(self) -> str:
        """Return the message as it goes back, marked as kombu marks it."""
        message = json.loads(json.dumps(self.message))
        message.setdefault("headers", {})["redelivered"] = True
        properties = message.setdefault("properties", {})
        properties.setdefault("delivery_info", {})["redelivered"] = True
        return json.dumps(message)


@dataclass(frozen=True)
class Aside:
    """A message that was set aside because its task kills whoever runs it."""

    task_id: str
    task: str
    reason: str
    deliveries: int
    at: float  # seconds since the epoch
    source: str
    message: dict[str, Any] = field(repr=False)

    def dump(self) -> str:
        """Return it as it stands in Redis."""
        return json.dumps(self.__dict__)


class LeaseStore:
    """The commands; every method may raise `redis.RedisError`.

    Args:
        redis: a client without kombu's prefixing (the names here carry the prefix themselves), and
            one that goes past Redis's memory limit.
        prefix: kombu's ``global_keyprefix``.
        unacked: kombu's ``unacked_key``.
        index: kombu's ``unacked_index_key``.
        holder: who holds what is taken; no two workers at any time have the same.
    """

    def __init__(
        self, redis: PastLimitRedis, prefix: str, unacked: str, index: str, holder: str
    ) -> None:
        self.redis = redis
        self.holder = holder
        self.unacked = prefix + unacked
        self.index = prefix + index
        self.lease = f"{self.unacked}_lease"
        self.holders = f"{self.unacked}_holder"
        self.started = f"{self.unacked}_started"
        self.aside = f"{self.unacked}_aside"
        self._renew = redis.register_script(RENEW)
        self._start = redis.register_script(START)
        self._move = redis.register_script(MOVE)
        self._requeue = redis.register_script(REQUEUE)

    def take_command(self, lists: Iterable[str]) -> list[str]:
        """Return the command that takes the first message in `lists` and registers it."""
        keys = [self.unacked, self.index, self.lease, self.holders, *lists]
        return ["EVAL", TAKE, str(len(keys)), *keys, self.holder]

    def deaths_key(self, task_id: str) -> str:
        """Return the key of the counter of a task's deaths."""
        return f"{self.unacked}_deaths:{task_id}"

    def renew(self, tags: list[str]) -> tuple[float, set[str]]:
        """Renew the leases of `tags`.

        Returns:
            The server's time in seconds, and the tags that are not this holder's any more.
        """
        now, lost = 0.0, set[str]()
        for start in range(0, max(len(tags), 1), BATCH):
            answer = self._renew(
                keys=[self.index, self.lease, self.holders],
                args=[self.holder, *tags[start : start + BATCH]],
            )
            now = float(answer[0])
            lost.update(tag.decode() for tag in answer[1:])
        return now, lost

    def ack(self, tag: str) -> None:
        """Forget a message: its task has ended."""
        with self.redis.pipeline() as pipe:
            pipe.hdel(self.unacked, tag)
            pipe.zrem(self.index, tag)
            pipe.zrem(self.lease, tag)
            pipe.hdel(self.holders, tag)
            pipe.srem(self.started, tag)
            pipe.execute()

    def start(self, tag: str) -> None:
        """Note that the task of a message is started: a death from here on counts."""
        self._start(keys=[self.lease, self.started], args=[tag])

    def deaths(self, task_id: str) -> int:
        """Return how often the worker or process of a task died."""
        return int(self.redis.get(self.deaths_key(task_id)) or 0)

    def count_death(self, task_id: str) -> int:
        """Count one more, and say how many they are."""
        with self.redis.pipeline() as pipe:
            pipe.incr(self.deaths_key(task_id))
            pipe.expire(self.deaths_key(task_id), DEATHS_KEPT)
            return int(pipe.execute()[0])

    def find(self, tag: str) -> Delivery | None:
        """Return the message of a tag, if a worker holds it by a lease."""
        with self.redis.pipeline() as pipe:
            pipe.hget(self.unacked, tag)
            pipe.hget(self.holders, tag)
            raw, entry = pipe.execute()
        if entry is None:
            return None
        holder, _, source = entry.decode().partition("\n")
        message = json.loads(raw)[0] if raw is not None else {}
        return Delivery(tag, message, source, holder)

    def was_started(self, tag: str) -> bool:
        """Return whether the task of a message was started."""
        return bool(self.redis.sismember(self.started, tag))

    def expired(self, before: float) -> list[str]:
        """Return tags that were not renewed since the time `before`."""
        tags = self.redis.zrangebyscore(self.lease, "-inf", before, start=0, num=BATCH)
        return [tag.decode() for tag in cast(list[bytes], tags)]

    def give_back(self, tag: str, *, last: bool = False) -> bool:
        """Put an own message back into its list, as the next one or as the `last`."""
        delivery = self.find(tag)
        if delivery is None:
            return False
        side = "LPUSH" if last else "RPUSH"
        return self._moved(delivery, f"={self.holder}", side, delivery.again())

    def reclaim(self, delivery: Delivery, before: float) -> bool:
        """Put somebody's message back, if not renewed since `before`; counts a death."""
        return self._moved(delivery, f"<{before!r}", "RPUSH", delivery.again(), counts=True)

    def set_aside(self, delivery: Delivery, entry: Aside, before: float | None = None) -> bool:
        """Set an own message aside, or somebody's that was not renewed since `before`."""
        whose = f"={self.holder}" if before is None else f"<{before!r}"
        return self._moved(delivery, whose, "HSET", entry.dump())

    def _moved(
        self, delivery: Delivery, whose: str, command: str, value: str, *, counts: bool = False
    ) -> bool:
        keys = [self.unacked, self.index, self.lease, self.holders, self.started]
        keys += [delivery.source, self.deaths_key(delivery.task_id), self.aside]
        counted = "1" if counts else "0"
        args: list[str | int] = [
            delivery.tag,
            whose,
            command,
            value,
            delivery.task_id,
            counted,
            DEATHS_KEPT,
        ]
        return bool(self._move(keys=keys, args=args))

    def set_aside_entries(self) -> dict[str, Aside]:
        """Return the tasks that were set aside, by task id, the oldest first."""
        entries = [Aside(**json.loads(raw)) for raw in self.redis.hvals(self.aside)]
        return {entry.task_id: entry for entry in sorted(entries, key=lambda entry: entry.at)}

    def requeue(self, entry: Aside) -> bool:
        """Put a message that was set aside at the end of its queue, its deaths forgotten."""
        keys = [self.aside, entry.source, self.deaths_key(entry.task_id)]
        return bool(self._requeue(keys=keys, args=[entry.task_id, json.dumps(entry.message)]))

    def drop(self, entry: Aside) -> bool:
        """Forget a message that was set aside."""
        self.redis.delete(self.deaths_key(entry.task_id))
        return bool(self.redis.hdel(self.aside, entry.task_id))
