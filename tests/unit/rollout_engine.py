"""An engine of a file, its workers and a Docker client, before which M(compose_rollout) runs whole.

Each container is a record of ``docker container inspect``. What is answered in the name of a worker
is in the state: by container id, ``good``, ``nonsense``, ``silent``, ``twice`` (an answer of its
own and a bad one before it) or ``forger`` (also answers nonsense in the name of all others).
`later` is what workers answer that are started from now on. `sick_after` names a container that
becomes unhealthy when another is stopped.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import compose_rollout

MARKER = "CRISPER-SHIPPED-REPLY:"
POOL, APP, HOST = "default", "demo", "app1"
SERVICES: dict[str, Any] = {
    "backend": {"kind": "web", "replicas": 1},
    "celery-worker": {"kind": "worker", "replicas": 2},
}
EXPECT: dict[str, Any] = {
    "pools": {POOL: {"queues": ["default"], "concurrency": 2}},
    "registered": ["health_check"],
}
GOOD: dict[str, Any] = {
    "ping": {"ok": "pong"},
    "active_queues": [{"name": "default"}],
    "registered": ["health_check"],
    "stats": {"pool": {"max-concurrency": 2, "timeouts": [3300, 3600]}},
    "conf": {},
}
LISTS = ("active", "reserved", "scheduled", "revoked")

CLIENT = """
import json, os, sys
words = sys.argv[1:]
os.chdir(FOLDER)
with open("commands", "a") as log:
    print(" ".join(words[:-1] if "-c" in words else words), file=log)

def load():
    with open("state.json") as file:
        return json.load(file)

def save(state):
    with open("new.json", "w") as file:
        json.dump(state, file)
    os.replace("new.json", "state.json")

def labels(record):
    return record["Config"]["Labels"]

def up(state, scales):
    import time

    for service, number in scales.items():
        mine = [r for r in state["records"].values()
                if labels(r)["com.docker.compose.service"] == service]
        for record in mine:
            record["State"]["Status"] = "running"  # as Compose does
        for _ in range(len(mine), number):
            state["made"] += 1
            name = f"n{state['made']}"
            now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
            own = {"com.docker.compose.service": service, "crisper.release": state["release"]}
            if service.startswith("celery-worker"):
                own["crisper.pool"] = POOL
            health = {"Status": state["health"]}
            state["records"][name] = {
                "Id": name, "Name": "/" + name, "Created": now, "Config": {"Labels": own},
                "State": {"Status": "running", "ExitCode": 0, "Health": health}}
            state["answers"][name] = state["later"]

def workers(state):
    found = {}
    for name, record in state["records"].items():
        pool = labels(record).get("crisper.pool")
        if pool and record["State"]["Status"] == "running":
            node = f"{pool}@{HOST}-{labels(record)['crisper.release']}-{name[:12]}"
            found[node] = state["answers"][name]
    return found

def replies(state, request):
    found, present = {}, workers(state)
    named = list(present) if request["everybody"] else request["destination"]
    for method in request["methods"]:
        good, bad = GOOD.get(method, []), {"ok": 1}
        messages = found[method] = []
        for node, kind in present.items():
            if kind == "forger":
                messages += [{other: bad} for other in named if other != node]
            if node not in named or kind == "silent":
                continue
            if kind == "twice":
                messages += [{node: bad}]
            messages += [{node: bad if kind == "nonsense" and method != "ping" else good}]
    return found

def session():
    sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
    for line in sys.stdin.buffer:
        request, state = json.loads(line), load()
        answer = {"problem": "", "error": "", "number": request["number"]}
        if request["command"] == "answering":
            answer["answering"] = request["nodes"]
        elif request["command"] == "leave":
            old = request["nodes"]
            answer |= {"left": old, "done": old, "queues": {node: ["default"] for node in old}}
            answer["replies"] = replies(state, request["prove"]) if request["prove"] else {}
        else:
            answer |= {"replies": replies(state, request), "seconds": 0.1, "held": 0}
        print(MARKER + json.dumps(answer), flush=True)

state = load()
if words[0] == "exec":
    session()
elif words[0] == "ps":
    print(*state["records"])
elif words[:2] == ["container", "inspect"]:
    print(json.dumps([state["records"][i] for i in words[2:] if i in state["records"]]))
elif "up" in words and "--dry-run" not in words:
    up(state, {n: int(v) for n, _, v in (w.partition("=") for w in words) if v.isdigit()})
    save(state)
elif words[0] == "stop":
    for name in words[1:]:
        if name in state["records"]:
            state["records"][name]["State"]["Status"] = "exited"
        if sick := state["sick_after"].get(name):
            state["records"][sick]["State"]["Health"]["Status"] = "unhealthy"
    save(state)
elif words[0] == "rm":
    for name in words[1:]:
        state["records"].pop(name, None)
    save(state)
"""


class RolloutEngine:
    """The engine's state in a folder, and the module before it."""

    def __init__(self, folder: Path, run_module: Callable[..., dict[str, Any]]) -> None:
        self.folder, self.run_module = folder, run_module
        self.client = folder / "docker"
        values = {"FOLDER": str(folder), "MARKER": MARKER, "POOL": POOL, "HOST": HOST}
        values["GOOD"] = GOOD
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        self.client.write_text("\n".join([f"#!{sys.executable} -IS", *lines, CLIENT]))
        self.client.chmod(0o755)
        self.state: dict[str, Any] = {"records": {}, "answers": {}, "made": 0, "sick_after": {}}
        self.state |= {"release": "r1", "later": "good", "health": "healthy"}

    def has(self, name: str, service: str, release: str, answers: str = "", **state: Any) -> None:
        """Put a container there that was made long ago."""
        labels = {"com.docker.compose.service": service, "crisper.release": release}
        if answers:
            labels["crisper.pool"] = POOL
        self.state["records"][name] = {
            "Id": name,
            "Name": f"/{name}",
            "Created": "2026-01-02T03:04:05.678Z",
            "Config": {"Labels": labels},
            "State": {"Status": "running", "ExitCode": 0, "Health": {"Status": "healthy"}, **state},
        }
        self.state["answers"][name] = answers

    def roll(self, *phases: str, **options: Any) -> dict[str, Any]:
        """Run the module; return its result."""
        (self.folder / "state.json").write_text(json.dumps(self.state))
        (self.folder / "commands").write_text("")
        workers = {"app": APP, "expect": EXPECT, "timeout": 1.0}
        given = {"phases": list(phases), "project_src": str(self.folder), "project_name": "demo"}
        given |= {"release": "r1", "services": SERVICES, "docker_cli": str(self.client)}
        answer = self.run_module(
            compose_rollout,
            **{**given, "host": HOST, "workers": workers, "wait_timeout": 5, **options},
        )
        self.state = json.loads((self.folder / "state.json").read_text())
        return answer

    @property
    def containers(self) -> list[str]:
        """Ids of what is there."""
        return sorted(self.state["records"])

    @property
    def commands(self) -> list[str]:
        """The Docker commands of the last run."""
        return (self.folder / "commands").read_text().splitlines()
