"""Load a stack from outside until a file appears, then tell what came of it as JSON.

    load.py URL STOP_FILE [--rate 100] [--beside PATH] [--tasks-per-second 4] [--longest 20]
            [--always 0] [--queues default] [--settle 90]

Requests are made by `hey`: RATE a second of URL/health, and beside them two a second of another
path, by default slow ones of 3 s. Tasks of 0.1 to 20 s go through POST URL/api/load-test/tasks and
are counted by what they leave (app/backend/load_test.py): every accepted one must be there once.
With `--always` one task of so many seconds is always running beside them.

    {"requests": {"sent": …, "failed": …, "errors": [...], "paths": {"/health": {…}, …}},
     "tasks": {"run": …, "accepted": …, "refused": …, "lost": …, "missing": [...], "twice": …,
               "doubled": …}}

`run` begins the numbers of this run's tasks, `twice` ran to their end more than once, `doubled`
have more than one effect.
"""

from __future__ import annotations

import argparse
import itertools
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
SLOW = "/api/load-test/slow?seconds=3"


# The stack is this machine's own: no proxy of the environment stands between.
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def call(url: str, body: Any = None, token: str = "") -> Any:
    """JSON from JSON."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data, headers)  # noqa: S310
    with DIRECT.open(request, timeout=30) as answer:
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


def ask(url: str, what: str, otherwise: dict[str, int]) -> dict[str, int]:
    """One of the load test's counts, or `otherwise` while nobody answers."""
    try:
        return call(f"{url}/api/load-test/{what}")
    except OSError:
        return otherwise


def produce(url: str, stop: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Queue tasks until `stop` is there; wait for their marks."""
    begun, run = time.monotonic(), uuid.uuid4().hex[:8]
    mix = [seconds for seconds in MIX if seconds <= arguments.longest]
    accepted: list[str] = []
    refused, chance, long_due = 0, random.Random(7), begun  # noqa: S311
    for queue in itertools.cycle(arguments.queues.split(",")):
        if stop.exists() or time.monotonic() - begun > LONGEST:
            break
        due = time.monotonic() + 1.0
        first = len(accepted) + refused
        names = [f"{run}-{first + n}" for n in range(max(1, round(arguments.tasks_per_second)))]
        batch = {"tasks": {name: chance.choice(mix) for name in names}, "queue": queue}
        if arguments.always and time.monotonic() >= long_due:
            long_due += arguments.always
            names.append(f"{run}-long{first}")
            batch["tasks"][names[-1]] = arguments.always
        try:
            call(f"{url}/api/load-test/tasks", batch)
            accepted += names
        except OSError:
            refused += len(names)  # said so: the sender knows, nothing was promised
        time.sleep(max(0.0, due - time.monotonic()))
    marks: dict[str, int] = {}
    deadline = time.monotonic() + arguments.settle
    while time.monotonic() < deadline:
        marks = ask(url, "marks", marks)
        if all(name in marks for name in accepted):
            break
        time.sleep(1)
    time.sleep(3)  # a second run of the last ones would show now
    marks = ask(url, "marks", marks)
    effects = ask(url, "effects", {})
    missing = [name for name in accepted if effects.get(name, 0) == 0]
    return {
        "run": run,
        "accepted": len(accepted),
        "refused": refused,
        "lost": len(missing),
        "missing": missing[:20],
        "twice": sum(marks.get(name, 0) > 1 for name in accepted),
        "doubled": sum(effects.get(name, 0) > 1 for name in accepted),
    }


def main() -> None:
    """Run until the file is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("stop", type=Path)
    parser.add_argument("--rate", type=float, default=100)
    parser.add_argument("--beside", default=SLOW, help="path of the other requests")
    parser.add_argument("--tasks-per-second", type=float, default=4)
    parser.add_argument("--longest", type=float, default=max(MIX), help="seconds of a task")
    parser.add_argument(
        "--always", type=float, default=0, help="seconds of the one that always runs"
    )
    parser.add_argument("--queues", default="default", help="names, with commas")
    parser.add_argument("--settle", type=float, default=90, help="seconds for what runs at the end")
    arguments = parser.parse_args()
    fast = hey(f"{arguments.url}/health", arguments.rate, 10)
    slow = hey(f"{arguments.url}{arguments.beside}", 2, 8)
    try:
        tasks = produce(arguments.url, arguments.stop, arguments)
    finally:
        for process in (fast, slow):
            process.send_signal(signal.SIGINT)  # hey tells what it has seen
    reports = [report(process.communicate(timeout=60)[0]) for process in (fast, slow)]
    requests = {
        "sent": sum(r["sent"] for r in reports),
        "slow": reports[1]["sent"],
        "failed": sum(r["failed"] for r in reports),
        "errors": [error for r in reports for error in r["errors"]],
        "paths": dict(zip(("/health", arguments.beside), reports, strict=True)),
    }
    json.dump({"requests": requests, "tasks": tasks}, sys.stdout)


if __name__ == "__main__":
    main()
