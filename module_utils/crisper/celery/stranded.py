"""Which unacknowledged tasks no worker knows any more, decided from what Redis and workers tell.

Standard library only and Python 3.8: this file also runs inside a container, together with
``probes.stranded``. No I/O and no clock in here.

Measured with Celery 5.7 and kombu 5.7: when Redis restarts, a worker without crisper-worker loses
its connection, cannot put its messages back (Redis is away), connects again and has forgotten all
that it had prefetched or holds for an ETA. These stay in ``unacked`` until the visibility timeout.
What it runs it goes on running, and acknowledges later. Celery 5.7 cancels what waits for an ETA,
and `scheduled` goes on listing it: only ``query_task`` tells. Celery 5.5 forgets that as well, and
`scheduled` tells. What it lists as running may have ended long ago (``celery.stale``).

Redis does not say who holds a message. So one counts as known to nobody only where every worker
that listens has answered, twice, and the same delivery was there all the while. What workers do
not tell of is left alone: a task with a rate limit waits in no list that they answer with.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from .stale import outcome, split, started, word

# Seconds that a message may be on its way between Redis and a worker's books.
GRACE = 5.0
# Messages that are judged; a tag has some 36 bytes.
MOST = 200_000
# Tags that one script reads, and bytes of messages after which it stops: 2 to 4 ms of Redis.
BATCH, BATCH_BYTES = 200, 400_000
# A message of more bytes is not parsed: what Celery puts behind its arguments is looked at.
PARSED = 65_536
# Above so many candidates workers are not asked for their tasks with an ETA by mere curiosity: one
# that holds 100,000 is busy for seconds with an answer of 35 MB (as in celery.drain).
MOST_SCHEDULED = 1000
# Ids in one question to workers, and such questions at once.
IDS, QUESTIONS = 1000, 5
# Tasks that are told by name.
SHOWN = 20
BEAT = "celerybeat@"
# `stats` behind `active`, of which it tells what has ended; an answer without it counts as well.
METHODS = ("ping", "active", "reserved", "registered", "stats")
LISTS = ("active", "reserved", "scheduled")
LEASED = "crisper_worker."  # begins the consumer of a worker that renews a lease on its messages

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


class Answers:
    """What workers told in one look.

    Args:
        replies: method -> one ``(node, reply)`` for each reply that came.
        receivers: clients that Redis handed the ping to; None where it did not say.
        expected: nodes that must have answered.
        asked: methods that were asked.
    """

    def __init__(
        self,
        replies: Mapping[str, list],
        receivers: int | None,
        expected: Iterable[str],
        asked: Iterable[str] = METHODS,
    ) -> None:
        lists = [method for method in LISTS if method in asked]
        self.scheduled = "scheduled" in lists
        self.alive: set = set()
        self.known: set = set()
        self.active: dict = {}  # id -> (node, entry) that runs it, where no other list has the id
        self.stale: set = set()  # ids that a worker lists as running although they have ended
        self.gone = False  # whether of one of them only the process is gone, see stale.LOST
        self.limited: set = set()
        self.blind: list = []  # why it cannot be told who holds what
        alive = [str(node) for node, _ in replies.get("ping", [])]
        for node in sorted(set(expected) - set(alive)):
            self.blind.append(node + " did not answer")
        if receivers is None:
            self.blind.append("Redis did not say how many workers listen")
        elif not alive:
            self.blind.append("no worker answered")
        elif receivers > len(alive):
            more = str(receivers - len(alive))
            self.blind.append(more + " more that listened to Celery's questions did not answer")
        workers = [node for node in alive if not node.startswith(BEAT)]
        self.alive = set(workers)
        pools = Counter(str(node) for node, _ in replies.get("stats", []))
        stats = {str(node): reply for node, reply in replies.get("stats", [])}
        for method in ("registered", *lists):
            told: Counter = Counter()
            for node, reply in replies.get(method, []):
                # Of two workers of one name nobody knows whose processes these are.
                pool = stats[str(node)] if pools[str(node)] == 1 else None
                if self._take(method, str(node), reply, pool):
                    told[str(node)] += 1
            for node, number in sorted(Counter(workers).items()):
                if told[node] < number:
                    self.blind.append(node + " did not tell its " + method + " tasks")
        self.stale -= self.known

    def _take(self, method: str, node: str, reply: Any, stats: Any) -> bool:
        """Add what a node told; return whether it was an answer."""
        if not isinstance(reply, list):
            return False
        ended: set = set()  # of the same list
        if method == "active" and all(isinstance(entry, dict) for entry in reply):
            _running, over, gone = split(reply, stats)
            ended = {id(entry) for entry in (*over, *gone)}
            self.gone = self.gone or bool(gone)
        for entry in reply:
            if method == "registered":
                name, _, options = word(entry).partition(" [")
                if "rate_limit=" in options:
                    self.limited.add(name)
                continue
            if method == "scheduled":
                entry = entry.get("request") if isinstance(entry, dict) else None
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), str):
                return False
            task_id = entry["id"]
            if id(entry) in ended:
                self.stale.add(task_id)
                continue
            if method == "active" and task_id not in self.known:
                self.active[task_id] = (node, entry)
            else:
                self.active.pop(task_id, None)
            self.known.add(task_id)
        return True


class Judgement:
    """What becomes of the messages of one look."""

    def __init__(self) -> None:
        self.unknown: list = []  # messages that no worker told of
        self.leased = 0  # held under a lease of crisper-worker, which recovers them itself
        self.known = 0
        self.active: list = []  # those of `known` that a worker lists as running
        self.limited = 0  # of tasks with a rate limit
        self.pending: list = []  # with an ETA, and nobody was asked for those
        self.unreadable = 0  # no Celery tasks

    def add(self, message: Message, answers: Answers) -> None:
        """Judge one message that lay there before the workers were asked, and still does."""
        if message.leased:
            self.leased += 1
        elif not message.id or not message.task:
            self.unreadable += 1
        elif message.id in answers.known:
            self.known += 1
            if message.id in answers.active:
                self.active.append(message)
        elif message.task in answers.limited:
            self.limited += 1
        elif message.eta and not answers.scheduled:
            self.pending.append(message)
        else:
            self.unknown.append(message)

    def settle(self, number: int, known: set) -> None:
        """Judge the first `number` of `pending` by the ids that workers know of them."""
        asked, self.pending = self.pending[:number], self.pending[number:]
        left = [message for message in asked if message.id not in known]
        self.known += len(asked) - len(left)
        self.unknown += left
        self.unknown.sort(key=lambda message: float(message.score))


def known_ids(replies: Iterable[tuple], nodes: Iterable[str]) -> tuple[set, list]:
    """Return the ids that workers know of those they were asked for, and who did not answer.

    Args:
        replies: ``(node, reply)`` of ``query_task``, one for each question to each node.
        nodes: as many times as each was asked.
    """
    known: set = set()
    missing = Counter(nodes)
    for node, reply in replies:
        if not isinstance(reply, dict) or not all(isinstance(v, list) for v in reply.values()):
            continue
        known.update(str(task_id) for task_id in reply)
        missing[str(node)] -= 1
    silent = sorted(node for node, number in missing.items() if number > 0)
    return known, [node + " did not tell its tasks by id" for node in silent]


class UnreadableError(ValueError):
    """An entry of ``unacked`` is not as kombu writes it."""


def parts_of(entry: Any) -> tuple:
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
    if not isinstance(info, dict) or not {"exchange", "routing_key"} <= set(info):
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


def ended_runs(
    messages: Sequence[Message], active: Mapping[str, tuple], metas: Mapping[str, Any], parse: Any
) -> list:
    """Return the messages whose run has ended, by its result, although a worker lists it still.

    Args:
        messages: all of `Judgement.active`.
        active: of `Answers`.
        metas: task id -> what the backend stored.
        parse: as `ended_since` takes it.
    """
    found = {message.id: message for message in messages}
    times = Counter(message.id for message in messages)
    over = []
    for task_id, message in found.items():
        node, entry = active[task_id]
        if times[task_id] == 1 and outcome(
            entry, node, metas.get(task_id), float(message.score), parse
        ):
            over.append(message)
    return over


def ended_since(meta: Any, delivered: float, parse: Any) -> bool:
    """Return whether a stored result says that the task succeeded after it was delivered.

    An application may use an id again: a result of before says nothing of this delivery.

    Args:
        meta: what the backend stored: ``{status, date_done}``.
        delivered: Unix seconds.
        parse: makes Unix seconds of the text ``date_done``.
    """
    if not isinstance(meta, dict) or meta.get("status") != "SUCCESS":
        return False
    try:
        return bool(parse(meta["date_done"]) >= delivered)
    except Exception:  # whatever the text of a time makes it raise
        return False


def text_of(value: Any) -> str:
    """Return the text of what Redis answered."""
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def worth_a_look(held: Any, nodes: Any, restarted: float = 0.0) -> bool:
    """Return whether Redis may have unacknowledged messages that no worker holds any more.

    It has more than workers tell of, or they tell of some that ran when Redis was restarted.

    Args:
        held: their number; None where the broker does not say.
        nodes: node -> ``{active, reserved, scheduled, stats, conf}``, as M(celery_inspect) returns.
        restarted: when Redis was started, Unix seconds; 0 where nobody knows.
    """
    if not isinstance(held, int) or isinstance(held, bool) or not isinstance(nodes, Mapping):
        return False
    ids: set = set()  # a task that two workers list has one message
    unnamed = 0
    for replies in nodes.values():
        replies = replies if isinstance(replies, Mapping) else {}
        for method in LISTS:
            reply = replies.get(method)
            entries = reply if isinstance(reply, list) else []
            if method == "active":
                entries = split(entries, replies.get("stats"))[0]
            for entry in entries:
                if method == "active" and _outlived(entry, replies, restarted):
                    return held > 0
                # One that was acknowledged before it ran is not among those that Redis has.
                if isinstance(entry, Mapping) and entry.get("acknowledged") is True:
                    continue
                task_id = _id(entry)
                unnamed += not task_id
                ids.add(task_id)
    return held > len(ids - {""}) + unnamed


def _id(entry: Any) -> str:
    """Return the id of a task in any list of a worker; empty where it has none."""
    entry = entry if isinstance(entry, Mapping) else {}
    request = entry.get("request")
    task_id = (request if isinstance(request, Mapping) else entry).get("id")
    return task_id if isinstance(task_id, str) else ""


def _outlived(entry: Mapping[str, Any], replies: Mapping[str, Any], restarted: float) -> bool:
    """Return whether a task that is not acknowledged ran when Redis was started.

    A worker with crisper-worker acknowledges it all the same.
    """
    conf = replies.get("conf")
    consumer = str(conf.get("worker_consumer")) if isinstance(conf, Mapping) else ""
    since = started(entry)
    unacknowledged = entry.get("acknowledged") is False and not consumer.startswith(LEASED)
    return unacknowledged and since is not None and since < restarted


def suspected(inspected: Any) -> bool:
    """Return whether what M(celery_inspect) returned is worth a look by M(celery_stranded)."""
    found = inspected if isinstance(inspected, Mapping) else {}
    restarted = found.get("restarted")
    known = isinstance(restarted, (int, float)) and not isinstance(restarted, bool)
    return worth_a_look(found.get("held"), found.get("nodes") or {}, restarted if known else 0.0)


def tasks_of(number: int) -> str:
    """Return ``1 task``, ``2 tasks``."""
    return f"{number} task{'' if number == 1 else 's'}"


def sentence(found: Mapping[str, Any]) -> str:
    """Return what was seen in one sentence; empty where nothing is unacknowledged for long.

    Args:
        found: of the probe; ``{held, stranded, ended, listed, limited, later, unreadable}``,
            ``{blind, partial, tasks}``.
    """
    unjudged = found["limited"] + found["later"]
    if not (found["stranded"] or found["ended"] or unjudged or found["unreadable"]):
        return ""
    one = found["held"] == 1
    begin = f"{tasks_of(found['held'])} {'is' if one else 'are'} unacknowledged"
    if found["stranded"] and found["blind"]:
        why = "; ".join(found["blind"][:3])
        more = len(found["blind"]) - 3
        why += f"; and {more} more reasons" if more > 0 else ""
        told = f"no worker told of {found['stranded']}, but that cannot be judged: {why}"
    elif found["stranded"]:
        names = ", ".join(f"{task['task']} {task['id']}" for task in found["tasks"][:3])
        more = found["stranded"] - min(3, len(found["tasks"]))
        names += f" and {more} more" if more > 0 else ""
        told = f"no worker knows {found['stranded']} of them ({names})"
    else:
        told = "workers tell of all that could be judged"
    parts = [f"{begin}, {told}"]
    if found["ended"]:
        parts.append(f"{tasks_of(found['ended'])} ended without an acknowledgement")
    if found["listed"]:
        parts.append(f"workers still list {found['listed']} of these as running")
    if found["limited"]:
        parts.append(f"{found['limited']} with a rate limit cannot be judged")
    if found["later"]:
        parts.append(f"{found['later']} with a later ETA were not judged")
    if found["unreadable"]:
        parts.append(f"{found['unreadable']} that cannot be read as a task stay where they are")
    if found["partial"]:
        parts.append("not all could be read in time")
    return "; ".join(parts)


def deed(found: Mapping[str, Any]) -> str:
    """Return what was done in one sentence; empty where nothing was."""
    parts = []
    if found["put_back"]:
        one = found["put_back"] == 1
        parts.append(
            f"{tasks_of(found['put_back'])} that no worker knew any more"
            f" {'was' if one else 'were'} put back in {'its queue' if one else 'their queues'}"
        )
    if found["acknowledged"]:
        was = "was" if found["acknowledged"] == 1 else "were"
        parts.append(f"{tasks_of(found['acknowledged'])} had ended and {was} acknowledged")
    return "; ".join(parts)


COMMAND = "ansible-playbook playbooks/status.yml --tags requeue -e status_tasks=stranded"


def warning(found: Any) -> str:
    """Return what an operator is told of tasks that no worker knows; empty where there are none.

    Args:
        found: of M(celery_stranded), or whatever its failure left.
    """
    result = found if isinstance(found, Mapping) else {}
    if not result.get("text") or not (result.get("stranded") or result.get("ended")):
        return ""
    both = "put back what did not end and acknowledge the rest"
    act = both if result.get("ended") else "put them back"
    act = act if result.get("stranded") else "acknowledge them"
    then = f"When all workers answer, {act}" if result.get("blind") else act[0].upper() + act[1:]
    return f"{word(result['text'])}. {then}: {COMMAND}"


def rows(found: Any) -> list:
    """Return the rows of a status about tasks that no worker knows."""
    result = found if isinstance(found, Mapping) else {}
    told = []
    if result.get("done"):
        told.append(
            f"{'Put back' if result.get('put_back') else 'Ended   '}  {word(result['done'])}"
        )
        stranded, put_back = (result.get(key) for key in ("stranded", "put_back"))
        left = stranded - put_back if isinstance(stranded, int) and isinstance(put_back, int) else 0
        if left > 0:
            told.append(f"          {left} could not be put back: run it again")
        return told
    text = warning(result)
    if text:
        told.append(f"Stranded  {text}")
    elif result.get("text"):
        told.append(f"Held      {word(result['text'])}")
    return told
