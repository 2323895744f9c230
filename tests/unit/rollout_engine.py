"""An engine of a file, its workers and a Docker client, before which M(compose_rollout) runs whole.

Each container is a record of ``docker container inspect``. The rest of the state, with its default
in `STATE`:

* ``answers``: by container id, what is answered in a worker's name: ``good``, ``nonsense``,
  ``silent``, ``twice`` (a bad answer before its own) or ``forger`` (nonsense in the name of all
  others too); ``later`` for workers that are started from now on.
* ``health`` of containers that are started; ``healths`` by service, at one look after the other.
* ``pings``: whether workers are heard by a ping. ``holds``: old nodes that are not drained.
* ``strangers``: how often somebody else answers too; ``canary_lost``: and the canary fails then.
* ``sick_after``: a container that becomes unhealthy when another one is stopped.
* ``tells``: by container, answers of others that change when it is stopped: ``shrunk`` (a process
  less than wanted) or ``limited`` (takes no canary).
* ``refused``: a part of a Docker command that fails.
"""

from __future__ import annotations

import ast
import copy
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
SERVICE_NAMES = ("backend", "celery-worker", "celery-beat", "nginx")

CLIENT = """
import fcntl, os, sys
from _json import encode_basestring_ascii as quote
# Without json, whose import takes longer than all else here: a rollout is some thirty commands.
words = sys.argv[1:]
os.chdir(FOLDER)
guard = open("guard", "a")

def note(name, line):
    with open(name, "a") as log:
        print(line, file=log)

def load():
    with open("state") as file:
        return eval(file.read())

def save(state):
    with open("new", "w") as file:
        file.write(repr(state))
    os.replace("new", "state")

def as_json(value):
    if isinstance(value, dict):
        return "{" + ",".join(quote(k) + ":" + as_json(v) for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(as_json, value)) + "]"
    return quote(value) if isinstance(value, str) else str(value)

def labels(record):
    return record["Config"]["Labels"]

def create(state, service):
    import time

    state["made"] += 1
    name = f"n{state['made']}"
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 5))
    own = {"com.docker.compose.service": service, "crisper.release": state["release"]}
    if service.startswith("celery-worker"):
        own["crisper.pool"] = POOL
    health = {"Status": state["health"]}
    state["records"][name] = {
        "Id": name, "Name": "/" + name, "Created": now, "Config": {"Labels": own},
        "State": {"Status": "running", "ExitCode": 0, "Health": health},
        "healths": list(state["healths"].get(service, []))}
    state["answers"][name] = state["later"]

def up(state):
    scales = {n: int(v) for n, _, v in (w.partition("=") for w in words) if v.isdigit()}
    after = words[words.index("up") + 1:]
    services = [word for word in after if word in SERVICE_NAMES]
    for service in services:
        mine = [n for n, r in state["records"].items()
                if labels(r)["com.docker.compose.service"] == service]
        for name in mine:
            state["records"][name]["State"]["Status"] = "running"  # as Compose does
        for _ in range(len(mine), scales.get(service, 1)):
            create(state, service)

def inspect(state, names):
    found = [state["records"][name] for name in names if name in state["records"]]
    for record in found:
        if record.get("healths"):
            record["State"]["Health"]["Status"] = record["healths"].pop(0)
    return found

def workers(state):
    found = {}
    for name, record in state["records"].items():
        pool = labels(record).get("crisper.pool")
        if pool and record["State"]["Status"] == "running":
            node = f"{pool}@{HOST}-{labels(record)['crisper.release']}-{name[:12]}"
            found[node] = state["answers"][name]
    return found

def replies(state, request, told):
    found, present = {}, workers(state)
    named = list(present) if request["everybody"] else request["destination"]
    for method in request["methods"]:
        good, bad = GOOD.get(method, []), {"ok": 1}
        messages = found[method] = []
        for node, kind in present.items():
            if kind == "forger":
                messages += [{other: bad} for other in named if other != node]
            if node not in named or kind == "silent" or node in told:
                continue
            if kind == "twice":
                messages += [{node: bad}]
            own = good
            if kind == "shrunk" and method == "stats":
                own = {"pool": {**good["pool"], "max-concurrency": 1}}
            messages += [{node: bad if kind == "nonsense" and method != "ping" else own}]
    if request["everybody"] and state["strangers"] > 0:
        found["ping"].append({"stranger@elsewhere": {"ok": "pong"}})
    return found

def canaries(state, request):
    lost = {"state": "FAILURE", "result": "lost"}
    back = {"state": "SUCCESS", "result": {}}
    entry = lost if state["canary_lost"] and state["strangers"] > 0 else back
    if "limited" in workers(state).values():
        entry = {"state": "PENDING", "result": None}
    entry = {"task_id": "1", "seconds": 0.1, **entry}
    return {"problem": "", "error": "", "queues": {q: entry for q in request["queues"]}}

def session():
    import json

    told, strangers = set(), load()["strangers"]
    sys.stdin.buffer.read(int(sys.stdin.buffer.readline()))
    for line in sys.stdin.buffer:
        request, state = json.loads(line), load()
        state["strangers"] = strangers
        answer = {"problem": "", "error": "", "number": request["number"]}
        if request["command"] == "answering":
            answer["answering"] = request["nodes"] if state["pings"] else []
        elif request["command"] == "cancel_consumers":
            old = request["nodes"]
            told.update(old)
            done = [node for node in old if node not in state["holds"]]
            answer |= {"left": old, "done": done, "queues": {node: ["default"] for node in old}}
            answer["replies"] = replies(state, request["verify"], told) if request["verify"] else {}
        else:
            answer |= {"replies": replies(state, request, told), "seconds": 0.1, "held": 0}
            if request["canary"]:
                answer["canary"] = canaries(state, request["canary"])
            strangers -= request["everybody"]
        if request["command"] != "answering":
            everybody = request["command"] == "verify" and request["everybody"]
            canary = " with canaries" if request.get("canary") else ""
            note("questions", ("ask" if everybody else request["command"]) + canary)
        print(MARKER + json.dumps(answer), flush=True)

note("commands", " ".join(words[:-1] if "-c" in words else words))
if words[0] == "exec":
    session()
    sys.exit()
fcntl.flock(guard, fcntl.LOCK_EX)
state = load()
if state["refused"] and state["refused"] in " ".join(words):
    print("no such command", file=sys.stderr)
    sys.exit(1)
if words[0] == "ps":
    print(*state["records"])
elif words[0] == "logs":
    print("the last line of", words[-1])
elif words[:2] == ["container", "inspect"]:
    print(as_json(inspect(state, words[2:])))
elif "up" in words and "--dry-run" not in words:
    up(state)
elif words[0] == "stop":
    for name in words[1:]:
        if name in state["records"]:
            state["records"][name]["State"]["Status"] = "exited"
        state["answers"].update(state["tells"].get(name, {}))
        if sick := state["sick_after"].get(name):
            state["records"][sick]["State"]["Health"]["Status"] = "unhealthy"
elif words[0] == "rm":
    for name in words[1:]:
        state["records"].pop(name, None)
save(state)
"""
STATE: dict[str, Any] = {
    "records": {},
    "answers": {},
    "made": 0,
    "release": "r1",  # of containers that Compose starts
    "later": "good",
    "health": "healthy",
    "healths": {},
    "pings": True,
    "holds": [],
    "strangers": 0,
    "canary_lost": False,
    "sick_after": {},
    "tells": {},
    "refused": "",
}


