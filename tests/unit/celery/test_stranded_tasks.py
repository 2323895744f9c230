"""Which unacknowledged tasks no worker knows: the judging, without Redis and workers."""

from __future__ import annotations

import base64
import copy
import json
import time
from datetime import UTC, datetime
from types import SimpleNamespace

import backlog
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery import stranded, stranded_report
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import REMEDIES
from ansible_collections.crisper.stack.plugins.module_utils.celery.inspection import (
    report_inspection,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.stranded import (
    Answers,
    Judgement,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.unacked import Message, parts_of
from ansible_collections.crisper.stack.plugins.module_utils.probes import control
from ansible_collections.crisper.stack.plugins.module_utils.probes import stranded as stranded_probe
from ansible_collections.crisper.stack.plugins.module_utils.probes.control import Failure
from ansible_collections.crisper.stack.plugins.module_utils.probes.redis_keys import REDIS_CLI
from ansible_collections.crisper.stack.plugins.module_utils.probes.results import unix
from ansible_collections.crisper.stack.plugins.module_utils.probes.unacked import Unacked
from hypothesis import given
from hypothesis import strategies as st
from kombu.transport.virtual import Message as Message_

NODE = "w@a"
NOTHING = {"ping": [(NODE, {"ok": "pong"})], "active": [(NODE, [])], "reserved": [(NODE, [])]}
NOTHING |= {"scheduled": [(NODE, [])], "registered": [(NODE, ["nap", "hourly [rate_limit=1/h]"])]}
ASKED = (*stranded.METHODS, "scheduled")
FOUND = {"held": 9, "stranded": 0, "ended": 0, "limited": 0, "later": 0, "unreadable": 0}
FOUND |= {"listed": 0, "blind": [], "tasks": [], "partial": False, "put_back": 0, "acknowledged": 0}


def message(task_id="1", task="nap", eta="", leased=0):
    return Message("tag-" + task_id, [b"5.5", leased, 10, task_id.encode(), task, eta])


def judged(*messages, expected=(), receivers=1, asked=ASKED, **replies):
    answers = Answers({**NOTHING, **replies}, receivers, expected, asked)
    judgement = Judgement()
    for one in messages:
        judgement.add(one, answers)
    return judgement, answers


@pytest.mark.parametrize(
    ("one", "replies", "kind"),
    [
        (message(), {}, "unknown"),
        (message(), {"active": [(NODE, [{"id": "1"}])]}, "known"),
        (message(), {"reserved": [(NODE, [{"id": "1"}])]}, "known"),
        (message(eta="2030"), {"scheduled": [(NODE, [{"request": {"id": "1"}}])]}, "known"),
        (message(eta="2030"), {}, "unknown"),
        (message(task="hourly"), {}, "limited"),
        (message(leased=1), {}, "leased"),
        (message(task_id=""), {}, "unreadable"),
        (message(task=""), {}, "unreadable"),
    ],
)
def test_a_message_is_of_one_kind(one, replies, kind):
    judgement, answers = judged(one, **replies)
    assert answers.blind == []
    numbers = {k: getattr(judgement, k) for k in ("known", "limited", "leased", "unreadable")}
    numbers |= {"unknown": len(judgement.unknown), "pending": len(judgement.pending)}
    assert numbers == {**dict.fromkeys(numbers, 0), kind: 1}


def test_an_eta_is_judged_by_id_or_not_at_all():
    etas = [message(str(number), eta="2030") for number in range(4)]
    judgement, _ = judged(*etas, asked=stranded.METHODS)
    assert (judgement.unknown, len(judgement.pending)) == ([], 4)
    judgement.settle(3, {"1"})
    assert [one.id for one in judgement.unknown] == ["0", "2"]
    assert (judgement.known, [one.id for one in judgement.pending]) == (1, ["3"])


def test_ids_are_known_only_where_everybody_answered():
    replies = [(NODE, {"1": ["scheduled", {}]}), ("w@b", {}), (NODE, {"error": "busy"})]
    known, missing = stranded.known_ids(replies, [NODE, "w@b", NODE, "w@b"])
    assert known == {"1"}
    assert missing == [f"{node} did not tell its tasks by id" for node in (NODE, "w@b")]


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"expected": ["w@b", NODE]}, "w@b did not answer"),
        ({"receivers": 3}, "2 more that listened to Celery's questions did not answer"),
        ({"receivers": None}, "Redis did not say how many workers listen"),
        ({"ping": [], "receivers": 0}, "no worker answered"),
        ({"active": []}, "w@a did not tell its active tasks"),
        ({"reserved": [(NODE, {"error": "x"})]}, "w@a did not tell its reserved tasks"),
        ({"reserved": [(NODE, "(a reply of 9 bytes)")]}, "w@a did not tell its reserved tasks"),
        ({"scheduled": [(NODE, [{"id": "1"}])]}, "w@a did not tell its scheduled tasks"),
        ({"active": [(NODE, [{"id": 7}])]}, "w@a did not tell its active tasks"),
        ({"registered": []}, "w@a did not tell its registered tasks"),
        # Two workers of one name: the one that answers says nothing of what the other holds.
        ({"ping": [(NODE, {})] * 2, "receivers": 2}, "w@a did not tell its active tasks"),
    ],
)
def test_who_did_not_answer_may_hold_anything(change, why):
    _, answers = judged(message(), **change)
    assert why in answers.blind


