"""What the ledger counts as finished, lost and run twice."""

from __future__ import annotations

import http.server
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify import task_counts
from ansible_collections.crisper.stack.plugins.module_utils.ledger.counts import (
    TIMED_OUT,
    Ledger,
    Requests,
)
from ansible_collections.crisper.stack.plugins.module_utils.probes import ledger as probe
from hypothesis import given
from hypothesis import strategies as st
from ledger_cases import summary

STATES = st.sampled_from(["STARTED", "SUCCESS", "FAILURE", "RETRY", "PENDING"])


def test_every_accepted_task_is_finished_waiting_or_lost():
    ledger = Ledger()
    for name in ("done", "twice", "waiting", "lost"):
        ledger.sent(name)
    for name, state in (
        ("done", "STARTED"),
        ("done", "SUCCESS"),
        ("twice", "STARTED"),
        ("twice", "SUCCESS"),
        ("twice", "STARTED"),
    ):
        ledger.hear(name, state)
    summary = ledger.summary(["waiting"])
    assert summary == {
        "accepted": 4,
        "refused": 0,
        "finished": 2,
        "failed": 0,
        "waiting": 1,
        "stranded": 0,
        "lost": 1,
        "twice": 1,
    }


REGISTERED = [{"w@a": ["health", "nap [rate_limit=1/h]"]}]


@pytest.mark.parametrize(
    ("looks", "found"),
    [
        # Regression: a restart of Redis stranded sentinels, and the ledger told of none.
        ([{"active": ["a"], "reserved": []}] * 2, {"b", "c"}),
        ([{"active": ["a"], "reserved": ["b", "c"]}] * 2, set()),
        # In the second look one has begun, and one is acknowledged.
        ([{"active": ["a"], "reserved": []}, {"active": ["b"], "reserved": []}], {"c"}),
        ([{}] * 2, set()),
        ([{"limited": True, "active": [], "reserved": []}] * 2, set()),
    ],
)
def test_sentinels_that_no_worker_knows_are_told(looks, found, monkeypatch):
    rounds = iter(looks)

    def inspect(_app, _request):
        look = next(rounds, {})
        lists = {
            method: [{"w@a": [{"id": task_id} for task_id in look.get(method, [])]}]
            for method in ("active", "reserved")
        }
        ping = [{"w@a": {"ok": "pong"}}] if look else []
        limit = [{"w@a": ["health [rate_limit=1/h]"]}] if look.get("limited") else REGISTERED
        return {"replies": {**lists, "ping": ping, "registered": limit}}

    monkeypatch.setattr(probe, "inspect", inspect)
    monkeypatch.setattr(probe, "SETTLE", 0.0)
    sentinels = object.__new__(probe.Sentinels)
    sentinels.app, sentinels.request = None, {"task": "health"}
    sentinels.head = SimpleNamespace(find_unacked=lambda ids, _seconds: set(ids))
    assert sentinels._unknown({"a", "b", "c"}) == found
    ledger = Ledger()
    for name in "abc":
        ledger.sent(name)
    numbers = ledger.summary(["a", "b", "c"], found)
    assert (numbers["waiting"], numbers["stranded"], numbers["lost"]) == (3, len(found), 0)
    text = "of these unacknowledged and known to no worker that answered"
    assert (text in task_counts({"tasks": numbers})) is bool(found)


@given(st.lists(st.tuples(st.sampled_from("abcd"), STATES)), st.sets(st.sampled_from("abcd")))
def test_the_numbers_add_up(heard, waiting):
    ledger = Ledger()
    for name in "abc":
        ledger.sent(name)
    for name, state in heard:
        ledger.hear(name, state)
    told = ledger.summary(sorted(waiting))
    assert told["accepted"] == 3 == told["finished"] + told["waiting"] + told["lost"]
    assert told["twice"] <= told["accepted"]


def counted(statuses: list[int], expected: tuple[int, ...] = (200,)) -> dict:
    """The numbers after these answers, in this order; 0 is none within the time."""
    requests = Requests(expected)
    for status in statuses:
        requests.sent()
        requests.saw(status, "" if status else TIMED_OUT)
    return requests.summary()


@pytest.mark.parametrize(
    ("statuses", "errors", "normal"),
    [
        ([200] * 9, {}, [200]),
        # Regression: only what is 500 and more was counted: "0 failed", while users got 400.
        ([200] * 9 + [400] * 4, {"HTTP 400": 4}, [200]),
        ([200] * 9 + [404, 302, 429, 204], {f"HTTP {n}": 1 for n in (204, 302, 404, 429)}, [200]),
        ([200] * 9 + [0, 0, 503], {"HTTP 503": 1, TIMED_OUT: 2}, [200]),
        # An application that does not believe the scheme redirects, before and after.
        ([301] * 9 + [400], {"HTTP 400": 1}, [200, 301]),
        # What its health check demands is healthy, whatever was before.
        ([404] * 9 + [200] * 5, {}, [200, 404]),
        # The first answers may differ; later ones define nothing.
        ([200, 302, 200] + [302] * 5 + [404] * 2, {"HTTP 404": 2}, [200, 302]),
        ([200, 200, 200, 302], {"HTTP 302": 1}, [200]),
        # A stack that was broken before is broken.
        ([502, 502, 502, 502, 200], {"HTTP 502": 4}, [200]),
        ([0, 0, 0, 0], {TIMED_OUT: 4}, [200]),
    ],
)
def test_an_answer_of_another_kind_than_before_is_a_failure(statuses, errors, normal):
    assert counted(statuses) == {
        "probed": len(statuses),
        "failed": sum(errors.values()),
        "errors": dict(sorted(errors.items())),
        "normal": normal,
    }


