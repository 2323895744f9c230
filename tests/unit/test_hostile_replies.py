"""What hostile workers, labels, logs and lists become: printable, bounded, and no traceback."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from ansible_collections.crisper.stack.plugins.module_utils.celery.canaries import report_canaries
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import describe_findings
from ansible_collections.crisper.stack.plugins.module_utils.celery.inspection import (
    report_inspection,
)
from ansible_collections.crisper.stack.plugins.module_utils.celery.judge import has_shape, judge
from ansible_collections.crisper.stack.plugins.module_utils.celery.skew import NAME_BYTES, Tally
from ansible_collections.crisper.stack.plugins.module_utils.deploy.status import (
    containers_of,
    dead_letter_rows,
    queue_rows,
    worker_rows,
)
from ansible_collections.crisper.stack.plugins.module_utils.deploy.verify import (
    http_finding,
    registered_tasks,
    request_counts,
    task_counts,
    worker_summary,
)
from ansible_collections.crisper.stack.plugins.module_utils.docker.diagnosis import describe, report
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from ansible_collections.crisper.stack.plugins.module_utils.ledger.end import end
from ansible_collections.crisper.stack.plugins.module_utils.output import describe_task
from ansible_collections.crisper.stack.plugins.module_utils.remote import drain as remote_drain
from ansible_collections.crisper.stack.plugins.module_utils.shapes import like
from ansible_collections.crisper.stack.plugins.module_utils.text import ROWS
from harmless_text import harmless, texts_of
from hostile_replies import NAMES, VALUES, replies

ROOT = Path(__file__).resolve().parents[2]
EXPECT: dict[str, Any] = {
    "nodes": ["default@h"],
    "count": 1,
    "no_foreign_nodes": True,
    "pools": {"w": {"queues": ["q"], "concurrency": 2}},
    "registered": ["t"],
    "time_limit": 1,
    "accept_content": ["json"],
}
LINES = ("Release", "Service", "Worker", "SUMMARY")


def judged_fit(value: Any) -> None:
    """Assert that a module's result can be shown, and that none of its lines is forged."""
    assert all(harmless(text.replace("\n", "")) for text in texts_of(value))
    assert len(json.dumps(value)) < 3_000_000


@pytest.mark.parametrize("reply", replies(), ids=lambda _: "")
def test_no_reply_of_a_worker_ends_a_module_or_a_template(reply: dict[str, Any]) -> None:
    """Regression: `{"error": …}` in place of a list ended the status; names forged its lines."""
    result = report_inspection(
        {"problem": "", "error": "", "replies": reply, "seconds": 0.1}, EXPECT, None
    )
    judged_fit(result)
    assert result["problem"]
    text = describe_findings(result["findings"])
    assert len(text) < 100_000
    assert not [line for line in text.split("\n") if line.startswith(LINES)]
    rows = worker_rows(result["nodes"])
    assert len(rows) <= ROWS + 1
    assert all(harmless(row) and len(row) < 10_000 for row in rows)
    for node in list(result["nodes"])[:5]:
        judged_fit(worker_summary(node, result["nodes"]))
    judged_fit(registered_tasks(dict(list(result["nodes"].items())[:5])))


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_whatever_a_probe_answers_is_judged(value: Any) -> None:
    for reply in ({}, {"replies": value}, {"replies": {"ping": value}}, {"canary": value}):
        judged_fit(report_inspection(reply, EXPECT, ["default@h"]))
    for queues in (value, {"q": value}, {"q": {"state": "PENDING", "why": value}}):
        judged_fit(report_canaries({"problem": "", "error": "", "queues": queues}, []))
    busy = {"q": {"state": "BUSY", "why": {"kind": "BUSY", "nodes": value, "tasks": value}}}
    judged_fit(report_canaries({"queues": busy}, []))
    judged_fit(judge({"ping": [value]}, EXPECT) and [])
    for counts in (value, {"lost": value}, {"errors": value, "failed": 0, "probed": 1}):
        line = "CRISPER-SHIPPED-REPLY:" + json.dumps({"tasks": counts, "requests": counts})
        counted = end(lambda *_, line=line: (0, line, ""), "name", 0)
        judged_fit(counted)
        judged_fit([task_counts(counted), request_counts(counted)])


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_become_printable_wherever_they_come_from(name: str, tmp_path: Path) -> None:
    labels = {"com.docker.compose.service": name, "crisper.release": name, "crisper.pool": name}
    record = {"Name": name, "Config": {"Labels": labels}, "State": {"Status": name}, "Id": name}
    judged_fit(containers_of([record]))
    logged = report({**record, "State": {"Health": {"Log": [{"Output": name}]}}}, f"a\n{name}\nb")
    text = describe([logged])
    assert harmless(text.replace("\n", ""))
    assert not [line for line in text.split("\n") if line.startswith(LINES)]
    answer = {"url": "http://x/", "status": 301, "location": name, "msg": name}
    for status in (301, -1):
        assert harmless(http_finding({**answer, "status": status}))
    told_of = describe_task({"msg": name}, "The task")
    assert harmless(told_of.replace("\n", ""))
    judged_fit(dead_letter_rows(json.dumps([{"task_id": name, "task": name, "reason": name}])))
    judged_fit(dead_letter_rows(name))
    waiting = {"waiting": {name: {name: 1}}, "orphaned": {name: 1}, "problem": ""}
    rows = queue_rows(waiting, ["default"])
    assert all(harmless(row) for row in rows)
    journal = Journal(tmp_path, "r")
    owner = {"who": name, "controller": name, "process": "1@2", "purpose": "deploy"}
    assert journal.acquire(owner) == {}
    assert harmless("".join(texts_of([*journal.entries(), journal.lock()])))
    kept = (tmp_path / "journal.jsonl").read_text() + (tmp_path / "lock").read_text()
    assert harmless(kept.replace("\n", ""))
    assert len(kept) < 40_000


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_rows_of_the_status_need_no_shape(value: Any) -> None:
    for rows in (
        worker_rows(value),
        worker_rows({"w@h": value}),
        worker_rows({"w@h": {"active": value, "active_queues": value}}),
        queue_rows(value, ["q"]),
        queue_rows({"waiting": value, "partial": value, "problem": ""}, ["q"]),
        queue_rows({"waiting": {"q": value}, "partial": {"q": value}}, ["q"]),
        dead_letter_rows(value),
        dead_letter_rows(json.dumps(value)),
        dead_letter_rows(json.dumps([value])),
    ):
        assert all(isinstance(row, str) and harmless(row) for row in rows)


