"""Load a stack from outside until a file appears, then tell what came of it as JSON.

    load.py URL STOP_FILE [--rate 100] [--tasks-per-second 4]

Requests are made by `hey`: RATE a second of URL/health, and slow ones of 3 s beside them. Tasks
of 0.1 to 20 s go through POST URL/api/rehearsal/tasks and are counted by the marks they leave
(app/backend/rehearsal.py): every accepted one must be there once.

    {"requests": {"sent": …, "failed": …, "errors": [...]}, "tasks": {"accepted": …, "lost": …,
     "twice": …, "refused": …}}
"""

from __future__ import annotations

import argparse
import json
import random
import re
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path
from typing import Any

LONGEST = 1800  # seconds: no load goes on for ever
# Mostly short; one in forty is longer than a deploy's patience for idle workers.
MIX = [0.1] * 24 + [0.5] * 10 + [2.0] * 5 + [20.0]
SETTLE = 90  # seconds for what is still running at the end


def call(url: str, body: Any = None) -> Any:
    """JSON from JSON."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return json.loads(answer.read())


def hey(url: str, rate: float, workers: int) -> subprocess.Popen[str]:
    """Start `hey`: `workers` connections that make `rate` requests a second together."""
    command = ["hey", "-z", f"{LONGEST}s", "-t", "30", "-c", str(workers)]
    return subprocess.Popen(
        [*command, "-q", str(rate / workers), url], stdout=subprocess.PIPE, text=True
    )


def report(text: str) -> dict[str, Any]:
    """Numbers of hey's report: answers by status, and errors."""
    statuses = {
        int(status): int(count)
        for status, count in re.findall(r"\[(\d{3})\]\s+(\d+) responses", text)
    }
    errors = [
        (int(count), what) for count, what in re.findall(r"^\s+\[(\d+)\]\s+(\S.*)$", text, re.M)
    ]
    errors = [(count, what) for count, what in errors if not re.match(r"\d+ responses", what)]
    failed = sum(n for status, n in statuses.items() if status != 200)
    return {
        "sent": sum(statuses.values()) + sum(n for n, _ in errors),
        "failed": failed + sum(n for n, _ in errors),
        "errors": [f"{n} x {what}"[:300] for n, what in errors][:10]
        + [f"{n} x HTTP {status}" for status, n in statuses.items() if status != 200],
    }


def produce(url: str, stop: Path, per_second: float) -> dict[str, Any]:
    """Queue tasks until `stop` is there; wait for their marks."""
    begun, run = time.monotonic(), uuid.uuid4().hex[:8]
    accepted: list[str] = []
    refused, chance = 0, random.Random(7)  # noqa: S311
    while not stop.exists() and time.monotonic() - begun < LONGEST:
        due = time.monotonic() + 1.0
        names = [f"{run}-{len(accepted) + refused + n}" for n in range(max(1, round(per_second)))]
        try:
            call(f"{url}/api/rehearsal/tasks", {"tasks": {n: chance.choice(MIX) for n in names}})
            accepted += names
        except OSError:
            refused += len(names)  # said so: the sender knows, nothing was promised
        time.sleep(max(0.0, due - time.monotonic()))
    marks: dict[str, int] = {}
    deadline = time.monotonic() + SETTLE
    while time.monotonic() < deadline:
        marks = call(f"{url}/api/rehearsal/marks")
        if all(name in marks for name in accepted):
            break
        time.sleep(1)
    time.sleep(3)  # a second run of the last ones would show now
    marks = call(f"{url}/api/rehearsal/marks")
    return {
        "accepted": len(accepted),
        "refused": refused,
        "lost": sum(name not in marks for name in accepted),
        "twice": sum(marks.get(name, 0) > 1 for name in accepted),
    }


def main() -> None:
    """Run until the file is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("stop", type=Path)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--tasks-per-second", type=float, default=4)
    arguments = parser.parse_args()
    fast = hey(f"{arguments.url}/health", arguments.rate, 10)
    slow = hey(f"{arguments.url}/api/rehearsal/slow?seconds=3", 2, 8)
    try:
        tasks = produce(arguments.url, arguments.stop, arguments.tasks_per_second)
    finally:
        for process in (fast, slow):
            process.send_signal(signal.SIGINT)  # hey tells what it has seen
    reports = [report(process.communicate(timeout=60)[0]) for process in (fast, slow)]
    requests = {
        "sent": sum(r["sent"] for r in reports),
        "slow": reports[1]["sent"],
        "failed": sum(r["failed"] for r in reports),
        "errors": [error for r in reports for error in r["errors"]],
    }
    json.dump({"requests": requests, "tasks": tasks}, sys.stdout)


if __name__ == "__main__":
    main()