def test_a_beat_that_answers_holds_nothing():
    ping = [*NOTHING["ping"], ("celerybeat@a", {"ok": "pong"})]
    _, answers = judged(ping=ping, receivers=2)
    assert (answers.blind, answers.alive) == ([], {NODE})


LEAF = st.none() | st.booleans() | st.integers() | st.text(max_size=4)
KEYS = st.sampled_from(["id", "request", "error", ""])
FLAT = LEAF | st.lists(LEAF, max_size=2) | st.dictionaries(KEYS, LEAF, max_size=2)
# Two levels, not `st.recursive`: drawing from it failed a health check on a busy machine.
JSON = FLAT | st.lists(FLAT, max_size=2) | st.dictionaries(KEYS, FLAT, max_size=2)
REPLIES = st.lists(st.tuples(st.just(NODE), JSON), max_size=3)


@given(st.dictionaries(st.sampled_from(ASKED), REPLIES, max_size=3))
def test_no_answer_of_a_worker_ends_the_judging(replies):
    answers = Answers({**NOTHING, **replies}, 1, [NODE])
    judgement = Judgement()
    judgement.add(message(), answers)
    assert sum(len(part) for part in (judgement.unknown, judgement.pending)) <= 1
    stranded.known_ids(replies.get("active", []), [NODE])


def judged_in(number):
    """Return the seconds of processor time for that many workers with two tasks each."""
    nodes = [f"w{each}@a" for each in range(number)]
    replies = {method: [(node, []) for node in nodes] for method in ASKED}
    replies["active"] = [(node, [{"id": node}, {"id": node + "2"}]) for node in nodes]
    begun = time.process_time()
    answers = Answers(replies, number, nodes, ASKED)
    assert (answers.blind, len(answers.known)) == ([], 2 * number)
    assert stranded.known_ids([(node, {}) for node in nodes], nodes) == (set(), [])
    return time.process_time() - begun


def test_judging_takes_no_longer_for_each_of_many_workers():
    """Regression: each worker was counted among all of them; 8,000 would take seconds."""
    few = min(judged_in(500) for _ in range(3))
    assert judged_in(8000) < max(16 * few * 5, 0.5)


ENTRY = [json.loads(json.dumps(backlog.message("nap"))), "", "one"]
PLACES = [(), (0,), (1,), (2,), *((0, key) for key in ENTRY[0]), (0, "headers", "id")]
PLACES += [(0, "properties", key) for key in ENTRY[0]["properties"]]
PLACES += [(0, "properties", "delivery_info", key) for key in ("exchange", "routing_key")]


def changed(value, place, put):
    """Return a copy with something else at that place; `...` takes it away."""
    if not place:
        return None if put is ... else put
    value = copy.copy(value)
    if put is ... and len(place) == 1:
        del value[place[0]]
    else:
        value[place[0]] = changed(value[place[0]], place[1:], put)
    return value


@given(st.sampled_from(PLACES), JSON | st.just(...) | st.just("\ud800"))
def test_an_entry_is_read_or_told_and_never_put_back_broken(place, put):
    try:
        entry = changed(ENTRY, place, put)
        message_, exchange, routing_key = parts_of(entry)
    except ValueError:
        return
    assert (exchange + routing_key).encode() is not None
    # What kombu does with what it takes from a queue.
    got = Message_(message_, channel=SimpleNamespace(decode_body=lambda body, _: body))
    assert isinstance(got.delivery_tag, str)
    assert {"exchange", "routing_key"} <= set(got.delivery_info)


def test_what_kombu_writes_is_read():
    assert parts_of(ENTRY) == (ENTRY[0], "", "one")
    assert parts_of([ENTRY[0], None, "one"])[1:] == ("", "one")


