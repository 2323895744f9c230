"""Keep track of what a probe leaves in Redis, and remove what probes that were killed have left.

Sent to containers with every probe: standard library only, Python 3.8, and what the application
itself has, inside functions.

Celery leaves behind one binding in ``_kombu.binding.reply.celery.pidbox`` for each client that ever
asked workers something (87 became 94 within minutes of deploys and looks), and the answers that
nobody took: 63 to 81 MB when a hostile worker answered with names of 8 MB. Results of canaries stay
where the application keeps results for ever.

So each probe has reply queues and tasks with names of its own, writes them into a sorted set with
the time from which they are nobody's any more, and removes them when it ends. The next probe
removes what is due. Names of other forms are never touched, whatever the set says.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from types import TracebackType
from typing import Any

# The sorted set: name -> Unix time from which it may be removed.
REGISTRY = "crisper.leftovers"
REPLIES, RESULT = "replies ", "result "
# What this project's reply queues and canaries are called, and no application's.
OWN = re.compile(
    r"(?:replies (crisper-probe-[0-9a-f]{32})\.reply\.[^\x00-\x20]{1,100}\.pidbox"
    r"|result [^\x00-\x20]{1,200}crisper-(?:canary|ledger)-[0-9a-f-]{1,80})\Z"
)
# Seconds that clocks of hosts may differ and a probe may be late.
MARGIN = 600
# Seconds in which an answer that was under way still arrives: it expires with the rest.
STRAGGLERS = 60
# Seconds after which a result that never came is not looked for any more, and the set is dropped
# when nobody has asked anything.
LONGEST = 7 * 86400
# Removed by one probe: the next one goes on.
MOST = 1000
# Seconds that a killed probe's names stay, at least: longer than any question to workers.
LIFE = 6 * 3600


class Leftovers:
    """The names that probes have left in one database of Redis.

    Nothing here ever fails a probe: what cannot be removed now is removed by the next one.
    """

    def __init__(self, client: Any, prefix: str = "") -> None:
        """Begin with a plain client of redis-py, and kombu's prefix of all keys."""
        self.client = client
        self.prefix = prefix

    @property
    def key(self) -> str:
        """Return the name of the sorted set."""
        return self.prefix + REGISTRY

    def note(self, names: Iterable[str], seconds: float = LIFE) -> None:
        """Write names down, which are in use for so many seconds."""
        until = time.time() + seconds + MARGIN
        with quiet():
            pipe = self.client.pipeline(transaction=False)
            pipe.zadd(self.key, {name: until for name in names})
            pipe.expire(self.key, LONGEST + LIFE)
            pipe.execute()

    def forget(self, names: list[str]) -> None:
        """Take names out that are gone."""
        with quiet():
            if names:
                self.client.zrem(self.key, *names)

    def sweep(self, channel: Any = None) -> None:
        """Remove what is due; `channel` is kombu's, where the database is the broker's."""
        with quiet():
            now = time.time()
            due = self.client.zrangebyscore(
                self.key, "-inf", now, start=0, num=MOST, withscores=True
            )
            for raw, until in due:
                name = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
                over = True
                if OWN.match(name):
                    kind, _, rest = name.partition(" ")
                    if kind + " " == RESULT:
                        # One that a worker held may be written later.
                        over = self.client.delete(rest) > 0 or now - until > LONGEST
                    elif channel is not None:
                        remove_replies(self.client, channel, self.prefix, rest)
                    else:
                        over = now - until > LONGEST
                if over:
                    self.client.zrem(self.key, raw)


class quiet:  # noqa: N801 (used like contextlib.suppress)
    """Suppress errors of Redis: an ACL may refuse a command, the server may be gone."""

    def __enter__(self) -> quiet:
        """Begin."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Return whether nothing is to be raised."""
        # Not what ends the process: an alarm's handler answers and exits.
        return kind is not None and issubclass(kind, Exception)


def leftovers_of_broker(channel: Any) -> Leftovers:
    """Return the names left in the broker's database."""
    import redis

    # Kombu's own client adds its prefix to some commands only.
    prefix = getattr(channel, "global_keyprefix", "") or ""
    return Leftovers(redis.Redis(connection_pool=channel.pool), prefix)


def leftovers_of_results(app: Any) -> Leftovers | None:
    """Return the names left among results; None where these are not in Redis."""
    with quiet():
        from celery.backends.redis import RedisBackend

        if isinstance(app.backend, RedisBackend):
            return Leftovers(app.backend.client)
    return None


def result_name(app: Any, task_id: str) -> str:
    """Return the name under which a task's result is written down."""
    key = app.backend.get_key_for_task(task_id)
    return RESULT + (key.decode() if isinstance(key, bytes) else str(key))


def remove_replies(client: Any, channel: Any, prefix: str, queue: str) -> None:
    """Remove a reply queue of ours and its binding.

    An answer that is under way would make the list anew, without an end: so it stays for a moment,
    with one.
    """
    oid, _, exchange = queue.partition(".")
    member = channel.sep.join([oid, "", queue])
    pipe = client.pipeline(transaction=False)
    for name in ("keyprefix_queue", "keyprefix_binding_permanent"):
        pattern = getattr(channel, name, None)
        if pattern:
            pipe.srem(prefix + pattern % (exchange,), member)
    for step in channel.priority_steps:
        pipe.delete(prefix + channel._q_for_pri(queue, step))
    pipe.rpush(prefix + queue, "")
    pipe.expire(prefix + queue, STRAGGLERS)
    pipe.execute(raise_on_error=False)
