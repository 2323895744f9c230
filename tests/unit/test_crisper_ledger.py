"""What the ledger counts as finished, lost and run twice."""

from __future__ import annotations

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils import crisper_https, crisper_ledger
from ansible.module_utils import crisper_ledger_probe as probe
from ansible.module_utils.crisper_ledger import TIMED_OUT, Ledger, Requests
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
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
        "lost": 1,
        "twice": 1,
    }


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
    monkeypatch.setitem(sys.modules, "crisper_https", crisper_https)
    monkeypatch.setitem(sys.modules, "crisper_ledger", crisper_ledger)
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
    text = (ROOT / "roles/finish/templates/summary.txt.j2").read_text()
    values: dict[str, Any] = {
        "finish_release": {},
        "finish_drained": {},
        "stack_secrets_generate": False,
    }
    values |= {"finish_counted": {"requests": requests}, "finish_outcome": "new"}
    templar = Templar(loader=DataLoader(), variables=values)
    assert line in templar.template(trust_as_template(text)).splitlines()