@given(st.lists(st.sampled_from([0, 200, 204, 301, 400, 404, 500, 503])))
def test_every_request_is_good_or_failed(statuses):
    told = counted(statuses)
    good = sum(status in told["normal"] for status in statuses)
    assert told["probed"] == len(statuses) == good + told["failed"]


def test_a_request_that_is_not_answered_at_the_end_failed():
    requests = Requests([200])
    for _ in range(3):
        requests.sent()
    requests.saw(200)
    told = requests.summary()
    assert (told["probed"], told["failed"], told["errors"]) == (3, 2, {TIMED_OUT: 2})


# --- against a server ---------------------------------------------------------------------------


class Site(http.server.BaseHTTPRequestHandler):
    """Answers what the server says; every `hanging`-th request not at all."""

    def do_GET(self) -> None:
        server = self.server
        with server.lock:
            server.headers.append(dict(self.headers))
            number = len(server.headers)
        if server.hanging and number % server.hanging == 0:
            server.done.wait(30)
            return
        self.send_response(server.status)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def site(monkeypatch):
    monkeypatch.setattr(probe, "TIMEOUT", 1)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Site)
    server.daemon_threads = True
    server.lock, server.done = threading.Lock(), threading.Event()
    server.headers, server.hanging, server.status = [], 0, 200
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.done.set()
    server.shutdown()
    server.server_close()


@contextmanager
def probing(server: Any, **given: Any) -> Iterator[Requests]:
    """The prober at work."""
    request = {
        "host": "127.0.0.1",
        "port": server.server_address[1],
        "path": "/health",
        "certificates": "",
        "request_interval": 0.02,
        "site_host": "app.example",
        "site_scheme": "https",
        **given,
    }
    requests, stop = Requests([200]), threading.Event()
    thread = threading.Thread(target=probe.probe_requests, args=(request, requests, stop))
    thread.start()
    yield requests
    stop.set()
    thread.join(15)
    assert not thread.is_alive()


def test_requests_carry_host_and_scheme_of_the_site(site):
    with probing(site) as requests:
        time.sleep(0.3)
    told = requests.summary()
    assert told["probed"] == len(site.headers) > 3
    assert told["failed"] == 0
    assert {headers["Host"] for headers in site.headers} == {"app.example"}
    assert {headers["X-Forwarded-Proto"] for headers in site.headers} == {"https"}


def test_a_release_that_refuses_requests_is_seen(site):
    """Regression: 393 of 1,154 requests were answered 400, and the summary told 0 failed."""
    with probing(site) as requests:
        time.sleep(0.3)
        site.status = 400
        time.sleep(0.3)
    told = requests.summary()
    assert list(told["errors"]) == ["HTTP 400"]
    assert 3 < told["failed"] < told["probed"]


def test_a_request_that_hangs_holds_up_no_other(site):
    """Regression: while one request hung, which takes 10 s, no other was sent."""
    site.hanging = 4
    with probing(site) as requests:
        time.sleep(1.5)
        site.status = 404
        time.sleep(0.5)
    told = requests.summary()
    assert set(told["errors"]) == {TIMED_OUT, "HTTP 404"}, told
    assert told["probed"] > 40, "as many as if none hung"
    assert told["errors"][TIMED_OUT] == told["probed"] // 4


def test_when_everything_hangs_the_number_of_requests_is_bounded(site, monkeypatch):
    monkeypatch.setattr(probe, "SLOTS", 5)
    site.hanging = 1
    with probing(site) as requests:
        time.sleep(0.5)
        assert len(site.headers) == 5
    told = requests.summary()
    assert told["errors"] == {TIMED_OUT: told["probed"]}


def test_a_site_that_is_gone_is_counted_by_kind(site):
    with probing(site, port=1) as requests:
        time.sleep(0.2)
    assert list(requests.summary()["errors"]) == ["ConnectionRefusedError"]


# --- the summary --------------------------------------------------------------------------------


def test_the_summary_tells_busy_pools():
    busy = {"queue": "default", "text": "busy: 2 of 2 processes run nap, oldest 14 min"}
    assert "Queue     default busy: 2 of 2 processes run nap, oldest 14 min" in summary(
        verify_report={"busy": [busy]}
    )
    assert not [line for line in summary(verify_report={}) if line.startswith("Queue")]


