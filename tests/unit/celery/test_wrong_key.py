"""A key of a wrong type in Redis, for which workers take no task, is named as the cause."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.celery.busy import FREE, Verdict
from ansible_collections.crisper.stack.plugins.module_utils.celery.findings import REMEDIES
from ansible_collections.crisper.stack.plugins.module_utils.celery.inspection import (
    key_warnings,
    report_inspection,
)
from ansible_collections.crisper.stack.plugins.module_utils.probes import control
from ansible_collections.crisper.stack.plugins.module_utils.probes.redis_keys import REMOVAL

NODE = "default@h"
WRONG = "the key 'unacked_lease' in Redis is a string, and Celery's is a zset. Remove it: DEL"
WHY = Verdict(FREE, [NODE], 1, 0, [], 0.0).as_dict() | {"waited": 30.0}
LOST = {"task_id": "2", "state": "PENDING", "seconds": None, "result": None, "why": WHY}
BACK = {"task_id": "1", "state": "SUCCESS", "seconds": 0.1, "result": {"worker": NODE}}


def inspected(wrong: str, queues: dict[str, Any] | None = None) -> dict[str, Any]:
    """What the module returns, with those canaries."""
    reply = {
        "replies": {"ping": [{NODE: {"ok": "pong"}}]},
        "seconds": 0.1,
        "unreadable": wrong.split(REMOVAL),
    }
    reply |= {} if queues is None else {"canary": {"queues": queues}}
    return report_inspection(reply, {}, None if queues is None else [NODE])


def test_the_key_is_the_first_finding_and_canaries_follow_from_it() -> None:
    """Regression: the remedies were a restart and a longer timeout, which do not help."""
    result = inspected(WRONG, {"default": LOST, "io": {**LOST, "state": "FAILURE"}})
    (cause,) = result["findings"]
    assert cause["message"] == f"Workers take no task: {WRONG}"
    assert cause["remedy"] == REMEDIES["unreadable_data"]
    assert result["problem"] == "unreadable_data"
    untaken, failed = result["canary"]["findings"]
    assert untaken["message"] == "The canary in queue default did not come back."
    assert "follows from the key" in untaken["remedy"]
    assert "ended as FAILURE" in failed["message"]
    assert key_warnings(result) == []


@pytest.mark.parametrize("queues", [None, {"default": BACK}])
def test_a_key_that_stops_no_canary_is_a_warning(queues: dict[str, Any] | None) -> None:
    """Regression: the status said that all workers were healthy and idle."""
    result = inspected(WRONG, queues)
    assert (result["findings"], result["problem"]) == ([], "")
    (text,) = key_warnings(result)
    assert text.startswith(f"Workers may take no task: {WRONG}")
    assert "docs/CHECKLIST.md" in text


def test_the_command_is_whole_where_no_canary_could_be_sent() -> None:
    """Regression: the error of the canaries was cut in the middle of the command."""
    reply = {"replies": {"ping": [{NODE: {"ok": "pong"}}]}, "unreadable": WRONG.split(REMOVAL)}
    canary = {"problem": "unreadable_data", "error": f"{WRONG[:30]}…"}
    result = report_inspection({**reply, "canary": canary}, {}, [NODE])
    (finding,) = result["canary"]["findings"]
    assert finding["message"] == f"Workers take no task: {WRONG}"
    assert (result["findings"], key_warnings(result)) == ([], [])


def test_without_such_a_key_a_canary_has_its_own_words() -> None:
    result = inspected("", {"default": LOST})
    assert (result["findings"], key_warnings(result)) == ([], [])
    assert "did not take it" in result["canary"]["findings"][0]["message"]


def connection(kinds: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """A connection to a Redis with these keys; of others it knows no type."""

    class Client:
        def type(self, key: str) -> bytes:
            if kinds.get(key) == "refused":
                raise PermissionError(key)
            return kinds.get(key, "none").encode()

    monkeypatch.setattr(control, "plain_client", lambda _channel: Client())
    channel = SimpleNamespace(
        unacked_key="unacked",
        unacked_index_key="unacked_index",
        priority_steps=[0],
        _q_for_pri=lambda queue, _step: queue,
    )
    transport = SimpleNamespace(driver_type=kinds.get("driver", "redis"))
    return SimpleNamespace(default_channel=channel, transport=transport)


@pytest.mark.parametrize(
    ("kinds", "found"),
    [
        ({}, ""),
        ({"unacked": "hash", "q": "list"}, ""),
        ({"unacked_lease": "string"}, "the key 'unacked_lease' in Redis is a string"),
        ({"q": "set"}, "the key 'q' in Redis is a set"),
        # What is no answer ends no question to the workers.
        ({"unacked": "refused"}, ""),
        ({"driver": "amqp", "q": "set"}, ""),
    ],
)
def test_keys_of_queues_and_of_what_workers_hold_are_looked_at(
    kinds: dict[str, str], found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = control.unreadable_key(connection(kinds, monkeypatch), ["q", "q"])
    assert "".join(told[:1]).startswith(found)
    assert [" DEL " in text for text in told] == ([False, True] if found else [])
