"""What finds tasks that no worker knows, and puts them back, from inside a container.

Fed to ``python -`` together with ``probes.inspect``, ``celery.stale`` and ``celery.stranded``.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import uuid

# Seconds between the two looks, and between two tries while a worker does not answer.
PAUSE = 1.0
# Shares of the budget: for reading in one look, for reading results, for putting back.
READING, RESULT_SHARE, MOVING = 0.15, 0.1, 0.3
# Messages that are moved in one round trip, and bytes of them in memory.
MOVED, MOVED_BYTES = 100, 4_000_000
# Results that are asked for at once: one may be large.
RESULTS = 20


class Unacked:
    """The unacknowledged messages of one application in its broker's database."""

    def __init__(self, app, connection):
        """Begin; `connection` is kombu's, to Redis, and has answered."""
        import redis

        self.app = app
        self.channel = channel = connection.default_channel
        self.prefix = getattr(channel, "global_keyprefix", "") or ""
        # Kombu's own client adds its prefix to some commands only.
        self.client = redis.Redis(connection_pool=channel.pool)
        self.key = self.prefix + channel.unacked_key
        self.index = self.prefix + channel.unacked_index_key
        self.lease = self.key + "_lease"

    def check_types(self):
        """Raise Failure if one of the keys has another type than kombu's."""
        from ..celery.stranded import text_of
        from .inspect import Failure

        for key, wanted in ((self.key, "hash"), (self.index, "zset"), (self.lease, "zset")):
            found = text_of(self.client.type(key))
            if found not in (wanted, "none"):
                text = f"the key {key!a} in Redis is a {found}, and Celery's is a {wanted}"
                raise Failure("unreadable_data", text)

    def count(self):
        """Return how many there are.

        Raises:
            Failure: one of the keys has another type than kombu's.
        """
        self.check_types()
        return self.client.hlen(self.key)

    def tags(self, grace):
        """Return the tags that were delivered more than `grace` seconds ago, and if these are all.

        A living lease of crisper-worker keeps its messages young: they are not among them.
        """
        from ..celery.stranded import MOST, text_of

        seconds, micros = self.client.time()
        until = seconds + micros / 1e6 - grace
        found = self.client.zrangebyscore(self.index, "-inf", until, start=0, num=MOST + 1)
        return [text_of(tag) for tag in found[:MOST]], len(found) <= MOST

    def read(self, tags, deadline):
        """Yield the messages of these tags that are there.

        It ends early at the deadline, with None; a first part is always read.
        """
        from ..celery.stranded import BATCH, BATCH_BYTES, PARSED, READ, Message

        start, keys = 0, (self.key, self.index, self.lease)
        while start < len(tags) and (not start or time.monotonic() < deadline):
            batch = tags[start : start + BATCH]
            answer = self.client.eval(READ, 3, *keys, PARSED, BATCH_BYTES, *batch)
            start += len(answer)
            for tag, found in zip(batch, answer):  # noqa: B905 (Python 3.8)
                message = Message(tag, found)
                if message.score:
                    yield message
        if start < len(tags):
            yield None

    def delivered(self, task_ids):
        """Return when the message of each of these tasks was delivered, in Unix seconds.

        0 for one that has none any more. Without those that have several, or one under a lease.
        """
        found = {task_id: [] for task_id in task_ids}
        tags, complete = self.tags(0.0)
        if not complete:
            return {}
        for message in self.read(tags, float("inf")):
            if message.id in found:
                found[message.id].append(message)
        return {
            task_id: max([0.0, *(float(message.score) for message in messages)])
            for task_id, messages in found.items()
            if len(messages) <= 1 and not any(message.leased for message in messages)
        }

    def put_back(self, messages, deadline):
        """Put messages back at the end of their queues that consumers read.

        As kombu does it (``restore_by_tag``): marked as redelivered, to the lists that the exchange
        and the routing key say, in one step with the removal. The last one is read first. Returns
        how many were put back, how many have no queue, and how many cannot be read: these stay.
        """
        total, batch, size = [0, 0, 0], [], 0
        for message in messages:
            batch.append(message)
            size += message.size
            if len(batch) >= MOVED or size >= MOVED_BYTES:
                total = [sum(pair) for pair in zip(total, self._move(batch))]  # noqa: B905
                batch, size = [], 0
                if time.monotonic() >= deadline:
                    return total
        return [sum(pair) for pair in zip(total, self._move(batch))]  # noqa: B905 (Python 3.8)

    def acknowledge(self, messages):
        """Remove messages whose tasks have ended; return how many."""
        from ..celery.stranded import MOVE

        pipe = self.client.pipeline(transaction=False)
        for message in messages:
            keys = (self.key, self.index, self.lease)
            pipe.eval(MOVE, 3, *keys, message.tag, message.score, "")
        return sum(1 for answer in pipe.execute(raise_on_error=False) if answer == 1)

    def _move(self, batch):
        from ..celery.stranded import MOVE

        if not batch:
            return 0, 0, 0
        raws = self.client.hmget(self.key, [message.tag for message in batch])
        pipe, homeless, unreadable = self.client.pipeline(transaction=False), 0, 0
        for message, raw in zip(batch, raws):  # noqa: B905 (Python 3.8)
            if raw is None:
                continue
            try:
                payload, lists = self._again(raw)
            except Exception:
                unreadable += 1  # whoever has put it there: the others go back all the same
                continue
            if not lists:
                homeless += 1
                continue
            keys = (self.key, self.index, self.lease, *lists)
            pipe.eval(MOVE, len(keys), *keys, message.tag, message.score, payload)
        answers = pipe.execute(raise_on_error=False)
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return sum(1 for answer in answers if answer == 1), homeless, unreadable

    def _again(self, raw):
        """Return a message as it goes back, and the lists that it goes to."""
        from kombu.utils.json import dumps, loads

        from ..celery.stranded import parts_of

        message, exchange, routing_key = parts_of(loads(raw.decode("utf-8")))
        # A worker that cannot decode it loses its connection.
        self.channel.decode_body(message["body"], message["properties"].get("body_encoding"))
        # As kombu does.
        message["headers"]["redelivered"] = True
        message["properties"]["delivery_info"]["redelivered"] = True
        priority = self.channel._get_message_priority(message, reverse=False)
        queues = list(self._queues(exchange, routing_key))
        lists = [self.prefix + self.channel._q_for_pri(queue, priority) for queue in queues]
        return dumps(message), lists

    def _queues(self, exchange, routing_key):
        if not exchange:
            return [routing_key] if routing_key else []
        try:
            # A topic is looked up as one only where the exchange was declared.
            for queue in self.app.amqp.queues.values():
                if queue.exchange and queue.exchange.name == exchange:
                    queue.exchange(self.channel).declare()
                    break
            queues = [queue for queue in self.channel._lookup(exchange, routing_key) if queue]
            bound = {row[2] for row in self.channel.get_table(exchange)}
        except Exception:  # whatever a lookup raises: the message stays where it is
            return []
        return [queue for queue in queues if queue in bound]


