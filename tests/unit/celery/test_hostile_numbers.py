"""Whatever number, shape or depth a worker gives: every judge answers, of that worker alone."""

from __future__ import annotations

import contextlib
import json
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery import (
    busy,
    drain,
    settings,
    skew,
    stale,
    stranded,
    stranded_report,
    unacked,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.canaries import report_canaries
from ansible_collections.crisper.stack.plugins.module_utils.celery.inspection import (
    key_warnings,
    report_inspection,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.judge import SHAPES
from ansible_collections.crisper.stack.plugins.module_utils.deploy import status
from ansible_collections.crisper.stack.plugins.module_utils.ledger.counts import Ledger
from ansible_collections.crisper.stack.plugins.module_utils.probes import canary as canary_probe
from ansible_collections.crisper.stack.plugins.module_utils.probes import control, serve
from ansible_collections.crisper.stack.plugins.module_utils.probes import drain as drain_probe
from ansible_collections.crisper.stack.plugins.module_utils.probes import ledger as ledger_probe
from ansible_collections.crisper.stack.plugins.module_utils.probes.results import unix
from ansible_collections.crisper.stack.plugins.module_utils.shapes import EACH, like
from ansible_collections.crisper.stack.plugins.module_utils.text import clean
from hostile_replies import NUMBERS, SHAPELESS, deep
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

HUGE = int("9" * 400)
# By number: the text of a strategy that holds deep lists cannot be made.
SAMPLES = st.integers(0, len(SHAPELESS) - 1).map(lambda number: SHAPELESS[number])
LEAVES = SAMPLES | st.text(max_size=5)
JSON = st.recursive(
    LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def or_else(*sane: Any) -> Any:
    """Return one of the values, or something else in its place."""
    return st.sampled_from(sane) | JSON


ENTRY = st.fixed_dictionaries(
    {},
    optional={
        "id": or_else("1", "2"),
        "name": or_else("nap"),
        "time_start": or_else(100.0),
        "worker_pid": or_else(7),
        "acknowledged": or_else(False),
        "request": JSON,
        "eta": or_else("2026-01-01T00:00:00"),
    },
)
POOL = st.fixed_dictionaries(
    {"implementation": or_else(stale.PREFORK), "processes": or_else([7, 8])},
    optional={"max-concurrency": or_else(2), "timeouts": or_else([1, 2])},
)
STATS = st.fixed_dictionaries({"pool": POOL | JSON, "total": or_else({"a": 1})})
ENTRIES = st.lists(ENTRY, max_size=3)
REPORT = st.fixed_dictionaries(
    {
        "active": ENTRIES | st.lists(JSON, max_size=2),
        "reserved": ENTRIES,
        "active_queues": st.lists(st.dictionaries(st.just("name"), or_else("q")), max_size=2),
        "stats": STATS | JSON,
    },
    optional={"scheduled": ENTRIES, "registered": st.lists(JSON, max_size=2), "conf": JSON},
)
META = st.fixed_dictionaries(
    {"status": or_else("SUCCESS"), "date_done": or_else("2026-01-01T00:00:00")}
)
QUICK = examples(max_examples=25, deadline=None)


def entry(since: Any) -> dict[str, Any]:
    return {"id": "1", "name": "nap", "time_start": since, "worker_pid": 7, "acknowledged": False}


@pytest.mark.parametrize("since", [*NUMBERS, deep(), "now", None, True], ids=lambda _: "")
def test_a_start_is_a_time_or_is_not_told(since: Any) -> None:
    """Regression: `math.isfinite` of a number of 400 digits ended each deploy and its undo."""
    told = stale.started(entry(since))
    assert told is None or 0 <= told < stale.END_OF_TIME


@QUICK
@given(REPORT, REPORT, META)
def test_a_drain_hears_whatever_a_worker_reports(first: Any, second: Any, meta: Any) -> None:
    for book in (
        drain.Drain(["w@a", "x@a"], 10.0),
        drain.Cancel(["w@a", "x@a"], 10.0),
        drain.Resume({"w@a": ["q"], "x@a": ["q"]}, 10.0),
    ):
        for now, report in enumerate((first, second)):
            book.hear("w@a", report, float(now), 1e9)
            book.take_results({"1": meta}, {"1": 50.0}, unix, float(now))
        # The other one is judged as if nothing had been.
        for now in (2.0, 3.0):
            book.hear("x@a", {"active_queues": [], "active": [], "reserved": []}, now, 1e9)
        again = type(book)({"w@a": ["q"], "x@a": ["q"]}, 10.0)
        again.recall(book)
        assert ("x@a" in book.summary(1e9)["done"]) == (type(book) is not drain.Resume)
        json.dumps(clean(book.summary(1e9)), allow_nan=False)


# Each queue costs an order a poll: the poll would not end in its time, and with it the deploy.
MANY_QUEUES = {"active_queues": [{"name": str(n)} for n in range(drain.MOST_QUEUES + 1)]}


@pytest.mark.parametrize(
    "report",
    [
        None,
        [],
        {"active_queues": None},
        {"active_queues": []},
        {**MANY_QUEUES, "active": [], "reserved": []},
    ],
    ids=lambda _: "",
)
def test_who_cannot_be_judged_falls_silent(report: Any) -> None:
    book = drain.Drain(["w@a", "x@a"], 10.0)
    assert book.hear("w@a", report, 1.0, 1e9) == []
    for now in (1.0, 2.0):
        book.hear("x@a", {"active_queues": [], "active": [], "reserved": []}, now, 1e9)
    book.expire(10.0)
    summary = book.summary(1e9)
    assert (summary["done"], summary["silent"]) == (["x@a"], ["w@a"])


@QUICK
@given(REPORT | st.dictionaries(st.sampled_from(["active", "stats", "reserved"]), JSON), JSON)
def test_a_look_at_a_pool_takes_whatever_it_answers(report: Any, registered: Any) -> None:
    limits = busy.own_limits(registered)
    pool = busy.pool_of(report, 1.0, 1e9, limits)
    fine = {"stats": {"pool": {"max-concurrency": 1}}, "active": [entry(1.0)], "active_queues": []}
    for looks in ([{"w@a": pool}] * 2 if pool else [], [{"x@a": busy.pool_of(fine, 1.0, 1e9, {})}]):
        verdict = busy.judge("q", "1", looks).as_dict()
        json.dumps(clean(verdict), allow_nan=False)
        busy.describe_busy(verdict, 1.0)


def test_sums_without_an_end_are_bounded() -> None:
    """Regression: int(inf), where each of the numbers is a finite one."""
    stats = {"pool": {"max-concurrency": 1e308}, "total": {"a": 1e308, "b": 1e308}}
    pool = busy.pool_of({"stats": stats, "active": [], "active_queues": []}, 1.0, 1e9, {})
    assert pool is not None
    assert pool.begun == pool.processes == busy.MOST_BEGUN


@QUICK
@given(REPORT, JSON, st.lists(st.tuples(st.text(max_size=3), JSON), max_size=3))
def test_answers_about_unacknowledged_tasks_are_judged(
    report: Any, other: Any, pairs: list[Any]
) -> None:
    replies = {method: [("w@a", reply), ("x@a", other)] for method, reply in report.items()}
    replies["ping"] = [("w@a", {"ok": "pong"}), ("x@a", other)]
    answers = stranded.Answers(replies, 2, ["w@a"], (*stranded.METHODS, "scheduled"))
    judged = stranded.Judgement()
    message = unacked.Message("t", (b"1.5", 0, 10, b"1", b"nap", b""))
    judged.add(message, answers)
    known, blind = stranded.known_ids([*pairs, *replies["active"]], ["w@a"])
    judged.settle(1, known)
    assert all(isinstance(why, str) for why in [*blind, *answers.blind])
    stranded.worth_a_look(other, {"w@a": report, "x@a": other}, 1e9)
    for found in (other, {"nodes": other, "held": 3, "restarted": other}, {"done": other}):
        stranded.suspected(found)
        assert isinstance(stranded_report.warning(found), str)
        assert all(isinstance(row, str) for row in stranded_report.rows(found))
    with contextlib.suppress(unacked.UnreadableError, UnicodeEncodeError):
        unacked.parts_of(other)


@QUICK
@given(JSON, META | JSON, JSON)
def test_stored_results_and_messages_are_judged(one: Any, meta: Any, body: Any) -> None:
    stale.outcome(entry(100.0), "w@a", meta, 50.0, unix)
    stale.outcome(one, "w@a", meta, 50.0, unix)
    stranded.ended_since(meta, 50.0, unix)
    tally = skew.Tally()
    parts = ({"headers": one}, {"headers": {}, "properties": one, "body": body}, one, [one, 1, 2])
    for part in parts:
        with contextlib.suppress(RecursionError, ValueError):  # nothing that JSON can be made of
            raw = json.dumps(part).encode()
            tally.add("q", raw)
            tally.add(skew.UNACKED, raw)
    for raw in (b"[" * 100_000, b'{"headers": {"task": ' + b"9" * 5000 + b"}}", b"\xff", b"NaN"):
        tally.add("q", raw)
    json.dumps(tally.summary(set(), ["q"]))


@QUICK
@given(st.dictionaries(st.sampled_from(["waiting", "unreadable", "partial", "unlisted"]), JSON))
def test_a_reading_of_another_container_is_judged(reading: dict[str, Any]) -> None:
    waiting = {"q": {"nap": 2, **dict(zip("abcdefghijk", NUMBERS, strict=False))}, "r": HUGE}
    for told in (reading, reading | {"waiting": waiting, "unreadable": {"q": HUGE}}):
        tally = skew.Tally.of_reading(told)
        summary = tally.summary(set(), ["x"])
        json.dumps(summary, allow_nan=False)
        assert all(0 <= number < 2**54 for number in summary["unknown"].values())
        assert skew.Tally.of_reading(tally.reading()).reading() == tally.reading()
    assert summary["unknown"]["nap"] == summary["orphaned"]["q"] - sum(
        number for name, number in summary["unknown"].items() if name != "nap"
    )


@QUICK
@given(REPORT, JSON)
def test_settings_and_rows_of_a_status_take_whatever_was_answered(report: Any, other: Any) -> None:
    names = ["w@a", "x@a"]
    nodes = {"w@a": report, "x@a": other}
    assert all(isinstance(one, str) for one in settings.settings_warnings(nodes, names))
    settings.restart_warning({"nodes": nodes, "restarted": other}, names, 1.0)
    settings.restart_warning(other, names, 1.0)
    for value in (nodes, other):
        status.worker_rows(value)
        status.stale_tasks(value)
        status.queue_rows(value, ["q"])
        status.queue_rows({"waiting": value, "partial": value, "orphaned": value}, ["q"])
        with contextlib.suppress(RecursionError, ValueError):
            status.dead_letter_rows(json.dumps(value))


@QUICK
@given(st.dictionaries(st.sampled_from(sorted(SHAPES)), REPORT | JSON), JSON)
def test_answers_are_findings_of_their_node(methods: dict[str, Any], other: Any) -> None:
    expect = {"nodes": ["w@a", "x@a"], "count": 2, "no_foreign_nodes": True, "time_limit": 1}
    expect |= {"registered": ["t"], "accept_content": ["json"], "pools": {"w": {"concurrency": 2}}}
    replies = {method: [{"w@a": reply}, other] for method, reply in methods.items()}
    replies["ping"] = [{"w@a": {"ok": "pong"}}, {"x@a": other}]
    reply = {"replies": replies, "seconds": other, "held": other, "restarted": other}
    reply["unreadable"] = other
    result = report_inspection(reply, expect, ["w@a"])
    json.dumps(clean(result), allow_nan=False)
    for canary in ({"state": "SUCCESS", "result": other}, {"state": "BUSY", "why": other}, other):
        report_canaries({"queues": {"q": canary}}, ["w@a"])
        reply["canary"] = {"queues": {"q": canary}}
        key_warnings(report_inspection(reply, expect, ["w@a"]))
    key_warnings(other)


@given(SAMPLES)
def test_a_shape_is_of_numbers_that_are_some(value: Any) -> None:
    assert isinstance(like(value, 0.0), float)
    assert like({"a": value}, {EACH: 0.5}).get("a", 0.5) == pytest.approx(like(value, 0.5))


@pytest.mark.parametrize("value", SHAPELESS, ids=lambda _: "")
def test_what_leaves_the_container_can_be_printed(value: Any) -> None:
    """Regression: a reply within the limits of JSON was too deep for the masking of secrets."""
    shown = clean(serve.redact({"replies": [value, "a secret"]}, ["secret"]))
    assert "***" in json.dumps(shown, allow_nan=False)


RAWS = (
    "[" * 100_000,
    "no json",
    '{"body": {}}',
    "9" * 5000,
    '{"status": "SUCCESS"}',
    "[1]",
    "null",
)


class Published:
    """A subscription with what was published, and `raw` for ever behind it if there is any."""

    def __init__(self, messages: list[str], flood: str = "") -> None:
        self.messages, self.flood = messages, flood

    def get_message(self, timeout: float) -> Any:
        data = self.messages.pop(0) if self.messages else self.flood
        return {"data": data, "channel": b"c"} if data else None


@pytest.mark.parametrize("flood", ["", "no json"])
def test_the_ledger_counts_although_others_publish(monkeypatch: Any, flood: str) -> None:
    """Regression: the first message that was no JSON ended the counting without numbers."""
    stray = json.dumps({"task_id": "another", "status": "FAILURE"})
    odd = json.dumps({"task_id": ["mine"], "status": {}})
    mine = json.dumps({"task_id": "mine", "status": "SUCCESS"})
    monkeypatch.setattr(ledger_probe, "LISTEN", 0.05)
    deleted: list[Any] = []
    client = SimpleNamespace(delete=deleted.append)
    counted = Ledger()
    counted.sent("mine", "q")
    app = SimpleNamespace(backend=SimpleNamespace(client=client))
    subscription = ledger_probe.Subscription(app, "p")
    subscription.pubsub = Published([*RAWS, stray, odd, mine], flood)
    subscription.listen(counted)
    assert counted.summary([]) | {"stranded": 0} == {
        **dict.fromkeys(("refused", "failed", "waiting", "stranded", "lost", "twice"), 0),
        **{"accepted": 1, "finished": 1},
    }
    assert deleted == [b"c"]


def test_a_result_that_cannot_be_read_is_a_finding_of_its_canary() -> None:
    class AwayError(Exception):
        """The backend does not answer."""

    def app(found: Any) -> Any:
        def get_task_meta(_task_id: str) -> Any:
            if isinstance(found, BaseException):
                raise found
            return found

        return SimpleNamespace(
            backend=SimpleNamespace(get_task_meta=get_task_meta, connection_errors=(AwayError,))
        )

    for found in (
        RecursionError(),
        ValueError(),
        None,
        [],
        {"status": "SUCCESS", "result": deep()},
    ):
        assert canary_probe.result_of(app(found), "1")["status"] in ("FAILURE", "SUCCESS")
    fine = {"status": "SUCCESS", "result": {"worker": "w@a"}}
    assert canary_probe.result_of(app(fine), "1") == fine
    with pytest.raises(AwayError):
        canary_probe.result_of(app(AwayError()), "1")


def test_a_poll_goes_on_behind_replies_that_are_none() -> None:
    """Regression: `[` 100,000 times in a reply queue ended each deploy and its undo."""
    client = object.__new__(drain_probe.PollClient)
    client.reports, client.client, client.messages = [], None, 0
    turns = [RecursionError(), ValueError(), TypeError(), IndexError(), None]

    def drain_events(timeout: float) -> None:
        turn = turns.pop(0)
        if turn:
            raise turn
        client.reports.append(("w@a", {}))

    client.connection = SimpleNamespace(drain_events=drain_events)
    assert client.collect({"w@a"}, {"w@a"}, 5.0) == [("w@a", {})]
    assert client.messages == 4


def test_what_cannot_be_decompressed_ends_no_question(monkeypatch: Any) -> None:
    """Regression: kombu raises it past the consumer's callback unless that takes decode errors."""
    made: list[dict[str, Any]] = []

    def consumer(*_arguments: Any, **options: Any) -> Any:
        made.append(options)
        return SimpleNamespace(consume=lambda: None)

    channel = SimpleNamespace()
    connection = SimpleNamespace(
        default_channel=channel, transport=SimpleNamespace(driver_type="redis")
    )
    mailbox = SimpleNamespace(reply_queue="q", accept=None)
    replies = SimpleNamespace(mailbox=mailbox)
    monkeypatch.setitem(sys.modules, "kombu.messaging", SimpleNamespace(Consumer=consumer))
    monkeypatch.setattr(control, "connected", lambda *_: connection)
    monkeypatch.setattr(control, "Replies", lambda *_: replies)
    control.ControlClient(None, 1.0)
    assert made[0]["on_decode_error"]("message", ValueError("incorrect header check")) is None
