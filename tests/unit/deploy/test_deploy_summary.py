"""What the summary of a deploy says that it changed, and which checks it could not make."""

from __future__ import annotations

from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.summary import (
    UNCHANGED,
    answer_words,
    changes_made,
    page_words,
    picked_up,
    unchecked_warnings,
)

STEP = {"service": "beat", "action": "create", "reason": "no container yet"}
FINE = {"users": {"shared": []}, "refusals": {"refused": [], "problem": ""}}


@pytest.mark.parametrize(
    ("reports", "sentences"),
    [
        (({}, {}, {}, {}), [UNCHANGED]),
        (({"changes": []}, {"changed": False}, {"changed": False}, {"roles": {}}), [UNCHANGED]),
        (({"changes": [STEP]}, {}, {}, {}), ["containers of beat: created (no container yet)"]),
        (({}, {"changed": True}, {}, {}), ["certificate of the entry point: installed"]),
        (({}, {}, {"changed": True}, {}), ["firewall rules of the stack: installed"]),
        (({}, {}, {}, {"started": True}), ["data services: started or recreated"]),
        (
            ({}, {}, {}, {"upgraded": {"from": "16", "to": "17"}}),
            ["data of PostgreSQL: upgraded to version 17"],
        ),
    ],
)
def test_each_change_is_a_sentence(reports: tuple[Any, ...], sentences: list[str]) -> None:
    assert changes_made(*reports) == sentences


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ((False, False, False), ""),
        ((False, False, True), ""),
        ((True, False, False), "this run took the maintenance page away"),
        ((True, True, False), "--tags maintenance_off"),
        ((False, True, False), "visitors see the maintenance page"),
        ((False, True, True), "shown for the upgrade"),
    ],
)
def test_the_page_is_named_where_it_was_or_is_shown(
    page: tuple[bool, bool, bool], words: str
) -> None:
    text = page_words(*page)
    assert words in text
    assert bool(text) is bool(words)


@pytest.mark.parametrize(
    ("run", "resumed", "changed", "words"),
    [
        ({}, True, True, "r1, cut off in step migrate: resumed"),
        ({}, False, False, "r1, cut off in step migrate: reverted"),
        ({"purpose": "deploy"}, False, True, "r1, cut off in step migrate: replaced"),
        (
            {"open": True},
            False,
            True,
            "the deploy r1, which failed and could not be undone, after step migrate: replaced",
        ),
        # Regression: a restore that had failed was said to be cut off.
        (
            {"purpose": "restore", "open": True},
            False,
            False,
            "the restore r1, which failed, after step migrate: its release serves",
        ),
        (
            {"purpose": "restore"},
            False,
            True,
            "the restore r1, which was cut off in step migrate: another release serves",
        ),
    ],
)
def test_what_became_of_an_earlier_run(
    run: dict[str, Any], resumed: bool, changed: bool, words: str
) -> None:
    assert picked_up({"run": "r1", "step": "migrate", **run}, resumed, changed) == words


def test_the_answers_of_the_site_are_named_by_status() -> None:
    answers = [
        {"ok": True, "status": 200, "url": "https://app.example/"},
        {"ok": True, "status": 204, "url": "https://app.example/up"},
        {"ok": True, "status": 200, "url": "https://app.example:8443/api/health"},
        {"ok": False, "status": 503, "url": "https://app.example/x"},
    ]
    assert answer_words(answers) == "answered 200 at /, /api/health; 204 at /up"
    assert answer_words([]) == ""


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ({"users": {"msg": "The containers were not listed: no engine"}}, "no engine”"),
        ({"users": {"msg": "", "module_stderr": "Traceback\n  a\nKeyError: 'Pid'\n"}}, "KeyError"),
        ({"users": {}}, "the module returned no 'shared'"),
        ({"refusals": {"msg": "killed\x1b[2J"}}, "Redis refused could not be read: “killed"),
        ({"refusals": {"refused": [], "problem": "ACL LOG was not read"}}, "“ACL LOG was not"),
    ],
)
def test_a_check_that_failed_is_a_warning(results: dict[str, Any], words: str) -> None:
    """Regression: a crash of these modules was reported nowhere."""
    (text,) = unchecked_warnings({**FINE, **results})
    assert words in text
    assert "\x1b" not in text


def test_checks_that_ended_are_no_warning() -> None:
    assert unchecked_warnings(FINE) == []