def test_an_entry_that_cannot_be_read_stays_and_the_others_go_back(monkeypatch):
    """Regression: one that somebody had written into `unacked` stopped the whole put-back."""
    bad = b'[{"headers":{"id":"bad","task":"t"}}]'
    raws = {"1": json.dumps(ENTRY).encode(), "2": bad, "3": b"[" * 100_000, "4": b"\xff"}
    raws["5"] = json.dumps([ENTRY[0], "", "\ud800"]).encode()
    raws["7"] = json.dumps([{**ENTRY[0], "body": "x"}, "", "two"]).encode()
    raws["6"] = json.dumps([ENTRY[0], "", "two"]).encode()
    moved = []
    pipe = SimpleNamespace(
        eval=lambda *given: moved.append(given[5]), execute=lambda **_: [1] * len(moved)
    )
    unacked = Unacked.__new__(Unacked)
    unacked.client = SimpleNamespace(
        hmget=lambda _key, tags: [raws[tag] for tag in tags], pipeline=lambda **_: pipe
    )
    unacked.channel = SimpleNamespace(
        _get_message_priority=lambda *_, **__: 0,
        _q_for_pri=lambda queue, _: queue,
        decode_body=lambda body, _: base64.b64decode(body),
    )
    unacked.prefix, unacked.key, unacked.index, unacked.lease = "", "u", "i", "l"
    messages = [Message(tag, [b"5.5", 0, 10, b"id", b"nap", b""]) for tag in raws]
    assert list(unacked.put_back(messages, time.monotonic() + 60)) == [2, 0, 5]
    assert moved == ["one", "two"]


def test_what_cannot_be_read_is_told():
    assert "2 that cannot be read as a task stay where they are" in stranded_report.sentence(
        {**FOUND, "unreadable": 2}
    )


@pytest.mark.parametrize(
    ("meta", "over"),
    [
        ({"status": "SUCCESS", "date_done": "1970-01-01T00:01:40+00:00"}, True),
        ({"status": "SUCCESS", "date_done": "1970-01-01T00:01:40"}, True),
        ({"status": "SUCCESS", "date_done": datetime.fromtimestamp(100, UTC)}, True),
        # Of an earlier task with that id.
        ({"status": "SUCCESS", "date_done": "1970-01-01T00:01:38+00:00"}, False),
        ({"status": "FAILURE", "date_done": "1970-01-01T00:01:40+00:00"}, False),
        ({"status": "SUCCESS", "date_done": "soon"}, False),
        ({"status": "SUCCESS"}, False),
        (None, False),
        ("SUCCESS", False),
    ],
)
def test_a_task_has_ended_only_after_its_delivery(meta, over):
    assert stranded.ended_since(meta, 99.0, unix) is over


@pytest.mark.parametrize(
    ("held", "nodes", "worth"),
    [
        (0, {}, False),
        (2, {}, True),
        (2, {NODE: {"active": [{}], "scheduled": [{}]}}, False),
        (3, {NODE: {"active": [{}], "scheduled": [{}]}}, True),
        # Two workers list one task: what kombu has put back when a connection broke runs twice.
        (2, {NODE: {"active": [{"id": "1"}]}, "w@b": {"active": [{"id": "1"}]}}, True),
        (2, {NODE: {"active": [{"id": "1"}], "scheduled": [{"request": {"id": "2"}}]}}, False),
        # One that was acknowledged before it ran is not among them.
        (1, {NODE: {"active": [{"acknowledged": True}]}}, True),
        (1, {NODE: {"active": {"error": "x"}}}, True),
        (None, {}, False),
        (True, {}, False),
        (5, "text", False),
    ],
)
def test_what_is_worth_a_look(held, nodes, worth):
    assert stranded.suspected({"held": held, "nodes": nodes}) is worth
    assert not stranded.suspected(None)
    assert not stranded.suspected({"problem": "broker_unreachable", "nodes": {}})


def test_what_workers_answered_tells_how_many_are_unacknowledged():
    reply = {"problem": "", "error": "", "replies": {"ping": [{NODE: {"ok": "pong"}}]}}
    assert report_inspection({**reply, "held": 4}, {}, None)["held"] == 4
    assert report_inspection({**reply, "held": "four"}, {}, None)["held"] is None
    assert report_inspection(reply, {}, None)["held"] is None


