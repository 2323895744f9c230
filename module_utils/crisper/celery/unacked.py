"""Read and move what workers hold without acknowledgement: the messages of ``unacked`` in Redis.

Standard library only and Python 3.8: this file also runs inside a container, together with
``probes.unacked``. No I/O and no clock in here.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

# Messages that are judged; a tag has some 36 bytes.
MOST = 200_000
# Tags that one script reads, and bytes of messages after which it stops: 2 to 4 ms of Redis.
BATCH, BATCH_BYTES = 200, 400_000
# A message of more bytes is not parsed: what Celery puts behind its arguments is looked at.
PARSED = 65_536

# KEYS: unacked, index, lease. ARGV: bytes to parse, bytes after which to stop, tags. Answers, for
# each tag that it came to, its score ('' where it is gone), 1 if a lease is on it, the bytes of the
# message, and id, name and ETA of the task ('' where they cannot be read).
READ = """
local answer, total = {}, 0
local function text(value) return type(value) == 'string' and value or '' end
local function parsed(raw)
  local headers = cjson.decode(raw)[1].headers
  return text(headers.id), text(headers.task), text(headers.eta)
end
local function tail(raw)
  local last = string.sub(raw, -16384)
  local _, number = string.gsub(last, '"id": "', '')
  if number ~= 1 then return '', '', '' end
  return string.match(last, '"id": "([^"\\\\]*)"') or '',
    string.match(last, '"task": "([^"\\\\]*)"') or '',
    string.match(last, '"eta": "([^"\\\\]*)"') or ''
end
for i = 3, #ARGV do
  local raw = redis.call('HGET', KEYS[1], ARGV[i])
  local score = redis.call('ZSCORE', KEYS[2], ARGV[i])
  if not raw or not score then
    answer[#answer + 1] = {'', 0, 0, '', '', ''}
  else
    local leased = redis.call('ZSCORE', KEYS[3], ARGV[i]) and 1 or 0
    local fine, id, name, eta
    if #raw <= tonumber(ARGV[1]) then
      fine, id, name, eta = pcall(parsed, raw)
      total = total + #raw
    else
      fine, id, name, eta = pcall(tail, raw)
      total = total + 16384
    end
    if not fine then id, name, eta = '', '', '' end
    answer[#answer + 1] = {score, leased, #raw, id, name, eta}
    if total > tonumber(ARGV[2]) then break end
  end
end
return answer
"""

# KEYS: unacked, index, lease, then the lists that the message goes to. ARGV: tag, the score that
# was seen, the message as it goes back, or '' to acknowledge it. Answers 1 if it was done.
# A delivery of meanwhile has another score. Nothing is removed that could not be pushed: what is no
# list is looked for first, and a write that Redis refuses (disk, memory) is the first one.
MOVE = """
local score = redis.call('ZSCORE', KEYS[2], ARGV[1])
if not score or score ~= ARGV[2] then return 0 end
if redis.call('ZSCORE', KEYS[3], ARGV[1]) then return 0 end
if ARGV[3] ~= '' and #KEYS < 4 then return 0 end
for i = 4, #KEYS do
  local kind = redis.call('TYPE', KEYS[i]).ok
  if kind ~= 'none' and kind ~= 'list' then return 0 end
end
if redis.call('HDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
redis.call('ZREM', KEYS[2], ARGV[1])
for i = 4, #KEYS do redis.call('RPUSH', KEYS[i], ARGV[3]) end
return 1
"""


class Message:
    """An unacknowledged message: one delivery of one task."""

    __slots__ = ("eta", "id", "leased", "score", "size", "tag", "task")

    def __init__(self, tag: str, found: Iterable[Any]) -> None:
        """Take what the script `READ` answered for `tag`."""
        score, leased, size, task_id, task, eta = found
        self.tag = tag
        self.score = text_of(score)  # when it was delivered, as Redis writes it; '' when it is gone
        self.leased = bool(leased)
        self.size = int(size)
        self.id = text_of(task_id)
        self.task = text_of(task)
        self.eta = text_of(eta)


class UnreadableError(ValueError):
    """An entry of ``unacked`` is not as kombu writes it."""


def parts_of(entry: Any) -> tuple[dict[str, Any], str, str]:
    """Return the message, exchange and routing key of an entry of ``unacked``.

    A worker that takes a message without its properties from a queue loses its connection: such a
    one is not put there.

    Raises:
        UnreadableError: kombu did not write it.
    """
    if not isinstance(entry, list) or len(entry) != 3:
        raise UnreadableError("no message with its exchange and routing key")
    message, exchange, routing_key = entry
    if not isinstance(message, dict) or not isinstance(message.get("headers"), dict):
        raise UnreadableError("no message with headers")
    properties = message.get("properties")
    info = properties.get("delivery_info") if isinstance(properties, dict) else None
    if (
        not isinstance(properties, dict)
        or not isinstance(info, dict)
        or not {"exchange", "routing_key"} <= set(info)
    ):
        raise UnreadableError("a message that does not say where it was delivered to")
    if not isinstance(properties.get("delivery_tag"), str) or not isinstance(
        message.get("body"), str
    ):
        raise UnreadableError("a message without a tag or a body")
    for text in (exchange or "", routing_key or ""):
        if not isinstance(text, str):
            raise UnreadableError("an exchange or a routing key that is no text")
        text.encode()  # a lone surrogate is no name that Redis can be asked for
    return message, exchange or "", routing_key or ""


def text_of(value: Any) -> str:
    """Return the text of what Redis answered."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