def asked(app, request, questions):
    """Ask everybody at once; what was answered, by question, and how many heard the ping.

    `questions` is name -> (method, arguments), and has a ``ping``.
    """
    from kombu import Consumer, Producer

    from ..celery.stranded import BEAT
    from .inspect import UNREADABLE, connected, ignored, read_reply
    from .leftovers import Replies

    connection = connected(app, request["timeout"])
    connection.default_channel.brpop_timeout = 0.1  # closing waits for the read under way
    own = Replies(app, connection)
    channel, mailbox = connection.default_channel, own.mailbox
    heard = count_receivers(channel)
    # Without one of its own it would publish by a channel of the application's pool.
    producer = Producer(channel, auto_declare=False)
    tickets = {uuid.uuid4().hex: name for name in questions}
    replies = {name: [] for name in questions}
    receivers = None

    def on_message(message):
        ticket, body = read_reply(message, mailbox.accept)
        name = tickets.get(ticket)
        if name is not None and isinstance(body, dict):
            replies[name].extend(body.items())

    try:
        for ticket, name in tickets.items():
            del heard[:]
            method, arguments = questions[name]
            options = {"reply_ticket": ticket, "timeout": request["timeout"]}
            mailbox._publish(method, arguments, channel=channel, producer=producer, **options)
            if name == "ping" and heard:
                receivers = sum(heard)
        deadline = time.monotonic() + request["timeout"]

        def complete():
            alive = [str(node) for node, _ in replies["ping"]]
            workers = [node for node in alive if not node.startswith(BEAT)]
            if not set(request["nodes"]) <= set(alive) or len(alive) < (receivers or 0):
                return False
            return all(len(replies[q]) >= len(workers) for q in questions if q != "ping")

        options = {"no_ack": True, "on_message": on_message, "on_decode_error": ignored}
        with Consumer(channel, [mailbox.reply_queue], **options):
            while time.monotonic() < deadline and not complete():
                try:
                    connection.drain_events(timeout=max(0.01, deadline - time.monotonic()))
                except socket.timeout:
                    break
                except UNREADABLE:
                    continue  # no message of Celery's: somebody else has put it there
    finally:
        own.close()
    return replies, receivers


