"""Which unacknowledged tasks no worker knows: the judging, without Redis and workers."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from ansible.module_utils import crisper_stranded as stranded
from ansible.module_utils.crisper_celery import answered
from ansible.module_utils.crisper_stranded import Answers, Judgement, Message
from ansible.module_utils.crisper_stranded_probe import unix
from hypothesis import given
from hypothesis import strategies as st

NODE = "w@a"
NOTHING = {"ping": [(NODE, {"ok": "pong"})], "active": [(NODE, [])], "reserved": [(NODE, [])]}
NOTHING |= {"scheduled": [(NODE, [])], "registered": [(NODE, ["nap", "hourly [rate_limit=1/h]"])]}
ASKED = (*stranded.METHODS, "scheduled")
FOUND = {"held": 9, "stranded": 0, "ended": 0, "limited": 0, "later": 0, "unreadable": 0}
FOUND |= {"blind": [], "tasks": [], "partial": False, "put_back": 0, "acknowledged": 0}


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


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(ASKED), st.lists(st.tuples(st.just(NODE), JSON))))
def test_no_answer_of_a_worker_ends_the_judging(replies):
    answers = Answers({**NOTHING, **replies}, 1, [NODE])
    judgement = Judgement()
    judgement.add(message(), answers)
    assert sum(len(part) for part in (judgement.unknown, judgement.pending)) <= 1
    stranded.known_ids(replies.get("active", []), [NODE])


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
    assert answered({**reply, "held": 4}, {}, None)["held"] == 4
    assert answered({**reply, "held": "four"}, {}, None)["held"] is None
    assert answered(reply, {}, None)["held"] is None


def test_what_an_operator_reads():
    tasks = [{"id": str(n), "task": "nap"} for n in range(4)]
    found = {**FOUND, "stranded": 8, "tasks": tasks}
    text = "9 tasks are unacknowledged, no worker knows 8 of them (nap 0, nap 1, nap 2 and 5 more)"
    assert stranded.sentence(found) == text
    told = {**found, "text": text, "done": ""}
    assert stranded.warning(told) == f"{text}. Put them back: {stranded.COMMAND}"
    assert stranded.rows(told) == [f"Stranded  {stranded.warning(told)}"]
    blind = {**found, "blind": ["w@a did not answer"]}
    assert stranded.sentence(blind).endswith(
        "no worker told of 8, but that cannot be judged: w@a did not answer"
    )
    again = stranded.warning({**blind, "text": "x"})
    assert again == f"x. When they answer, put them back: {stranded.COMMAND}"
    one = {**FOUND, "held": 1, "stranded": 1, "tasks": tasks[:1]}
    assert stranded.sentence(one).startswith("1 task is unacknowledged, no worker knows 1 of them")
    assert stranded.sentence(FOUND) == ""
    assert stranded.deed(FOUND) == ""
    done = {**found, "put_back": 7, "acknowledged": 1}
    deed = "7 tasks that no worker knew any more were put back in their queues; 1 task had ended"
    assert stranded.deed(done).startswith(deed)
    rows = stranded.rows({**done, "text": text, "done": stranded.deed(done)})
    assert rows[0] == f"Put back  {stranded.deed(done)}"
    assert rows[1:] == ["          1 could not be put back: run it again"]


def test_what_cannot_be_judged_is_no_warning():
    told = {**FOUND, "limited": 2, "later": 1, "partial": True}
    told["text"] = stranded.sentence(told)
    assert told["text"] == (
        "9 tasks are unacknowledged, workers tell of all that could be judged; 2 with a rate limit"
        " cannot be judged; 1 with a later ETA were not judged; not all could be read in time"
    )
    assert stranded.warning(told) == ""
    assert stranded.rows(told) == [f"Held      {told['text']}"]


@given(JSON)
def test_whatever_a_broken_module_left_ends_no_template(left):
    assert stranded.warning(left) == "" or isinstance(left, dict)
    assert isinstance(stranded.rows(left), list)