def test_what_an_operator_reads():
    tasks = [{"id": str(n), "task": "nap"} for n in range(4)]
    found = {**FOUND, "stranded": 8, "tasks": tasks}
    text = "9 tasks are unacknowledged, no worker knows 8 of them (nap 0, nap 1, nap 2 and 5 more)"
    assert stranded_report.sentence(found) == text
    told = {**found, "text": text, "done": ""}
    assert stranded_report.warning(told) == f"{text}. Put them back: {stranded_report.COMMAND}"
    assert stranded_report.rows(told) == [f"Stranded  {stranded_report.warning(told)}"]
    blind = {**found, "blind": ["w@a did not answer"]}
    assert stranded_report.sentence(blind).endswith(
        "no worker reported 8 of them, but that is not certain: w@a did not answer"
    )
    again = stranded_report.warning({**blind, "text": "x"})
    assert again == f"x. When all workers answer, put them back: {stranded_report.COMMAND}"
    ended = {**told, "stranded": 0, "ended": 2}
    assert stranded_report.warning(ended) == f"{text}. Acknowledge them: {stranded_report.COMMAND}"
    both = f"{text}. Put back what did not end and acknowledge the rest: {stranded_report.COMMAND}"
    assert stranded_report.warning({**told, "ended": 2}) == both
    assert stranded_report.sentence({**FOUND, "ended": 2, "listed": 1}).endswith(
        "2 tasks ended without an acknowledgement; workers still list 1 of these as running"
    )
    one = {**FOUND, "held": 1, "stranded": 1, "tasks": tasks[:1]}
    assert stranded_report.sentence(one).startswith(
        "1 task is unacknowledged, no worker knows 1 of them"
    )
    assert stranded_report.sentence(FOUND) == ""
    assert stranded_report.deed(FOUND) == ""
    done = {**found, "put_back": 7, "acknowledged": 1}
    deed = "7 tasks that no worker knew any more were put back in their queues; 1 task had ended"
    assert stranded_report.deed(done).startswith(deed)
    rows = stranded_report.rows({**done, "text": text, "done": stranded_report.deed(done)})
    assert rows[0] == f"Put back  {stranded_report.deed(done)}"
    assert rows[1:] == ["          1 could not be put back: run it again"]


def test_what_cannot_be_judged_is_no_warning():
    told = {**FOUND, "limited": 2, "later": 1, "partial": True}
    told["text"] = stranded_report.sentence(told)
    assert told["text"] == (
        "9 tasks are unacknowledged, workers reported all that could be"
        " checked; 2 with a rate limit"
        " cannot be judged; 1 with a later ETA were not judged; not all could be read in time"
    )
    assert stranded_report.warning(told) == ""
    assert stranded_report.rows(told) == [f"Held      {told['text']}"]


@given(JSON)
def test_whatever_a_broken_module_left_ends_no_template(left):
    assert stranded_report.warning(left) == "" or isinstance(left, dict)
    assert isinstance(stranded_report.rows(left), list)


def test_what_was_delivered_just_before_a_restart_is_judged(monkeypatch):
    """Regression: of a deploy of few seconds it was too young, and nobody was told of it."""
    seconds, looked = [], []

    class Messages:
        def __init__(self, *_):
            self.client = SimpleNamespace(info=lambda _: {"uptime_in_seconds": 2})

        def count(self):
            return 1

        def tags(self, grace):
            looked.append((grace, sum(seconds)))
            return [], True

    connection = SimpleNamespace(transport=SimpleNamespace(driver_type="redis"))
    monkeypatch.setattr(stranded_probe, "connected", lambda *_: connection)
    monkeypatch.setattr(stranded_probe, "Unacked", Messages)
    monkeypatch.setattr(stranded_probe.time, "sleep", seconds.append)
    request = {"timeout": 1, "grace": 5.0, "put_back": True, "restarted_within": 60}
    assert stranded_probe.Examination(None, request).run()["restarted"] is True
    assert looked == [(5.0, 3.0)]
    late = stranded_probe.Examination(None, {**request, "restarted_within": 1}).run()
    assert (late["restarted"], len(looked)) == (False, 1)
    stranded_probe.Examination(None, {**request, "restarted_within": 0}).run()
    assert looked[1] == (5.0, 3.0)


@pytest.mark.parametrize("name", ["unacked", "unacked_index", "unacked_lease", "unacked_holder"])
def test_a_key_of_another_type_is_named(name, monkeypatch):
    """Regression: `SET unacked_lease x` was told as a broker that cannot be reached."""
    kinds = {"unacked": b"hash", "unacked_index": b"none", "unacked_lease": b"zset"}
    channel = SimpleNamespace(unacked_key="unacked", unacked_index_key="unacked_index")
    client = SimpleNamespace(
        type=lambda key: kinds.get(key, b"none"),
        connection_pool=SimpleNamespace(connection_kwargs={"db": 3}),
    )
    monkeypatch.setattr(control, "plain_client", lambda _: client)
    connection = SimpleNamespace(default_channel=channel)
    control.check_types(connection)
    kinds[name] = b"string"
    with pytest.raises(Failure, match=f"^the key '{name}' in Redis is a str") as told:
        control.check_types(connection)
    assert str(told.value).endswith(f"{REDIS_CLI} -n 3 DEL {name}")
    assert told.value.problem == "unreadable_data"
    assert "stop the old workers" in REMEDIES[told.value.problem]
    assert "plain Celery" in REMEDIES[told.value.problem]
