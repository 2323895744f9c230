"""Tell which tasks wait in the broker, and which of them a release does not know.

Standard library only and Python 3.8: this file also runs inside a container of the release,
together with ``probes.skew``. No I/O and no clock in here.
"""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from ..text import printable

UNACKED = "unacked"
# What kombu itself puts between a queue's name and its priority; and into bindings.
SEPARATOR = "\x06\x16"
# One window: 2,000 messages of 1 KB block Redis for 4 to 9 ms.
BATCH_BYTES = 4_000_000
FIRST_BATCH, LARGEST_BATCH = 16, 2000
# A script returns messages that it cannot read itself, and stops after so many bytes of them.
OTHER_BYTES = 1_000_000
# Distinct names that are kept of one queue. Others are counted under `MORE`.
MOST_NAMES = 10_000
MORE = "(more names)"
# Distinct names of all queues together, and queues.
MOST_OF_ALL, MOST_QUEUES = 50_000, 10_000
# No task has such a name, and no client but a hostile one such a message that needs parsing: both
# count as unreadable, and do not leave Redis where it runs scripts. Redis has the numbers in Lua.
NAME_BYTES, RAW_BYTES = 1000, 4_000_000
# More messages than any broker has.
LARGEST = 2**53
# Share of a budget after which reading in order is given up when it would not end in time.
FIRST_SHARE = 0.5
# Windows of a sample, at least.
WINDOWS = 64

# The beginning of a message as kombu writes it, up to the task's name. It is anchored: in a JSON
# string a quote is escaped, so neither an argument nor another header can be taken for the name.
# What differs (protocol 1, other orders, other separators, escapes in the name) does not match.
# Redis has the same pattern in Lua (`COUNT`): change both.
QUICK = re.compile(
    rb'\{"body": "[^"\\]*", "content-encoding": "[^"\\]*", "content-type": "[^"\\]*",'
    rb' "headers": \{"lang": "[^"\\]*", "task": "([^"\\\x00-\x1f]*)"'
)
# `name(raw, from)` returns the task's name of a message that begins at `from`, or nil.
# string.find for one character is quick; a pattern over the body costs four times as much.
_NAME = r"""
local pattern = '^", "content%-encoding": "[^"\\]*", "content%-type": "[^"\\]*",'
  .. ' "headers": {"lang": "[^"\\]*", "task": "([^"\\%c]*)"'
local find, match, sub = string.find, string.match, string.sub
local function name(raw, from)
  if sub(raw, from, from + 9) ~= '{"body": "' then return nil end
  local quote = find(raw, '"', from + 10, true)
  return quote and match(raw, pattern, quote)
end
local counts, others, bytes, held, batch_size, oversized = {}, {}, 0, 0, 0, 0
local function count(raw, from)
  bytes = bytes + #raw
  local found = name(raw, from)
  if found and #found <= 1000 then
    counts[found] = (counts[found] or 0) + 1
  elseif found or #raw > 4000000 then
    oversized = oversized + 1
  else
    others[#others + 1] = raw
    held = held + #raw
  end
end
local function answer(place)
  local flat = {}
  for found, number in pairs(counts) do
    flat[#flat + 1] = found
    flat[#flat + 1] = number
  end
  return {place, bytes, flat, others, batch_size, oversized}
end
"""
# KEYS: a list. ARGV: index of the first and the last message, most bytes of others. Answers how
# many messages were read, their bytes, names and numbers, the messages to read elsewhere, and how
# many messages there were.
COUNT = (
    _NAME
    + """
local batch = redis.call('LRANGE', KEYS[1], ARGV[1], ARGV[2])
local most = tonumber(ARGV[3])
batch_size = #batch
for i = 1, #batch do
  count(batch[i], 1)
  if held > most then return answer(i) end
end
return answer(#batch)
"""
)
# KEYS: a hash. ARGV: cursor, about how many. Answers the next cursor instead of the number.
COUNT_HASH = (
    _NAME
    + """
local page = redis.call('HSCAN', KEYS[1], ARGV[1], 'COUNT', ARGV[2])
for i = 2, #page[2], 2 do count(page[2][i], 2) end
return answer(page[1])
"""
)