def count_receivers(channel):
    """Have a channel write down how many clients Redis hands each broadcast to.

    A worker that is frozen, or too busy to answer, is among them, whatever its name is.
    """
    from kombu.utils.json import dumps

    heard, original = [], channel._put_fanout

    def put(exchange, message, routing_key, **options):
        topics = getattr(channel, "_get_publish_topics", None)
        if topics is not None:
            names = topics(exchange, routing_key)
        elif hasattr(channel, "_get_publish_topic"):
            names = [channel._get_publish_topic(exchange, routing_key)]
        else:
            return original(exchange, message, routing_key, **options)
        with channel.conn_or_acquire() as client:
            heard.extend(client.publish(name, dumps(message)) for name in names)
        return None

    channel._put_fanout = put
    return heard


def look(app, unacked, request, tags, everything):
    """Ask the workers, then judge these messages: `Judgement`, `Answers`, if all were read.

    Reading takes a share of the budget, and asking by id another one.
    """
    from ..celery.stranded import METHODS, MOST, MOST_SCHEDULED, Judgement

    exact = tells_by_id()
    answers = ask_lists(app, request, METHODS)
    exact = exact and answers.alive <= set(request["same_image"])
    if not exact and (everything or len(tags) <= MOST_SCHEDULED):
        answers = ask_lists(app, request, (*METHODS, "scheduled"))
    judged, complete = Judgement(), True
    deadline = time.monotonic() + request["budget"] * READING
    for message in unacked.read(tags, deadline):
        if message is None:
            complete = False
        else:
            judged.add(message, answers)
    if exact and judged.pending:
        ids = [one.id for one in judged.pending[: MOST if everything else MOST_SCHEDULED]]
        deadline = time.monotonic() + request["budget"] * READING
        known, blind, number = ask_ids(app, request, ids, answers.alive, deadline)
        answers.blind += [why for why in blind if why not in answers.blind]
        judged.settle(number, known)
    return judged, answers, complete


def ask_lists(app, request, methods):
    """Return what all workers tell of what they hold."""
    from ..celery.stranded import Answers

    given = {"registered": {"taskinfoitems": ["rate_limit"]}}
    questions = {method: (method, given.get(method, {})) for method in methods}
    replies, receivers = asked(app, request, questions)
    return Answers(replies, receivers, request["nodes"], methods)


