"""List the tasks that were set aside, put them back into their queues, or drop them.

    python /opt/crisper-guard aside --app project list [--json]
    python /opt/crisper-guard aside --app project requeue ID [ID ...]
    python /opt/crisper-guard aside --app project drop ID [ID ...]

Exit code 0: done; 1: an id is not set aside, or Redis is away; 2: usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import datetime, timezone
from typing import Any

from celery import Celery
from celery.app.utils import find_app
from redis.exceptions import RedisError, ResponseError

from crisper_worker.dead_letters import DeadLetter
from crisper_worker.lease import open_app_store
from crisper_worker.lease_state import TRANSPORTS, broker_of
from crisper_worker.lease_store import LeaseStore
from crisper_worker.oom_bypass import is_refusal
from crisper_worker.text import printable

# Bytes of a list, and characters of each text in it: who reads it takes no more than 8 MB.
MOST_BYTES, MOST_TEXT = 4_000_000, 300
# Seconds that the clock of a worker may be ahead of this one.
DAY = 86400.0


def described(entry: DeadLetter) -> str:
    """Return one line for people."""
    at = datetime.fromtimestamp(entry.at, timezone.utc).isoformat(timespec="seconds")
    text = f"{entry.task_id}  {at}  {entry.task}  queue {entry.source}: {entry.reason}"
    return printable(text)


def rows(entries: Iterable[DeadLetter]) -> list[dict[str, Any]]:
    """Return what a list says of dead letters, newest first; no message, and long texts cut.

    Whoever writes into Redis makes entries of any size and time: none may hide the others.
    """
    now, room, found = time.time(), MOST_BYTES, []
    for entry in sorted(entries, key=lambda e: e.at if 0 <= e.at <= now + DAY else 0, reverse=True):
        row: dict[str, Any] = {"at": entry.at, "deliveries": entry.deliveries}
        for name in ("task_id", "task", "source", "reason"):
            row[name] = str(getattr(entry, name))[:MOST_TEXT]
        room -= len(json.dumps(row))
        if room < 0:
            break
        found.append(row)
    return found


def show(store: LeaseStore, as_json: bool) -> None:
    """Print what is set aside, for people the oldest first."""
    entries = list(store.dead_letters.entries().values())
    if as_json:
        print(json.dumps(rows(entries)))
        return
    for entry in entries:
        print(described(entry))


def act(app: Celery, store: LeaseStore, action: str, ids: Sequence[str]) -> list[str]:
    """Requeue or drop; what is requeued is PENDING again.

    Returns:
        A sentence for each id with which that could not be done.
    """
    entries = store.dead_letters.entries()
    missing: list[str] = []
    failed: list[str] = []
    by_shown = {printable(name): entry for name, entry in entries.items()}
    for task_id in ids:
        entry = entries.get(task_id) or by_shown.get(task_id)
        if entry is None:
            missing.append(task_id)
            continue
        if action == "requeue":
            if not entry.readable:
                failed.append(f"{printable(task_id)} is no message that can run; `drop` forgets it")
                continue
            try:
                app.backend.forget(task_id)
                done = store.dead_letters.requeue(entry)
            except ResponseError as error:
                if is_refusal(error):
                    raise
                failed.append(f"{printable(task_id)} was not requeued: {printable(str(error))}")
                continue
        else:
            done = store.dead_letters.drop(entry)
        if done:
            print(f"{action}: {described(entry)}")
        else:
            missing.append(task_id)
    return failed + [
        f"{printable(task_id)} is not set aside; `list` shows what is" for task_id in missing
    ]


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(prog="python /opt/crisper-guard aside", description=__doc__)
    top.formatter_class = argparse.RawDescriptionHelpFormatter
    top.add_argument("--app", "-A", required=True, help="the Celery application, as for celery -A")
    commands = top.add_subparsers(dest="action", required=True)
    commands.add_parser("list").add_argument("--json", action="store_true")
    for action in ("requeue", "drop"):
        commands.add_parser(action).add_argument("ids", nargs="+", metavar="ID")
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says.

    Returns:
        The exit code.
    """
    options = parser().parse_args(arguments)
    app = find_app(options.app)
    broker = broker_of(app)
    if broker not in TRANSPORTS and options.action == "list":
        print("[]" if options.json else f"The broker is {broker}: nothing is set aside.")
        return 0
    if broker not in TRANSPORTS:
        print(f"the broker of {options.app} is {broker}; only Redis is known", file=sys.stderr)
        return 1
    try:
        store = open_app_store(app)
        if options.action == "list":
            show(store, options.json)
            return 0
        problems = act(app, store, options.action, options.ids)
    except (RedisError, OSError) as error:
        print(f"Redis does not answer: {error}", file=sys.stderr)
        return 1
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0
