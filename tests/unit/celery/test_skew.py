"""How queues of any length are read: names, windows, shares of the time, and what is told."""

from __future__ import annotations

import json
from itertools import pairwise

import celery_skew
import deploy_ledger
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery import skew as skew_module
from ansible_collections.crisper.stack.plugins.module_utils.celery.skew import (
    Tally,
    ends_in_time,
    quick_name,
    shares,
    spread,
)
from ansible_collections.crisper.stack.plugins.module_utils.probes import skew as skew_probe
from backlog import message
from hostile_messages import RAWS, naive
from hypothesis import given
from hypothesis import strategies as st


@given(st.lists(RAWS, max_size=10))
def test_the_quick_way_says_what_parsing_says(raws):
    tally = Tally()
    for raw in raws:
        tally.add("one", raw)
    assert tally.reading() == naive(raws)
    held = Tally()
    for raw in raws:
        held.add("unacked", b"[" + raw + b', "", "one"]')
    assert held.waiting.get("unacked", {}) == tally.waiting.get("one", {})


def test_what_kombu_writes_is_read_the_quick_way():
    plain = json.dumps(message("app.one", "one", '"task": "evil"')).encode()
    assert quick_name(plain) == "app.one"
    assert quick_name(json.dumps(message("größe")).encode()) is None  # escaped: parsed instead
    assert quick_name(b"[" + plain, 1) == "app.one"


@given(st.integers(0, 3000), st.integers(0, 5000), st.integers(1, 700))
def test_windows_cover_everything_once(start, length, size):
    firsts = list(spread(start, start + length, size))
    assert sorted(firsts) == list(range(start, start + length, size))


@given(st.integers(8, 2000))
def test_whenever_it_is_broken_off_the_windows_lie_everywhere(number):
    firsts = list(spread(0, number, 1))
    taken = 8
    gaps = sorted([0, *firsts[:taken], number])
    widest = max(b - a for a, b in pairwise(gaps))
    assert widest <= 2 * number / taken + 1


def test_order_is_kept_as_long_as_it_ends_in_time():
    assert ends_in_time(10, 1000, 0.4, 1.0)  # slow so far, but the time is not half over
    assert ends_in_time(600, 1000, 0.55, 1.0)
    assert not ends_in_time(400, 1000, 0.55, 1.0)
    assert not ends_in_time(1000, 900, 1.0, 1.0)  # they come in quicker than they are read


@given(st.dictionaries(st.text(max_size=3), st.integers(1, 10**6), max_size=8), st.integers(0, 99))
def test_shares_of_the_time_are_for_all(lengths, last):
    given_shares = list(shares(lengths, last))
    assert [lengths[key] for key, _ in given_shares] == sorted(lengths.values())
    left = 1.0
    for _, share in given_shares:
        assert 0 < share <= 0.95
        left *= 1 - share
    assert left > 0  # something is left for what workers hold


def test_names_without_end_are_bounded(monkeypatch):
    monkeypatch.setattr(skew_module, "MOST_NAMES", 3)
    tally = Tally()
    for number in range(10):
        tally.count("one", f"dynamic.{number}", 2)
    tally.count("one", "dynamic.0", 1)
    assert tally.summary(set(), [])["waiting"] == {
        "one": {"(more names)": 14, "dynamic.0": 3, "dynamic.1": 2, "dynamic.2": 2}
    }


# --- reading a list, by a clock of the test's own ------------------------------------------


class Queue:
    """A list in a server that reads 1,000 messages a second, and the reader of it."""

    def __init__(self, monkeypatch, number):
        self.now = 0.0
        self.length = number
        self.seen = set()
        self.tally = Tally()
        self.client = self
        self.arrivals = 0  # with every window
        monkeypatch.setattr(skew_probe.time, "monotonic", lambda: self.now)

    def llen(self, key):
        return self.length

    def window(self, queue, key, start, size):
        read = max(0, min(size, self.length - start))
        # The oldest has number 0 and lies at the end.
        self.seen.update(self.length - 1 - place for place in range(start, start + read))
        self.now += read / 1000
        self.length += self.arrivals
        return read, read * 1000, read < size


@pytest.mark.parametrize("number", [1, 15, 16, 17, 5000])
def test_a_list_that_can_be_read_in_time_is_read_completely(monkeypatch, number):
    queue = Queue(monkeypatch, number)
    queue.arrivals = 3
    skew_probe.read_list(queue, "one", "one", number, 60)
    assert queue.seen >= set(range(number))
    assert queue.tally.partial == {}


