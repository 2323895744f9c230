"""The lease in Redis: who holds which message, until when, how often it killed its worker.

Beside kombu's ``unacked`` (tag -> message) and ``unacked_index`` (tag -> time of delivery) stand

=====================  ====  ==========================================================
``unacked_lease``      zset  tag -> time of the last renewal, by the clock of the server
``unacked_holder``     hash  tag -> holder, newline, the list that the message came from
``unacked_started``    set   tags whose task was started
``unacked_deaths:ID``  int   how often the worker or process of task ID died running it
``unacked_aside``      hash  task id -> what was set aside, as JSON
=====================  ====  ==========================================================

Whoever reaches Redis can write there, so nothing of it is trusted to have a shape: what cannot be
read is set aside with its first bytes, and stops the recovery of no other message.

Every step that decides and acts is one script, so that a renewal and a reclaim that meet cannot
both win. Every time is the server's: a wrong clock on a host ends nobody's lease.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, cast

from crisper_worker.past_limit import OPEN, PastLimitRedis
from crisper_worker.text import shorten

DEATHS_KEPT = 86400  # seconds after the last death of a task's worker
BATCH = 500  # tags of one renewal, messages of one sweep
KEPT = 65536  # bytes of a message that cannot be read
UNREADABLE = "unreadable"  # the only key of what stands for such a message

_NOW = """
local time = redis.call('TIME')
local now = string.format('%d.%06d', time[1], time[2])
"""

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
local function read(raw)
  local properties = cjson.decode(raw).properties
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
if ARGV[6] == '1' and started == 1 then
  local deaths = redis.pcall('INCR', KEYS[7])
  if type(deaths) == 'table' then redis.call('SET', KEYS[7], 1) end
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


class UnreadableError(Exception):
    """A message cannot be read, or cannot go where it belongs; the text says why."""


def text_of(raw: bytes) -> str:
    """Return a name that Redis has; `bytes_of` makes the same bytes of it, whatever they are."""
    return raw.decode("utf-8", "surrogateescape")


def bytes_of(name: str) -> bytes:
    """Return a name as Redis has it."""
    return name.encode("utf-8", "surrogateescape")


def misshapen(message: Any) -> str:
    """Return why something is no message of a task; empty if it may be one."""
    if not isinstance(message, dict):
        return f"a message is an object, and it is a {type(message).__name__}"
    for name in ("headers", "properties"):
        if not isinstance(message.get(name) or {}, dict):
            return f"its {name} are a {type(message[name]).__name__}"
    info = (message.get("properties") or {}).get("delivery_info") or {}
    if not isinstance(info, dict):
        return f"its delivery_info is a {type(info).__name__}"
    headers = message.get("headers") or {}
    for name in ("id", "task"):
        value = headers.get(name)
        if value is not None and not isinstance(value, str | int):
            return f"the {name} of its task is a {type(value).__name__}"
        try:
            str(value).encode()
        except ValueError:
            return f"the {name} of its task is no text"
    return ""


def stand_in(raw: bytes) -> dict[str, Any]:
    """Return what stands for a message that cannot be read: its first 64 KiB, in base64."""
    return {UNREADABLE: base64.b64encode(raw[:KEPT]).decode()}


def described_error(error: BaseException) -> str:
    """Return an error in a few words, of which none can be more than a part of our sentence."""
    return f"{type(error).__name__}: {str(error)[:100]!a}"


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

    @property
    def label(self) -> str:
        """The task's name and id for a log: whoever sent it wrote both."""
        return f"{shorten(self.task)}[{shorten(self.task_id)}]"

    def again(self) -> str:
        """Return the message as it goes back, marked as kombu marks it."""
        message = json.loads(json.dumps(self.message))
        for owner, name in ((message, "headers"), (message, "properties")):
            owner[name] = owner.get(name) or {}
        properties = message["properties"]
        properties["delivery_info"] = properties.get("delivery_info") or {}
        message["headers"]["redelivered"] = properties["delivery_info"]["redelivered"] = True
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

    @property
    def readable(self) -> bool:
        """Return whether its message could go back into a queue."""
        return self.message.keys() != {UNREADABLE} and bool(self.source)

    @classmethod
    def load(cls, field_name: str, raw: bytes) -> Aside:
        """Return what stands in Redis; what is no entry stands for itself, and can be dropped."""
        try:
            entry = cls(**json.loads(raw))
            good = (
                entry.task_id == field_name
                and all(isinstance(t, str) for t in (entry.task, entry.reason, entry.source))
                and isinstance(entry.deliveries, int)
                and isinstance(entry.at, int | float)
                and math.isfinite(entry.at)
                and 0 <= entry.at < 1e11  # a year of four digits
                and isinstance(entry.message, dict)
            )
            why = "" if good else "its fields are not those of an entry"
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            why = described_error(error)
        if not why:
            return entry
        return cls(
            task_id=field_name,
            task="unknown",
            reason=f"cannot be read ({why}); it can be dropped",
            deliveries=0,
            at=0.0,
            source="",
            message=stand_in(raw),
        )