class RolloutEngine:
    """The engine's state in a folder, and the module before it."""

    def __init__(self, folder: Path, run_module: Callable[..., dict[str, Any]]) -> None:
        self.folder, self.run_module = folder, run_module
        self.client = folder / "docker"
        values = {"FOLDER": str(folder), "MARKER": MARKER, "POOL": POOL, "HOST": HOST}
        values |= {"GOOD": GOOD, "SERVICE_NAMES": SERVICE_NAMES}
        lines = [f"{name} = {value!r}" for name, value in values.items()]
        self.client.write_text("\n".join([f"#!{sys.executable} -IS", *lines, CLIENT]))
        self.client.chmod(0o755)
        self.state = copy.deepcopy(STATE)

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
        (self.folder / "state").write_text(repr(self.state))
        for log in ("commands", "questions"):
            (self.folder / log).write_text("")
        workers = {"app": APP, "expect": EXPECT, "timeout": 1.0}
        given = {"phases": list(phases), "project_src": str(self.folder), "project_name": "demo"}
        given |= {"release": "r1", "services": SERVICES, "docker_cli": str(self.client)}
        answer = self.run_module(
            compose_rollout,
            **{**given, "host": HOST, "workers": workers, "wait_timeout": 5, **options},
        )
        self.state = ast.literal_eval((self.folder / "state").read_text())
        return answer

    @property
    def containers(self) -> list[str]:
        """Ids of what is there."""
        return sorted(self.state["records"])

    @property
    def commands(self) -> list[str]:
        """The Docker commands of the last run."""
        return (self.folder / "commands").read_text().splitlines()

    @property
    def questions(self) -> list[str]:
        """Questions to the workers in the last run: ``cancel_consumers``, ``verify``, ``ask``."""
        return (self.folder / "questions").read_text().splitlines()
