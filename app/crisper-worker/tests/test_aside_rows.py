"""A list of dead letters has all of them, whatever somebody has put between them."""

from __future__ import annotations

import json
import time
from typing import Any

from crisper_worker.aside import MOST_BYTES, rows
from crisper_worker.dead_letters import DeadLetter


def letter(name: str, at: float, **given: Any) -> DeadLetter:
    values = {"task": "die", "reason": "died 2 times", "source": "celery", "message": {"body": ""}}
    return DeadLetter(task_id=name, at=at, deliveries=2, **{**values, **given})


def test_a_large_message_hides_no_other() -> None:
    """Regression: the list was longer than what its reader takes, and none was shown."""
    now = time.time()
    large = letter("large", now, message={"body": "x" * 9_000_000}, reason="x" * 9_000_000)
    found = rows([letter("real", now - 60), large])
    assert [row["task_id"] for row in found] == ["large", "real"]
    assert "message" not in found[1]
    assert len(json.dumps(found)) < 10_000


def test_entries_of_any_time_push_none_out() -> None:
    now = time.time()
    flood = [letter("x" * 300, at, task="\x00" * 300) for at in (4e9, float("nan"), -1.0)] * 3000
    found = rows([*flood, letter("real", now - 60)])
    assert found[0]["task_id"] == "real"
    assert len(json.dumps(found)) < 2 * MOST_BYTES