def entry_name(tag: str, raw: bytes) -> str:
    """Return the id of what has none that can be trusted: whoever made it chose tag and task id."""
    return f"unreadable-{hashlib.sha256(bytes_of(tag) + b':' + raw).hexdigest()[:16]}"


def unreadable_entry(tag: str, raw: bytes, source: str, why: str) -> Aside:
    """Return what is set aside in the place of a message that cannot be read."""
    cut = f"; the first {KEPT} of its {len(raw)} bytes are kept" if len(raw) > KEPT else ""
    return Aside(
        task_id=entry_name(tag, raw),
        task="unknown",
        reason=f"cannot be read ({why}){cut}",
        deliveries=0,
        at=time.time(),
        source=source,
        message=stand_in(raw),
    )


def unfit_entry(delivery: Delivery, why: str) -> Aside:
    """Return what is set aside in the place of a message that no worker takes."""
    return Aside(
        task_id=entry_name(delivery.tag, json.dumps(delivery.message).encode()),
        task=delivery.task,
        reason=f"cannot be run ({why}); it calls itself {delivery.task_id}",
        deliveries=0,
        at=time.time(),
        source=delivery.source,
        message=delivery.message,
    )


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
        self._leave = redis.register_script(LEAVE)
        self._requeue = redis.register_script(REQUEUE)

    def wrong_types(self, error: BaseException, lists: Iterable[str] = ()) -> str:
        """Return which keys have another type than Celery's, if that is the error; else nothing."""
        if "WRONGTYPE" not in str(error):
            return ""
        kinds = {self.unacked: "hash", self.index: "zset", self.lease: "zset"}
        kinds |= {self.holders: "hash", self.started: "set", self.aside: "hash"}
        kinds |= dict.fromkeys(lists, "list")
        found = {key: text_of(cast(bytes, self.redis.type(key))) for key in kinds}
        wrong = [
            f"{key!a} is a {found[key]} instead of a {kind}"
            for key, kind in kinds.items()
            if found[key] not in (kind, "none")
        ]
        return ", ".join(wrong) or "a key in Redis has another type"

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
                args=[self.holder, *map(bytes_of, tags[start : start + BATCH])],
            )
            now = float(answer[0])
            lost.update(text_of(tag) for tag in answer[1:])
        return now, lost

    def ack(self, tag: str) -> None:
        """Forget a message: its task has ended."""
        name = bytes_of(tag)
        with self.redis.pipeline() as pipe:
            pipe.hdel(self.unacked, name)
            pipe.zrem(self.index, name)
            pipe.zrem(self.lease, name)
            pipe.hdel(self.holders, name)
            pipe.srem(self.started, name)
            pipe.execute()

    def start(self, tag: str) -> None:
        """Note that the task of a message is started: a death from here on counts."""
        self._start(keys=[self.lease, self.started], args=[bytes_of(tag)])

    def deaths(self, task_id: str) -> int:
        """Return how often the worker or process of a task died."""
        try:
            return int(self.redis.get(self.deaths_key(task_id)) or 0)
        except ValueError:
            return 0  # somebody else has written there

    def count_death(self, task_id: str) -> int:
        """Count one more, and say how many they are."""
        with self.redis.pipeline() as pipe:
            pipe.incr(self.deaths_key(task_id))
            pipe.expire(self.deaths_key(task_id), DEATHS_KEPT)
            return int(pipe.execute()[0])

    def find(self, tag: str) -> Delivery | None:
        """Return the message of a tag, if a worker holds it by a lease.

        Raises:
            UnreadableError: what stands there is no message, or the holder is none.
        """
        with self.redis.pipeline() as pipe:
            pipe.hget(self.unacked, bytes_of(tag))
            pipe.hget(self.holders, bytes_of(tag))
            raw, entry = pipe.execute()
        if entry is None:
            if raw is not None:
                raise UnreadableError("no worker is named as its holder")
            return None
        holder, _, source = text_of(entry).partition("\n")
        if raw is None:
            return Delivery(tag, {}, source, holder)
        try:
            message = json.loads(raw)[0]
            problem = misshapen(message)
            source.encode()
            (holder + tag).encode()
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise UnreadableError(described_error(error)) from error
        if problem or not source:
            raise UnreadableError(problem or "the list that it came from is not named")
        return Delivery(tag, message, source, holder)

    def is_kombus(self, tag: str) -> bool:
        """Return whether kombu itself can restore the message of a tag, after its timeout."""
        raw = self.redis.hget(self.unacked, bytes_of(tag))
        try:
            message, exchange, key = json.loads(cast(bytes, raw))
            return not misshapen(message) and isinstance(exchange, str) and isinstance(key, str)
        except (ValueError, TypeError, RecursionError):
            return False

    def leave(self, tag: str, before: float) -> bool:
        """End the lease of a message, if not renewed since `before`; kombu restores it."""
        keys = [self.unacked, self.index, self.lease, self.holders]
        return bool(self._leave(keys=keys, args=[bytes_of(tag), repr(before)]))

    def shelve(self, tag: str, why: str, before: float | None = None) -> bool:
        """Set an own message aside that cannot be read, or one not renewed since `before`."""
        with self.redis.pipeline() as pipe:
            pipe.hget(self.unacked, bytes_of(tag))
            pipe.hget(self.holders, bytes_of(tag))
            raw, entry = pipe.execute()
        source = (entry or b"").partition(b"\n")[2].decode("utf-8", "backslashreplace")
        delivery = Delivery(tag, stand_in(raw or b""), source, "")
        shelved = unreadable_entry(tag, raw or b"", source, why)
        return self.set_aside(delivery, shelved, before)

    def shelve_unfit(self, tag: str, why: str) -> bool:
        """Set an own message aside that no worker takes; it can be requeued if it is readable."""
        try:
            delivery = self.find(tag)
            if delivery is None:
                return False
            return self.set_aside(delivery, unfit_entry(delivery, why))
        except (UnreadableError, RecursionError):
            return self.shelve(tag, why)

    def shelve_unleased(self, tag: str, why: str) -> bool:
        """Set aside what kombu itself cannot restore; return whether it was there."""
        raw = cast("bytes | None", self.redis.hget(self.unacked, bytes_of(tag)))
        if raw is None:
            return False
        entry = unreadable_entry(tag, raw, "", why)
        with self.redis.pipeline() as pipe:
            pipe.hset(self.aside, entry.task_id, entry.dump())
            pipe.hdel(self.unacked, bytes_of(tag))
            pipe.zrem(self.index, bytes_of(tag))
            pipe.execute()
        return True

    def was_started(self, tag: str) -> bool:
        """Return whether the task of a message was started."""
        # redis-py takes bytes there, its annotation text alone.
        return bool(self.redis.sismember(self.started, bytes_of(tag)))  # type: ignore[arg-type]

    def expired(self, before: float, start: int = 0) -> list[str]:
        """Return tags that were not renewed since the time `before`, without the first `start`."""
        tags = self.redis.zrangebyscore(self.lease, "-inf", before, start=start, num=BATCH)
        return [text_of(tag) for tag in cast(list[bytes], tags)]

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
        return self._moved(delivery, whose, "HSET", entry.dump(), name=entry.task_id)

    def _moved(
        self,
        delivery: Delivery,
        whose: str,
        command: str,
        value: str,
        *,
        counts: bool = False,
        name: str = "",
    ) -> bool:
        name = name or delivery.task_id
        keys = [self.unacked, self.index, self.lease, self.holders, self.started]
        keys += [delivery.source, self.deaths_key(name), self.aside]
        counted = "1" if counts else "0"
        args: list[str | int | bytes] = [
            bytes_of(delivery.tag),
            whose,
            command,
            value,
            name,
            counted,
            DEATHS_KEPT,
        ]
        moved = int(self._move(keys=keys, args=args))
        if moved < 0:
            target = "unacked_aside" if command == "HSET" else delivery.source
            raise UnreadableError(f"{target!a} in Redis holds something else")
        return bool(moved)

    def set_aside_entries(self) -> dict[str, Aside]:
        """Return the tasks that were set aside, by task id, the oldest first."""
        found = cast(dict[bytes, bytes], self.redis.hgetall(self.aside))
        entries = [Aside.load(text_of(name), raw) for name, raw in found.items()]
        return {entry.task_id: entry for entry in sorted(entries, key=lambda entry: entry.at)}

    def requeue(self, entry: Aside) -> bool:
        """Put a message that was set aside at the end of its queue, its deaths forgotten."""
        keys = [self.aside, entry.source, self.deaths_key(entry.task_id)]
        return bool(self._requeue(keys=keys, args=[entry.task_id, json.dumps(entry.message)]))

    def drop(self, entry: Aside) -> bool:
        """Forget a message that was set aside."""
        self.redis.delete(bytes_of(self.deaths_key(entry.task_id)))
        return bool(self.redis.hdel(self.aside, bytes_of(entry.task_id)))
