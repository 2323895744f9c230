"""Findings of role verify, from the results of its checks."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify_findings import (
    staged_words,
    verify_findings,
)

SKIPPED = {"skipped": True}
STEP = {"service": "redis", "action": "keep", "reason": "is not healthy"}
ANSWER = {"url": "http://x/", "status": 200, "ok": True}
RESULTS: dict[str, Any] = {
    "release": "r2",
    "plan": {"steps": [STEP], "serving": "r2"},
    "web": True,
    "outside": {"answers": [ANSWER], "open": [], "address": "192.0.2.1"},
    "host": "",
    "inside": SKIPPED,
    "authority": "",
    "workers": {"findings": [], "canary": None},
    "uploads": {"rc": 0},
    "uploads_folder": "/app/media",
    "firewall": {"findings": []},
}


@pytest.mark.parametrize(
    "results",
    [
        {},
        {"uploads": SKIPPED, "firewall": SKIPPED},
        # A stack without web containers has no nginx that sends them requests.
        {"web": False, "plan": {"steps": [], "serving": ""}},
        # Of an older edition.
        {"plan": {"steps": []}},
        {"inside": {"answers": [ANSWER]}},
    ],
)
def test_checks_without_findings(results: dict[str, Any]) -> None:
    assert verify_findings({**RESULTS, **results}) == []


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({"plan": {"steps": [{**STEP, "action": "recreate"}]}}, "Service redis: is not healthy."),
        ({"plan": {"steps": [], "serving": "r1"}}, "nginx sends requests to release r1: "),
        ({"plan": {"steps": [], "serving": ""}}, "nginx sends requests to release none: "),
        ({"outside": {"answers": [], "open": [5432], "address": "x"}}, "Port 5432 of x answers"),
        ({"inside": {"failed": True}}, "(nginx_probe gave no answer)"),
        ({"workers": {"findings": [{"message": "a", "remedy": "b"}]}}, "a b"),
        ({"workers": {"failed": True}}, "celery_inspect gave no answer"),
        ({"workers": {"findings": [], "canary": {"findings": [{"message": "c"}]}}}, "c"),
        ({"uploads": {"failed": True}}, "cannot write to /app/media (stack_app.uploads)"),
        ({"firewall": {"findings": ["Containers reach 22"]}}, "Containers reach 22"),
        ({"firewall": {"failed": True, "msg": "no iptables"}}, "no iptables"),
    ],
)
def test_each_check_has_its_finding(results: dict[str, Any], words: str) -> None:
    (finding,) = verify_findings({**RESULTS, **results})
    assert words in finding


def test_what_follows_from_a_stopped_worker_has_no_remedy_of_its_own() -> None:
    """Regression: the inventory was to be changed, because a worker had been stopped."""
    step = {"service": "worker-a", "kind": "worker", "action": "create", "reason": "none runs"}
    lost = {"queue": "q", "message": "lost.", "remedy": "Change celery_workers."}
    count = {"code": "wrong_count", "message": "1 answers.", "remedy": "Compare replicas."}
    other = {"code": "wrong_serializers", "message": "json.", "remedy": "Set accept_content."}
    canary = {"queues": {"q": {"why": {"kind": "unconsumed"}}}, "findings": [lost]}
    workers = {"findings": [count, other], "canary": canary}
    plan = {"steps": [step], "serving": "r2"}

    first, *found = verify_findings({**RESULTS, "plan": plan, "workers": workers})

    follows = "This may follow from the service worker-a above: correct that first."
    assert "`docker compose up -d worker-a` in releases/r2 of the stack's folder" in first
    assert "--tags rollback -e release=r2." in first
    assert found == [f"1 answers. {follows}", "json. Set accept_content.", f"lost. {follows}"]
    alone = verify_findings({**RESULTS, "workers": workers})
    assert alone[0] == "1 answers. Compare replicas."


def test_findings_come_in_the_order_of_the_checks() -> None:
    wrong = {
        "plan": {"steps": [{**STEP, "action": "recreate"}], "serving": "r1"},
        "outside": {"answers": [{**ANSWER, "ok": False}], "open": [6379], "address": "x"},
        "uploads": {"rc": 1},
    }
    found = verify_findings({**RESULTS, **wrong})
    assert [text.split()[0] for text in found] == [
        "Service",
        "nginx",
        "http://x/",
        "The",
        "Port",
    ]


@pytest.mark.parametrize(
    ("release", "state", "words"),
    [
        ("r1", SKIPPED, ""),
        ("r1", {"staged": ""}, ""),
        ("r1", {"staged": "r1"}, "Release r1 serves and is not the current one yet"),
        ("r1", {"staged": "r2"}, "Release r2 is staged and not verified"),
        ("", {"staged": "r2"}, "This run verifies nothing"),
    ],
)
def test_what_is_said_of_a_staged_release(release: str, state: dict[str, Any], words: str) -> None:
    said = staged_words(release, state)
    assert words in said
    assert bool(words) is bool(said)
