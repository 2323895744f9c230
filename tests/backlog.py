"""Many messages as Celery and kombu write them, made inside Redis; and hostile ones."""

from __future__ import annotations

import base64
import json
from typing import Any

ID = "@ID@"  # stands for a different id in each message
# KEYS: a list. ARGV: the message with `ID` in it, how many, the number of the first one.
FILL = """
for i = tonumber(ARGV[3]), tonumber(ARGV[3]) + ARGV[2] - 1 do
  local id = string.format('%08x-0000-4000-8000-%012x', i, i)
  redis.call('LPUSH', KEYS[1], (string.gsub(ARGV[1], '@ID@', id)))
end
return redis.call('LLEN', KEYS[1])
"""
AT_ONCE = 10_000


def message(task: str, queue: str = "one", *args: Any, **headers: Any) -> dict[str, Any]:
    """Return a waiting task, in the order in which Celery and kombu write it."""
    body = [list(args), {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    return {
        "body": base64.b64encode(json.dumps(body).encode()).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {
            **{"lang": "py", "task": task, "id": ID, "shadow": None, "eta": None},
            **{"expires": None, "group": None, "group_index": None, "retries": 0},
            **{"timelimit": [None, None], "root_id": ID, "parent_id": None},
            **{"argsrepr": repr(args), "kwargsrepr": "{}", "origin": "gen1@backlog"},
            **{"ignore_result": True, "replaced_task_nesting": 0},
            **{"stamped_headers": None, "stamps": {}, **headers},
        },
        "properties": {
            "correlation_id": ID,
            "reply_to": "5b0c5d0e-3a3c-4b7a-9c53-7f3f0e1c9a55",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
            "delivery_tag": ID,
        },
    }


def fill(client: Any, key: str, raw: str, number: int, first: int = 0) -> None:
    """Push `number` messages into the list `key`; 1,000,000 take some seconds."""
    for start in range(first, first + number, AT_ONCE):
        count = min(AT_ONCE, first + number - start)
        client.eval(FILL, 1, key, raw, count, start)