def test_of_a_longer_one_a_sample_is_read_and_told(monkeypatch):
    queue = Queue(monkeypatch, 100_000)
    skew_probe.read_list(queue, "one", "one", 100_000, 40)
    assert queue.now <= 43  # the last window may end late
    part = queue.tally.partial["one"]
    assert (part["of"], part["read"]) == (100_000, len(queue.seen))
    assert 38_000 < part["read"] < 43_000
    # Of the oldest half, too: a window in each tenth of it.
    for tenth in range(0, 50_000, 5000):
        assert queue.seen & set(range(tenth, tenth + 5000)), tenth


def test_a_short_list_is_complete_though_no_time_is_left(monkeypatch):
    queue = Queue(monkeypatch, 10)
    skew_probe.read_list(queue, "one", "one", 10, 0.0)
    assert (len(queue.seen), queue.tally.partial) == (10, {})


# --- the module ----------------------------------------------------------------------------

READING = {
    "waiting": {"one": {"app.one": 7}, "two": {"app.two": 1}},
    "unreadable": {},
    "partial": {"one": {"read": 7, "of": 1_000_000}},
    "unlisted": False,
}


@pytest.fixture
def warnings(monkeypatch):
    """What the module warns of."""
    found: list[str] = []
    monkeypatch.setattr(celery_skew.AnsibleModule, "warn", lambda _, text: found.append(text))
    return found


def skew(run_module, **options):
    given = {"app": "x", "container": "c", "docker_cli": "/nowhere/docker", "budget": 5}
    return run_module(celery_skew, **(given | options))


def test_what_was_read_already_is_judged_without_a_container(run_module, warnings):
    result = skew(run_module, reading=READING, known=["app.one", "app.two"], queues=["one"])
    assert (result["unknown"], result["orphaned"]) == ({}, {"two": 1})
    assert result["reading"] == READING
    assert any(
        "Read within 5 s: queue one: 7 of 1,000,000 messages. Task names in the rest are not known."
        in warning
        for warning in warnings
    )


def test_a_name_that_is_not_known_is_asked_about(run_module):
    result = skew(run_module, reading=READING, known=["app.one"])
    assert (result["failed"], result["problem"]) == (True, "docker_unavailable")
    result = skew(run_module, reading=READING, known=["app.one"], known_is_all=True)
    assert (result["problem"], result["unknown"]) == ("unknown_tasks", {"app.two": 1})


def test_an_unlisted_broker_and_many_names_are_told(run_module, warnings):
    names = {f"gone.{number:03}": 1 for number in range(50)}
    reading = {"waiting": {"one": names}, "unreadable": {}, "partial": {}, "unlisted": True}
    skew(run_module, reading=reading, known_is_all=True, allow_unknown=True)
    told = str(warnings)
    assert "gone.019 (1) and 30 more names" in told
    assert "gone.020" not in told
    assert "queues of other releases were looked for among a part of them only" in told


@pytest.mark.parametrize("budget", [0, -1, 60])
def test_a_budget_is_more_than_nothing_and_less_than_the_timeout(run_module, budget):
    result = skew(run_module, budget=budget, timeout=60)
    assert result["failed"]
    assert "budget is" in result["msg"]


# --- what the ledger hands over ------------------------------------------------------------

COMPLETE = {**READING, "partial": {}, "unknown": {}, "orphaned": {}, "problem": "", "error": ""}


@pytest.mark.parametrize(
    ("reply", "all_known"),
    [
        (COMPLETE, True),
        (COMPLETE | {"partial": READING["partial"]}, False),
        (COMPLETE | {"unlisted": True}, False),
        (COMPLETE | {"unknown": {"gone": 1}}, False),
        (COMPLETE | {"orphaned": {"two": 1}}, False),
    ],
)
def test_the_ledger_hands_over_what_it_read(monkeypatch, reply, all_known):
    requests = []
    monkeypatch.setattr(
        deploy_ledger,
        "run",
        lambda _command, _modules, request, _limit: requests.append(request) or reply,
    )
    params = {"docker_cli": "docker", "python": "python", "app": "x", "queues": [], "known": ["a"]}
    told = deploy_ledger.read_queues(params, "container")
    assert told["all_known"] is all_known
    assert told["reading"] == {key: reply[key] for key in celery_skew.READING}
    # What celery_skew's probe needs is in the request, and the reading ends before the alarm.
    assert 0 < requests[0]["budget"] < requests[0]["timeout"]


def test_a_ledger_that_read_nothing_hands_nothing_over(monkeypatch):
    trouble = {"problem": "broker_unreachable", "error": "no"}
    monkeypatch.setattr(deploy_ledger, "run", lambda *_: trouble)
    params = {"docker_cli": "docker", "python": "python", "app": "x", "queues": [], "known": ["a"]}
    assert deploy_ledger.read_queues(params, "container") == deploy_ledger.UNREAD