def quick_name(raw: bytes, start: int = 0) -> str | None:
    """Return the task's name of a message as kombu writes it; None where it must be parsed."""
    found = QUICK.match(raw, start)
    if found is None:
        return None
    try:
        return found.group(1).decode()
    except UnicodeError:
        return None


def task_name(message: Any) -> str | None:
    """Return the name of the task that a message asks for; None when it cannot be read."""
    headers = message.get("headers") or {}
    name = headers.get("task")
    if isinstance(name, str):
        return name
    # Protocol 1 (Celery 3) has the name in the body, beside the arguments.
    properties = message.get("properties") or {}
    if "json" not in str(message.get("content-type", "")) or headers.get("compression"):
        return None
    body = message.get("body")
    try:
        if properties.get("body_encoding") == "base64":
            body = base64.b64decode(body)
        name = json.loads(body)["task"]
    except (ValueError, TypeError, KeyError):
        return None
    return name if isinstance(name, str) else None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _counts(numbers: object) -> dict[str, int]:
    """Return the entries of a mapping that are numbers of messages; a container has told them."""
    return {
        name: number
        for name, number in _mapping(numbers).items()
        if type(number) is int and 0 <= number < LARGEST
    }


class Tally:
    """Counts of waiting tasks by queue and name; keeps nothing else of a message."""

    def __init__(self) -> None:
        self.waiting: dict[str, Counter[str]] = {}
        self.unreadable: Counter[str] = Counter()
        self.partial: dict[str, dict[str, int]] = {}
        self.unlisted = False
        self.distinct = 0  # names of all queues

    def add(self, queue: str, raw: bytes) -> None:
        """Count a message as it stands in a queue, or one of ``unacked``."""
        name = quick_name(raw, 1 if queue == UNACKED else 0)
        if name is None and len(raw) <= RAW_BYTES:
            try:
                message = json.loads(raw)
                if queue == UNACKED:
                    message = message[0]  # [message, exchange, routing key]
                name = task_name(message)
            except (ValueError, TypeError, AttributeError, KeyError, IndexError, RecursionError):
                name = None
        if name is None or len(name.encode("utf-8", "surrogatepass")) > NAME_BYTES:
            self.add_unreadable(queue, 1)
        else:
            self.count(queue, name, 1)

    def add_unreadable(self, queue: str, number: int) -> None:
        """Add messages that are no tasks."""
        if number:
            self.unreadable[printable(queue)] += number

    def count(self, queue: str, name: str, number: int) -> None:
        """Add messages whose name is known already."""
        names = self.waiting.setdefault(printable(queue), Counter())
        name = printable(name)
        if name not in names:
            if len(names) < MOST_NAMES and self.distinct < MOST_OF_ALL:
                self.distinct += 1
            else:
                name = MORE
        names[name] += number

    def count_names(self, queue: str, flat: Sequence[Any]) -> None:
        """Add names and numbers as a script returns them: one after the other."""
        for name, number in zip(flat[::2], flat[1::2]):  # noqa: B905 (Python 3.8)
            try:
                self.count(queue, name.decode(), number)
            except UnicodeError:
                self.add_unreadable(queue, number)

    def add_partial(self, queue: str, read: int, of: int) -> None:
        """Note that only `read` of `of` messages of a list of the queue were read."""
        entry = self.partial.setdefault(printable(queue), {"read": 0, "of": 0})
        entry["read"] += min(read, of)
        entry["of"] += of

    def reading(self) -> dict[str, Any]:
        """Return what was read, as `of_reading` takes it."""
        return {
            "waiting": {
                queue: dict(sorted(n.items())) for queue, n in sorted(self.waiting.items())
            },
            "unreadable": dict(sorted(self.unreadable.items())),
            "partial": dict(sorted(self.partial.items())),
            "unlisted": self.unlisted,
        }

    @classmethod
    def of_reading(cls, reading: Mapping[str, Any]) -> Tally:
        """Return the counts of an earlier reading; what is no count in it is left out."""
        tally = cls()
        for queue, names in _mapping(reading.get("waiting")).items():
            tally.waiting[queue] = Counter(_counts(names))
        tally.unreadable = Counter(_counts(reading.get("unreadable")))
        for queue, numbers in _mapping(reading.get("partial")).items():
            tally.partial[queue] = {"read": 0, "of": 0, **_counts(numbers)}
        tally.unlisted = bool(reading.get("unlisted"))
        return tally

    def summary(self, registered: Iterable[str], consumed: Collection[str]) -> dict[str, Any]:
        """Return what waits, what of it is unknown, and what nobody would take."""
        # A name is compared as it is shown: so it is kept.
        registered = {printable(name) for name in registered}
        consumed = [printable(queue) for queue in consumed]
        unknown: Counter[str] = Counter()
        for names in self.waiting.values():
            for name, count in names.items():
                if name not in registered:
                    unknown[name] += count
        return {
            **self.reading(),
            "unknown": dict(sorted(unknown.items())),
            "orphaned": {
                queue: sum(names.values())
                for queue, names in sorted(self.waiting.items())
                if consumed and queue not in consumed and queue != UNACKED
            },
        }


