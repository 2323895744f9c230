"""One list of findings: no finding that only follows from another one."""

from __future__ import annotations

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.model.findings import (
    merge_findings,
    refusal,
    subject,
)
from ansible_collections.crisper.stack.plugins.module_utils.model.option_types import Finding

LIST = Finding("a.list", "a.list is 'x': give a list.", whole=True)
NUMBER = Finding("a.number", "a.number is 'x': give a number.")
UNKNOWN = Finding("a.name", "a.name refers to x, which is not set.")


@pytest.mark.parametrize(
    ("unresolved", "types", "judged", "expected"),
    [
        ([], [LIST], ["a.list is 'x': give names."], [LIST.text]),
        ([], [LIST], ["a.list[0] is empty."], [LIST.text]),
        ([], [LIST], ["a.lists is empty."], [LIST.text, "a.lists is empty."]),
        # The one that knows what the value is for.
        ([], [NUMBER], ["a.number is 'x': give a port."], ["a.number is 'x': give a port."]),
        ([], [NUMBER], ["b is not a.number."], [NUMBER.text, "b is not a.number."]),
        ([UNKNOWN], [], ["a.name is '': give a name."], [UNKNOWN.text]),
        ([UNKNOWN], [], ["a has no name."], [UNKNOWN.text]),
        ([UNKNOWN], [], ["b differs from a.name."], [UNKNOWN.text]),
        ([UNKNOWN], [], ["a.names is empty."], [UNKNOWN.text, "a.names is empty."]),
        ([UNKNOWN], [Finding("a.name", "a.name is 1.")], [], [UNKNOWN.text]),
        # A default that refers to a variable which cannot be resolved.
        ([UNKNOWN, Finding("b", "")], [], ["b is missing."], [UNKNOWN.text]),
    ],
)  # fmt: skip
def test_what_follows_from_another_finding_is_left_out(
    unresolved: list[Finding], types: list[Finding], judged: list[str], expected: list[str]
) -> None:
    assert [one.text for one in merge_findings(unresolved, types, judged)] == expected


@pytest.mark.parametrize(
    ("sentence", "place"),
    [
        ("celery_workers[0].queues is empty.", "celery_workers[0].queues"),
        ("stack_app.web.cpus is 'x'.", "stack_app.web.cpus"),
        ("stack_limits lacks memory.", "stack_limits"),
        ("a.b: it has no c.", "a.b"),
    ],
)
def test_a_sentence_begins_with_its_place(sentence: str, place: str) -> None:
    assert subject(sentence) == place


def test_a_refusal_has_a_number_for_each() -> None:
    lines = refusal(["a is 1.", "b is 2."]).splitlines()
    assert lines[0].startswith("2 finding(s)")
    assert "nothing on a server was changed" in lines[0]
    assert lines[1:3] == ["1. a is 1.", "2. b is 2."]