def ask_ids(app, request, ids, nodes, deadline):
    """Return those of the ids that workers know, why not all could be asked, and how many were."""
    from ..celery.stranded import IDS, QUESTIONS, known_ids

    known, blind, number = set(), [], 0
    while number < len(ids) and time.monotonic() < deadline:
        part = ids[number : number + IDS * QUESTIONS]
        chunks = [part[start : start + IDS] for start in range(0, len(part), IDS)]
        questions = {str(n): ("query_task", {"ids": chunk}) for n, chunk in enumerate(chunks)}
        replies, _ = asked(app, request, {"ping": ("ping", {}), **questions})
        given = [pair for name in questions for pair in replies[name]]
        found, missing = known_ids(given, list(nodes) * len(chunks))
        known |= found
        blind += [why for why in missing if why not in blind]
        number += len(part)
    return known, blind, number


def tells_by_id():
    """Return whether this Celery tells by ``query_task`` what waits for an ETA (from 5.7 on)."""
    from celery.worker import state

    return hasattr(state, "scheduled_requests")


def ended_and_listed(app, judged, answers):
    """Return the messages of tasks that workers list as running, and whose results are there."""
    from ..celery.stranded import MOST_SCHEDULED, ended_runs

    if not 0 < len(judged.active) <= MOST_SCHEDULED:
        return []
    metas = results(app, [message.id for message in judged.active])
    return ended_runs(judged.active, answers.active, metas or {}, unix)


def ended(app, messages, deadline):
    """Return those of the messages whose tasks have ended since, and how many were looked at.

    Only Redis is asked for results.
    """
    from ..celery.stranded import ended_since

    found = []
    for start in range(0, len(messages), RESULTS):
        if start and time.monotonic() >= deadline:
            return found, start
        batch = messages[start : start + RESULTS]
        metas = results(app, [message.id for message in batch])
        if metas is None:
            break
        found += [one for one in batch if ended_since(metas.get(one.id), float(one.score), unix)]
    return found, len(messages)


def results(app, task_ids):
    """Return task id -> what the backend stored; None where it is not Redis or does not answer.

    Results are a help: without them a task may run twice.
    """
    try:
        from celery.backends.redis import RedisBackend

        if not isinstance(app.backend, RedisBackend):
            return None
        raws = []
        for start in range(0, len(task_ids), RESULTS):
            batch = task_ids[start : start + RESULTS]
            raws += app.backend.client.mget([app.backend.get_key_for_task(one) for one in batch])
    except Exception:  # no result backend, one that cannot be loaded, or that is away
        return None
    metas = {}
    for task_id, raw in zip(task_ids, raws):  # noqa: B905 (Python 3.8)
        try:
            metas[task_id] = app.backend.decode_result(raw) if raw else None
        except Exception:  # whatever a serializer raises
            metas[task_id] = None
    return metas


def unix(text):
    """Return Unix seconds of the time that Celery writes into a result: UTC, unless it says so."""
    import datetime

    moment = text if isinstance(text, datetime.datetime) else datetime.datetime.fromisoformat(text)
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp()