def bound_queue(member: bytes) -> str:
    """Return the queue in a member of kombu's set of bindings; empty when it holds no tasks."""
    queue = member.decode(errors="replace").rpartition(SEPARATOR)[2]
    # Remote control and events have queues too.
    if queue.endswith(".pidbox") or queue.startswith("celeryev"):
        return ""
    return queue


def binds_tasks(exchange: str) -> bool:
    """Return whether an exchange may lead to queues of tasks.

    Remote control leaves one binding behind for each client that ever asked something.
    """
    return not exchange.endswith(".pidbox") and not exchange.startswith("celeryev")


def next_batch(size: int, length: int) -> int:
    """Return how many messages to read next, after `size` messages were `length` bytes."""
    if not size:
        return FIRST_BATCH
    fitting = BATCH_BYTES * size // max(length, 1)
    # At most four times as many: what comes next may be larger.
    return max(1, min(fitting, size * 4, LARGEST_BATCH))


def ends_in_time(read: int, of: int, spent: float, seconds: float) -> bool:
    """Return whether reading in order goes on.

    It does not when more than `FIRST_SHARE` of the `seconds` is spent and the rest of the `of`
    messages would take longer than what is left, at the speed of the `read` ones.
    """
    if spent <= seconds * FIRST_SHARE:
        return True
    return spent < seconds and (of - read) * spent <= (seconds - spent) * read


def sample_window(read: int, spent: float, seconds: float, largest: int) -> int:
    """Return the size of a window of a sample: `WINDOWS` of them in the time that is left.

    `read` messages took `spent` of the `seconds`; `largest` is how many may be read at once.
    """
    fitting = read * max(0.0, seconds - spent) / max(spent, 0.001)
    return max(1, min(int(fitting / WINDOWS), largest))


def spread(start: int, end: int, size: int) -> Iterator[int]:
    """Yield the first index of each window of `size` in [start, end), evenly spread.

    The middle first, then the middles of both halves, and so on (the order of van der Corput):
    whenever it is broken off, what was read lies everywhere.
    """
    number = max(0, -(-(end - start) // max(size, 1)))
    bits = max(number - 1, 0).bit_length()
    for step in range(1, (1 << bits) + 1):
        place = int(bin(step % (1 << bits))[2:].zfill(bits)[::-1] or "0", 2) if bits else 0
        if place < number:
            yield start + place * size


def shares(lengths: Mapping[str, int], last: int) -> Iterator[tuple[str, float]]:
    """Yield the lists, shortest first, each with its share (0 to 1) of the time that is left.

    What a short one leaves is for the long ones. `last` is the length of what is read after all
    of them: it has a share by its length, and a twentieth at least.
    """
    ordered = sorted(lengths, key=lambda key: (lengths[key], key))
    total = sum(lengths.values()) + last
    for place, key in enumerate(ordered):
        reserve = max(0.05, last / total)
        yield key, (1 - reserve) / (len(ordered) - place)
        total -= lengths[key]