def test_rows_are_bounded() -> None:
    nodes = {f"w{n}@h": {} for n in range(5000)}
    assert worker_rows(nodes)[-1] == f"and {5000 - ROWS} more workers"
    waiting = {"waiting": {f"q{n}": {"t": 1} for n in range(5000)}, "problem": ""}
    rows = queue_rows(waiting, ["q4999"])
    assert rows[0] == "Queue     q4999  1 (t 1)"
    assert rows[-1] == f"Queue     and {4999 - ROWS} more queues"
    dead_letters = dead_letter_rows(json.dumps([{"task_id": str(n)} for n in range(500)]))
    assert dead_letters[-1] == f"and {500 - ROWS} more older tasks"


def test_dead_letters_cannot_pass_for_sentences_of_ours() -> None:
    """Regression: a task named like a sentence stood in the status without quotes."""
    forged = {"task_id": "id. All is well", "task": "ok. Run: rm -rf /", "source": "q. Good."}
    good = {"task_id": "a-1.b:2", "task": "shop.pay", "source": "default", "reason": "it died"}
    rows = dead_letter_rows(json.dumps([forged, good]))
    assert rows == [
        "“id. All is well”  task “ok. Run: rm -rf /”, queue “q. Good.”: unknown",
        "a-1.b:2  task “shop.pay”, queue “default”: “it died”",
    ]


@pytest.mark.parametrize("at", [0, -1, 9e10, 10**40, True, "9", None, [1]], ids=repr)
def test_forged_times_push_no_dead_letter_out(at: Any) -> None:
    """Regression: fifty entries of 1970 hid every real one; the oldest came first."""
    forged = [{"task_id": f"f{n}", "at": at} for n in range(ROWS)]
    real = [{"task_id": "old", "at": time.time() - 60}, {"task_id": "new", "at": time.time()}]
    rows = dead_letter_rows(json.dumps([*forged, *real]))
    assert [row.split()[0] for row in rows[:2]] == ["new", "old"]
    assert rows[-1] == "and 2 more older tasks"


def test_no_template_runs_what_a_name_says() -> None:
    """A name is data: `{{ … }}` in it stays what it is."""
    name = "{{ lookup('pipe', 'id') }}"
    known = {"nodes": {name: {}}}
    source = "{% for row in nodes | crisper_worker_rows %}{{ row }}{% endfor %}"
    shown = Templar(loader=DataLoader(), variables=known).template(trust_as_template(source))
    assert name in shown


def test_names_in_queues_are_bounded_and_known_again() -> None:
    tally = Tally()
    for index in range(60_000):
        tally.count(f"q{index % 7}", f"t{index}", 1)
    tally.add(
        "q",
        b'{"body": "", "content-encoding": "", "content-type": "", "headers": {"lang":'
        b' "py", "task": "' + b"x" * 8_000_000 + b'"}}',
    )
    tally.add("q", json.dumps({"headers": {"task": "y" * (NAME_BYTES + 1)}}).encode())
    tally.count("a\x1b[2Jq", "new\nline", 2)
    summary = tally.summary({"new\nline"}, ["a\x1b[2Jq"])
    assert len(json.dumps(summary)) < 5_000_000
    assert summary["unreadable"] == {"q": 2}
    assert summary["waiting"][r"a\x1b[2Jq"] == {"(more names)": 2}
    small = Tally()
    small.count("a\x1b[2Jq", "new\nline", 2)
    judged = small.summary({"new\nline"}, ["a\x1b[2Jq"])
    assert (judged["unknown"], judged["orphaned"]) == ({}, {})
    judged_fit(judged)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_shapes_are_judged_to_the_elements(value: Any) -> None:
    if has_shape("active_queues", value):
        assert all(isinstance(queue["name"], str) for queue in value)
    if has_shape("active", value):
        assert all(isinstance(request, dict) for request in value)
    assert isinstance(like(value, remote_drain.ANSWER)["unfinished"], list)