def examine(app, request):
    """Look twice, and put back what is asked for: the reply's numbers."""
    from ..celery.stale import LOST
    from ..celery.stranded import SHOWN
    from .inspect import Failure, connected

    begun = time.monotonic()
    reply = {
        **dict.fromkeys(("held", "stranded", "ended", "leased", "limited", "later"), 0),
        "listed": 0,
        **dict.fromkeys(("unreadable", "put_back", "acknowledged", "homeless"), 0),
        **{"blind": [], "tasks": [], "partial": False, "restarted": True},
    }
    connection = connected(app, request["timeout"])
    kind = connection.transport.driver_type
    if kind != "redis":
        raise Failure("broker_unsupported", "the broker is " + kind + "; only Redis can be read")
    unacked = Unacked(app, connection)
    within = request["restarted_within"]
    uptime = unacked.client.info("server")["uptime_in_seconds"] if within else 0
    if within and uptime > within:
        return {**reply, "restarted": False}
    everything = request["put_back"]
    if within and uptime < request["grace"]:
        # What was delivered just before the restart would be too young to be judged.
        time.sleep(request["grace"] - uptime)
    reply["held"] = unacked.count()
    tags, complete = unacked.tags(request["grace"])
    if not tags:
        return reply
    while True:
        first, answers, read = look(app, unacked, request, tags, everything)
        blind = answers.blind
        waited = time.monotonic() - begun
        if not (everything and blind and first.unknown and waited < request["wait"]):
            break
        time.sleep(PAUSE)  # a worker that connects again answers soon
    reply.update(
        leased=first.leased,
        limited=first.limited,
        later=len(first.pending),
        unreadable=first.unreadable,
        partial=not (complete and read),
    )
    left = first.unknown + ended_and_listed(app, first, answers)
    if left:
        # A worker acknowledges by itself what it loses with a process.
        gone = answers.gone and any(message.id in answers.stale for message in left)
        time.sleep(LOST if gone and everything else PAUSE)
        seen = {message.tag: message.score for message in left}
        second, answers, read = look(app, unacked, request, list(seen), everything)
        left = second.unknown + ended_and_listed(app, second, answers)
        # One that was delivered again meanwhile is another delivery.
        left = [message for message in left if seen[message.tag] == message.score]
        reply["listed"] = sum(one.id in answers.stale or one.id in answers.active for one in left)
        blind = blind + [why for why in answers.blind if why not in blind]
        reply["partial"] = reply["partial"] or not read
        deadline = time.monotonic() + request["budget"] * RESULT_SHARE
        done, checked = ended(app, left, deadline)
        over, unchecked = {message.tag for message in done}, len(left) - checked
        left = [message for message in left[:checked] if message.tag not in over]
        reply.update(stranded=len(left) + unchecked, ended=len(done))
        reply["partial"] = reply["partial"] or unchecked > 0
        reply["tasks"] = [{"id": one.id, "task": one.task} for one in left[:SHOWN]]
        reply["blind"] = blind
        if everything and not blind:
            deadline = time.monotonic() + request["budget"] * MOVING
            numbers = unacked.put_back(left[::-1], deadline)
            reply["put_back"], reply["homeless"], unreadable = numbers
            reply["unreadable"] += unreadable
            reply["stranded"] -= unreadable  # nothing will put them back
            reply["acknowledged"] = unacked.acknowledge(done)
    reply["held"] = max(unacked.count(), reply["stranded"]) if not everything else reply["held"]
    connection.release()
    return reply


def main(request, marker):
    """Answer one request and leave without the application's exit handlers."""
    from ..text import clean
    from .inspect import Failure, load_app, redact, secrets_of

    output = os.dup(1)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    secrets = secrets_of(os.environ)
    phase, begun = ["app_not_importable"], time.monotonic()

    def answer(reply):
        reply["seconds"] = round(time.monotonic() - begun, 3)
        data = ("\n" + marker + json.dumps(clean(redact(reply, secrets))) + "\n").encode()
        while data:
            data = data[os.write(output, data) :]
        sys.stderr.flush()
        os._exit(0)

    def late(*_):
        what = "The application was not imported" if phase[0][0] == "a" else "Redis did not answer"
        answer({"problem": phase[0], "error": what + " in time"})

    signal.signal(signal.SIGALRM, late)
    signal.alarm(max(1, int(request["import_timeout"])))
    try:
        app = load_app(request["app"])
        phase[0] = "broker_unreachable"
        waits = request["budget"] + request["wait"] + 3 * request["timeout"]
        signal.alarm(int(waits) + 15)
        reply = examine(app, request)
        signal.alarm(0)
        answer({"problem": "", "error": "", **reply})
    except Failure as failure:
        answer({"problem": failure.problem, "error": str(failure)})
    except Exception as error:
        answer({"problem": phase[0], "error": type(error).__name__ + ": " + str(error)})
