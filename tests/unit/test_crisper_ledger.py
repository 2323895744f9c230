"""What the ledger counts as finished, lost and run twice."""

from __future__ import annotations

from ansible.module_utils.crisper_ledger import Ledger, Requests
from hypothesis import given
from hypothesis import strategies as st

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


def test_requests_are_counted_by_their_error():
    requests = Requests()
    for error in ("", "HTTP 502", "", "HTTP 502", "ConnectionResetError"):
        requests.saw(error)
    assert requests.summary() == {
        "probed": 5,
        "failed": 3,
        "errors": {"ConnectionResetError": 1, "HTTP 502": 2},
    }
