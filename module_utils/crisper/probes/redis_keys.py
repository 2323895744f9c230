"""Keys of Celery's in the broker's Redis that somebody else has written: mend them, or name them.

Sent to containers with every probe: standard library, Python 3.8, and what the application itself
has, inside functions.

Whoever has the application's password of Redis can leave keys behind that outlive the password. A
member of a table of bindings that is no binding breaks each answer to the remote control, so that
all workers are silent; a table of another type ends each worker that starts. Both are of no use to
anybody and are removed. Where a key holds tasks, the operator has to decide: it is named.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from .leftovers import REGISTRY

# KEYS: tables of bindings. ARGV: the separator of a member's three parts. Removes what is none.
MEND = """
local removed = 0
for _, key in ipairs(KEYS) do
  local kind = redis.call('TYPE', key).ok
  if kind == 'set' then
    for _, member in ipairs(redis.call('SMEMBERS', key)) do
      local at, parts = 1, 0
      while at do
        local _, last = string.find(member, ARGV[1], at, true)
        at, parts = last and last + 1, parts + 1
      end
      if parts ~= 3 then
        redis.call('SREM', key, member)
        removed = removed + 1
      end
    end
  elseif kind ~= 'none' then
    redis.call('DEL', key)
    removed = removed + 1
  end
end
return removed
"""


# Between what is wrong with a key and the command that removes it.
REMOVAL = ". Remove it: "
# redis-cli of the administrator, for a shell on the server in the folder `current` of the stack.
# The password is in the file that Redis reads, and in no list of processes.
REDIS_CLI = (
    "docker compose exec redis sh -c 'REDISCLI_AUTH=$(grep ^requirepass /run/secrets/redis.conf"
    """ | cut -d\\" -f2) redis-cli "$@"' -"""
)


def plain_client(channel: Any) -> Any:
    """Return a client of a channel's server that adds no prefix: kombu's own does to some."""
    import redis

    return redis.Redis(connection_pool=channel.pool)


def mend_bindings(app: Any, channel: Any) -> None:
    """Remove from the tables of bindings of workers and probes what kombu has not written.

    Raises:
        Exception: Redis refuses it; without it, all is as it was.
    """
    conf, prefix = app.conf, getattr(channel, "global_keyprefix", "") or ""
    control = str(conf.control_exchange) + ".pidbox"
    names = {control, "reply." + control, str(conf.event_exchange)}
    names |= {queue.exchange.name for queue in app.amqp.queues.values() if queue.exchange}
    # An older kombu has the first one alone.
    patterns = ("keyprefix_queue", "keyprefix_binding_permanent")
    found = [getattr(channel, each) for each in patterns if hasattr(channel, each)]
    keys = [prefix + pattern % (name,) for name in sorted(names) if name for pattern in found]
    client = plain_client(channel)
    client.eval(MEND, len(keys), *keys, channel.sep)
    for name in (getattr(channel, "keyprefix_binding_deadlines", ""), REGISTRY):
        if name and type_of(client, prefix + name) not in ("zset", "none"):
            client.delete(prefix + name)
    topics = {q.exchange.name for q in app.amqp.queues.values() if is_topic(q.exchange)}
    for pattern in found:
        for name in sorted(topics):
            mend_patterns(client, prefix + pattern % (name,), channel.sep)


def is_topic(exchange: Any) -> bool:
    """Return whether an exchange is a topic, whose bindings have patterns."""
    return bool(exchange and exchange.name and exchange.type == "topic")


def mend_patterns(client: Any, key: str, separator: str) -> None:
    """Remove the bindings of a topic whose pattern is none of kombu's: it may be no expression."""
    from kombu.transport.virtual.exchange import TopicExchange

    topic = TopicExchange(None)
    for member in list(client.sscan_iter(key)):
        routing_key, pattern, _ = member.decode("utf-8", "replace").split(separator)
        if pattern not in ("", topic.key_to_pattern(routing_key)):
            client.srem(key, member)


def type_of(client: Any, key: str) -> str:
    """Return the type of a key; ``none`` without it."""
    found = client.type(key)
    return found.decode() if isinstance(found, bytes) else str(found)


def task_keys(channel: Any, queues: Iterable[str] = ()) -> dict[str, str]:
    """Return the keys that hold tasks, and their types: of what workers hold, and of queues."""
    prefix = getattr(channel, "global_keyprefix", "") or ""
    key = prefix + channel.unacked_key
    kinds = {key: "hash", prefix + channel.unacked_index_key: "zset", key + "_lease": "zset"}
    kinds.update({key + "_holder": "hash", key + "_started": "set", key + "_aside": "hash"})
    for queue in queues:
        for step in channel.priority_steps:
            kinds[prefix + channel._q_for_pri(queue, step)] = "list"
    return kinds


def wrong_type(client: Any, kinds: Mapping[str, str]) -> str:
    """Return which of these keys has another type, and the command that removes it; else empty."""
    for key, wanted in kinds.items():
        found = type_of(client, key)
        if found not in (wanted, "none"):
            return (
                f"the key {key!a} in Redis is a {found}, and Celery's is a {wanted}"
                f"{REMOVAL}{removal(client, key)}"
            )
    return ""


def removal(client: Any, key: str) -> str:
    """Return the command that removes a key, for a shell on the server in the folder `current`."""
    pool = getattr(client, "connection_pool", None)
    number = getattr(pool, "connection_kwargs", {}).get("db") or 0
    database = f" -n {number}" if number else ""
    plain = re.compile(r"[\w.:@-]", re.ASCII)
    letters = [c if plain.match(c) else "".join(map("\\x{:02x}".format, c.encode())) for c in key]
    word = "".join(letters)
    word = word if word == key else f"$'{word}'"
    return f"{REDIS_CLI}{database} DEL {word}"
