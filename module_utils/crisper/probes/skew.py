"""Read the broker's queues from inside a container of the release that is to run."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ..celery.skew import (
    COUNT,
    COUNT_HASH,
    MOST_QUEUES,
    NAME_BYTES,
    OTHER_BYTES,
    UNACKED,
    Tally,
    binds_tasks,
    bound_queue,
    ends_in_time,
    next_batch,
    sample_window,
    shares,
    spread,
)
from .control import Failure, check_types, connected
from .serve import Probe, redact

PRIORITIES = range(10)
# Keys that one step of SCAN looks at: 2 to 4 ms of Redis's time.
SCAN_COUNT = 10_000
# Share of the budget in which queues of other releases are looked for among all keys.
SCAN_SHARE = 0.4
# Bindings that are fetched at once.
SCANNED = 200
# Queues whose lengths are asked for at once, each with a list for each priority.
LENGTHS = 50


class Reader:
    """Counts names on the server by a script; in the client where scripts are refused."""

    def __init__(self, client: Any, tally: Tally) -> None:
        self.client = client
        self.tally = tally
        self.scripts = True

    def _script(self, script: str, key: str, *arguments: Any) -> Any:
        """Return the answer of a script, or None where the server refuses scripts."""
        import redis

        if self.scripts:
            try:
                return self.client.eval(script, 1, key, *arguments)
            except redis.ResponseError:
                # Forbidden by an ACL, or unknown to a server that only speaks Redis's protocol.
                self.scripts = False
        return None

    def _take(self, queue: str, flat: Sequence[Any], others: Iterable[bytes]) -> None:
        self.tally.count_names(queue, flat)
        for raw in others:
            self.tally.add(queue, raw)

    def window(self, queue: str, key: str, start: int, size: int) -> tuple[int, int, bool]:
        """Count messages of a list from `start`: how many, their bytes, and whether it ended."""
        answer = self._script(COUNT, key, start, start + size - 1, OTHER_BYTES)
        if answer is None:
            batch = self.client.lrange(key, start, start + size - 1)
            answer = len(batch), sum(map(len, batch)), [], batch, len(batch)
        read, length, flat, others, found = answer[:5]
        self._take(queue, flat, others)
        self.tally.add_unreadable(queue, sum(answer[5:]))
        # A script stops early where it has much to hand over.
        return read, length, read == found < size

    def page(self, queue: str, key: str, cursor: int, size: int) -> tuple[int, int, int]:
        """Count messages of a hash from `cursor`: the next cursor, how many, and their bytes."""
        answer = self._script(COUNT_HASH, key, cursor, size)
        if answer is None:
            cursor, found = self.client.hscan(key, cursor, count=size)
            raws = list(found.values())
            answer = cursor, sum(map(len, raws)), [], raws
        cursor, length, flat, others = answer[:4]
        self._take(queue, flat, others)
        oversized = sum(answer[5:])
        self.tally.add_unreadable(queue, oversized)
        return int(cursor), sum(flat[1::2]) + len(others) + oversized, length


def queue_keys(
    client: Any, app: Any, channel: Any, queues: Iterable[str], until: float
) -> tuple[dict[str, list[str]], bool]:
    """Return the lists that tasks wait in, by queue, and whether all bindings were looked at.

    Kombu has a list for each priority. Every queue that was ever declared is bound to an exchange;
    so are those of old releases, whose exchanges only a look at all keys finds. A broker that holds
    results too may have millions: that look ends at `until`.
    """
    prefix = channel.global_keyprefix
    names, start = set(queues), (prefix + "_kombu.binding.").encode()
    exchanges = {queue.exchange.name for queue in app.amqp.queues.values() if queue.exchange}
    bindings = {start + name.encode() for name in exchanges if name}
    found, complete = find_bindings(client, start, until)
    for key in sorted(bindings | found):
        if binds_tasks(key[len(start) :].decode(errors="replace")):
            for member in members(client, key):
                if len(names) > MOST_QUEUES or time.monotonic() > until:
                    complete = False
                    break
                if len(member) <= 3 * NAME_BYTES:
                    names.add(bound_queue(member))
    names.discard("")
    steps = sorted({*channel.priority_steps, *PRIORITIES} - {0})
    keys = {
        name: [prefix + name, *(f"{prefix}{name}{channel.sep}{step}" for step in steps)]
        for name in sorted(names)
    }
    return keys, complete


def find_bindings(client: Any, start: bytes, until: float) -> tuple[set[bytes], bool]:
    """Return the keys that begin like that, and whether all keys were looked at in time."""
    bindings: set[bytes] = set()
    cursor = 0
    while True:
        # By name alone, not by type: that would be a look at each key.
        cursor, keys = client.scan(cursor, match=glob(start), count=SCAN_COUNT)
        bindings.update(keys)
        if not cursor:
            return bindings, True
        if time.monotonic() > until:
            return bindings, False


def glob(start: bytes) -> bytes:
    """Return the pattern of all keys that begin like that, whatever is in the prefix."""
    special = b"\\*?[]"
    return b"".join(b"\\" + bytes([c]) if c in special else bytes([c]) for c in start) + b"*"


def members(client: Any, key: bytes) -> Iterator[bytes]:
    """Yield the members of a set, a part at a time; none where the key is something else."""
    import redis

    try:
        yield from client.sscan_iter(key, count=SCANNED)
    except redis.ResponseError:
        return


def lengths_of(client: Any, queues: dict[str, list[str]]) -> dict[str, tuple[str, int]]:
    """Return the length of every list that is one and not empty: ``{key: (queue, length)}``."""
    found: dict[str, tuple[str, int]] = {}
    pairs = [(queue, key) for queue, keys in queues.items() for key in keys]
    size = LENGTHS * (len(PRIORITIES) + 1)
    for start in range(0, len(pairs), size):
        pipe = client.pipeline(transaction=False)
        for _, key in pairs[start : start + size]:
            pipe.llen(key)
        answers = pipe.execute(raise_on_error=False)
        for (queue, key), length in zip(pairs[start : start + size], answers):  # noqa: B905 (Python 3.8)
            if isinstance(length, int) and length:
                found[key] = queue, length
    return found


def read_list(reader: Reader, queue: str, key: str, length: int, seconds: float) -> None:
    """Count the messages of a list, in windows of bounded size, for so many seconds.

    From the head, where new messages enter: an entering message moves others into the part that
    is still to be read, so that none is missed; one may be counted twice. Consumers take from the
    end: what they took is in ``unacked``, which is read afterwards. When the end cannot be reached
    in time, the rest of the time is for windows that are spread over what is left, and the queue
    is noted as read in part.
    """
    begun, start, size, bytes_read = time.monotonic(), 0, 0, 0
    while True:
        size = next_batch(size, bytes_read)
        read, bytes_read, ended = reader.window(queue, key, start, size)
        start, size = start + read, read
        if ended:
            return
        spent = time.monotonic() - begun
        if not ends_in_time(start, length, spent, seconds):
            break
    total, size = start, sample_window(start, spent, seconds, size)
    for first in spread(start, length, size):
        if time.monotonic() - begun >= seconds:
            break
        total += reader.window(queue, key, first, size)[0]
    length = reader.client.llen(key)
    if length > start:
        reader.tally.add_partial(queue, total, length)


def read_unacked(reader: Reader, key: str, until: float) -> None:
    """Count what workers hold. Its order is that of a hash: what is read in time is a sample."""
    cursor, size, bytes_read, total = 0, 0, 0, 0
    while True:
        size = next_batch(size, bytes_read)
        cursor, size, bytes_read = reader.page(UNACKED, key, cursor, size)
        total += size
        if not cursor:
            return
        if time.monotonic() >= until:
            reader.tally.add_partial(UNACKED, total, reader.client.hlen(key))
            return


def read_queues(app: Any, request: dict[str, Any]) -> Tally:
    """Return names and numbers of waiting tasks."""
    import redis

    connection = connected(app, request["broker_timeout"])
    kind = connection.transport.driver_type
    if kind != "redis":
        raise Failure("broker_unsupported", f"the broker is {kind}; only Redis can be read")
    check_types(connection)
    channel = connection.default_channel
    prefix = channel.global_keyprefix
    # Kombu's own client adds its prefix to some commands only.
    client = redis.Redis(connection_pool=channel.pool)
    reader = Reader(client, Tally())
    queues = set(request["queues"]) | set(app.amqp.queues)
    begun, budget = time.monotonic(), request["budget"]
    keys, complete = queue_keys(client, app, channel, queues, begun + budget * SCAN_SHARE)
    reader.tally.unlisted = not complete
    unacked = prefix + channel.unacked_key
    lists = lengths_of(client, keys)
    ordered = shares({key: length for key, (_, length) in lists.items()}, client.hlen(unacked))
    for key, share in ordered:
        queue, length = lists[key]
        remaining = max(0.0, begun + budget - time.monotonic())
        read_list(reader, queue, key, length, remaining * share)
    # After the queues: what was taken from them meanwhile is found here.
    read_unacked(reader, unacked, begun + budget)
    connection.release()
    return reader.tally


def skew(app: Any, request: dict[str, Any]) -> dict[str, Any]:
    """Return the numbers of waiting tasks by name, and which the application does not know."""
    # What another container has read a moment ago is only judged here.
    reading = request.get("reading")
    tally = Tally.of_reading(reading) if reading else read_queues(app, request)
    registered = set(request.get("known") or ())
    if request.get("known_only"):
        # Tasks of Celery itself are in every application.
        registered |= {name for name in app.tasks if name.startswith("celery.")}
    else:
        registered = set(app.tasks)
    return {**tally.summary(registered, request["queues"]), "registered": len(registered)}


class SkewProbe(Probe):
    """Tells which waiting tasks the application does not know."""

    def run(self, app: Any) -> None:
        """Have it know what its worker knows, and read."""
        if not self.request.get("known_only"):
            # As a worker does at its start: `include`, `imports` and autodiscovery.
            app.loader.import_default_modules()
        app.finalize()
        self.enter("broker_unreachable", self.request["timeout"])
        self.reply.update(skew(app, self.request))

    def summary(self, problem: str = "", error: str = "") -> dict[str, Any]:
        """Return what waits, and the seconds that it took."""
        return {**super().summary(problem, error), "seconds": self.seconds()}

    def mask(self, reply: dict[str, Any], secrets: Sequence[str]) -> Any:
        """Redact the error: names of tasks and queues are keys of mappings and no secrets."""
        return {**reply, "error": redact(reply["error"], secrets)}

    def late(self) -> str:
        """Return why the alarm went off."""
        imported = self.phase != "app_not_importable"
        return "Redis was not read in time" if imported else super().late()


main = SkewProbe.main
