"""A release with more workers than the processors can start at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import compose_rollout
import pytest

PROGRAM = """#!/usr/bin/env python3
import json, sys
from pathlib import Path
folder, arguments = Path({folder!r}), sys.argv[1:]
records = json.loads((folder / "records").read_text())
if arguments[0] == "ps":
    print(*records)
elif arguments[:2] == ["container", "inspect"]:
    for record in records.values():  # each is starting until somebody has looked at it
        record["State"]["Health"]["Status"] = "healthy"
    looked = {{name: records[name] for name in arguments[2:]}}
    asked = json.loads((folder / "records").read_text())
    print(json.dumps([asked[name] for name in looked]))
    (folder / "records").write_text(json.dumps(records))
elif "up" in arguments and "--dry-run" not in arguments:
    starting = [r for r in records.values() if r["State"]["Health"]["Status"] == "starting"]
    wanted = dict(word.split("=") for word in arguments if "=" in word)
    added = 0
    for service, number in wanted.items():
        mine = [r for r in records.values() if r["Config"]["Labels"][{service!r}] == service]
        for index in range(len(mine), int(number)):
            added += 1
            name = f"{{service}}-{{index}}"
            labels = {{{service!r}: service, {release!r}: "r2", "crisper.pool": "default"}}
            if service == "backend":
                del labels["crisper.pool"]
            state = {{"Status": "running", "ExitCode": 0, "Health": {{"Status": "starting"}}}}
            records[name] = {{"Id": name, "Name": "/" + name, "State": state}}
            records[name]["Config"] = {{"Labels": labels}}
    (folder / "records").write_text(json.dumps(records))
    with (folder / "told").open("a") as told:
        print(json.dumps({{"added": added, "starting": len(starting), **wanted}}), file=told)
"""
NAMES = {"service": "com.docker.compose.service", "release": "crisper.release"}


@pytest.fixture
def start(run_module: Any, tmp_path: Path) -> Any:
    """Run the phase `start` with so many workers; the result and each call of `up`."""

    def run(workers: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        services = {
            "backend": {"kind": "web", "replicas": 1},
            "celery-worker": {"kind": "worker", "replicas": workers},
        }
        program, told = tmp_path / "docker", tmp_path / "told"
        if not program.exists():
            (tmp_path / "records").write_text("{}")
            program.write_text(PROGRAM.format(folder=str(tmp_path), **NAMES))
            program.chmod(0o755)
        told.write_text("")
        given = {"phases": ["start"], "project_src": str(tmp_path), "project_name": "demo"}
        given |= {"release": "r2", "services": services, "docker_cli": str(program)}
        answer = run_module(compose_rollout, **given)
        return answer, [json.loads(line) for line in told.read_text().splitlines()]

    return run


def test_the_next_batch_starts_when_half_of_those_that_start_work(start: Any) -> None:
    """Regression: 50 workers started at once, and some had no heartbeat in time."""
    together = 4 * len(os.sched_getaffinity(0))
    workers = 2 * together + 1
    answer, told = start(workers)
    assert answer["changed"]
    assert not answer.get("failed")
    # Web and all workers but the last two, then half as many a time.
    assert [each["added"] for each in told] == [together, *[together // 2] * 2, 2]
    assert max(each["starting"] for each in told) <= together // 2
    assert told[0]["backend"] == "1"
    assert told[-1]["celery-worker"] == str(workers)


def test_nothing_is_started_where_there_are_too_many(start: Any) -> None:
    start(3)
    answer, told = start(2)
    assert not answer.get("failed")
    assert told == []