@pytest.mark.parametrize(
    ("requests", "line"),
    [
        (counted([200] * 5), "Requests  5 probed, 0 failed"),
        (
            counted([200] * 5 + [400, 400, 0]),
            "Requests  8 probed, 3 failed (HTTP 400: 2, timed out: 1)",
        ),
        # As a ledger of before tells it.
        ({"probed": 2, "failed": 0, "errors": {}}, "Requests  2 probed, 0 failed"),
    ],
)
def test_the_summary_tells_failed_requests_by_kind(requests, line):
    assert line in summary(finish_counted={"requests": requests})


# --- sentinels ----------------------------------------------------------------------------------


class Backend:
    """A result backend whose answers the test gives; nothing of them is published."""

    def __init__(self) -> None:
        self.states: dict[str, str] = {}
        self.client = self

    def get_key_for_task(self, task_id: str) -> bytes:
        return task_id.encode()

    def get(self, key: bytes) -> bytes | None:
        state = self.states.get(key.decode())
        return json.dumps({"status": state}).encode() if state else None

    def delete(self, key: bytes) -> None:
        self.states.pop(key.decode())


class Head:
    """The head of queues: what is published, and what the workers hold."""

    def __init__(self, exact: bool = True) -> None:
        self.exact = exact
        self.queued: list[str] = []
        self.holding: set[str] = set()
        self.options: dict[str, Any] = {}

    def send(self, task: str, task_id: str, queue: str, **options: Any) -> None:
        self.queued.append(task_id)
        self.options = options

    def take_back(self, task_id: str) -> bool:
        found = self.exact and task_id in self.queued
        if found:
            self.queued.remove(task_id)
        return found

    def find_unacked(self, task_ids: Any, seconds: float) -> set[str] | None:
        return self.holding & set(task_ids) if self.exact else None

    def forget(self, task_id: str) -> None:
        pass


@pytest.fixture
def sentinels(monkeypatch):
    """Sentinels of a broker and a backend that the test plays."""

    monkeypatch.setattr(probe.Subscription, "listen", lambda *_: None)
    monkeypatch.setattr(probe, "SETTLE", 0.05)
    monkeypatch.setattr(probe, "STILL", 0.2)

    def begin(exact: bool = True) -> Any:
        app = SimpleNamespace(backend=Backend())
        found = probe.Sentinels(app, {"run": "1", "task": "health", "limit": 60}, Ledger())
        found.head = Head(exact)
        return found

    return begin


def test_no_more_than_three_sentinels_of_a_queue_are_open(sentinels):
    many = sentinels()
    for _ in range(10):
        many.send("one")
    many.send("two")
    assert len(many.head.queued) == len(many.ledger.accepted) == 4
    assert "expires" not in many.head.options


def test_ends_that_were_not_heard_make_room_again(sentinels):
    """Ends are published; while Redis is away nobody hears of them, and none was sent any more."""
    many = sentinels()
    for _ in range(3):
        many.send("one")
    many.app.backend.states = dict.fromkeys(many.ledger.accepted, "SUCCESS")
    many.send("one")
    assert many.ledger.ends == {}, "it may be told at this moment, and would count twice"
    many.send("one")
    assert set(many.ledger.ends.values()) == {1}
    many.send("one")
    assert len(many.ledger.accepted) == 4


def test_what_lies_in_a_queue_is_removed_and_not_waited_for(sentinels):
    many = sentinels()
    many.send("one")
    time.sleep(0.06)
    begun = time.monotonic()
    assert many.finish(20) == many.ledger.accepted
    assert time.monotonic() - begun < 1
    assert many.head.queued == []


def test_what_a_worker_holds_is_waited_for_while_tasks_end(sentinels):
    many = sentinels()
    many.send("one")
    many.head.queued, many.head.holding = [], set(many.ledger.accepted)
    begun = time.monotonic()
    assert many.finish(20) == many.ledger.accepted
    assert 0.15 < time.monotonic() - begun < 2

    many.send("one")
    ended = many.ledger.accepted[-1]
    many.head.queued, many.head.holding = [], set(many.ledger.accepted)
    threading.Timer(0.1, lambda: many.ledger.hear(ended, "SUCCESS")).start()
    assert ended not in many.finish(20)


def test_what_is_nowhere_is_waited_for_and_lost(sentinels):
    many = sentinels()
    many.send("one")
    many.head.queued = []
    begun = time.monotonic()
    assert many.finish(0.5) == []
    assert time.monotonic() - begun > 0.4
    assert many.ledger.summary([])["lost"] == 1


def test_with_another_broker_nothing_is_called_lost_that_cannot_be_found(sentinels):
    many = sentinels(exact=False)
    many.send("one")
    assert many.head.options["expires"] == 60
    assert many.finish(5) == many.ledger.accepted
