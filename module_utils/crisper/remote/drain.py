"""Have a container of the application drain workers, or make them resume."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ..probes import drain as drain_probe
from ..rollout.distrust import hurried, no_answer
from ..shapes import EACH, like
from ..text import quote
from .run import RemoteError, run

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# Seconds that workers have to resume, told from a container that is not trusted.
RESUME_SECONDS = 30.0
NOTHING: dict[str, Any] = {
    "unfinished": [],
    "stale": [],
    "scheduled": 0,
    "longest": 0.0,
    "silent": [],
    "queues": {},
    "nodes": {},
    "seconds": 0.0,
    "import_seconds": 0.0,
    "problem": "",
}
TASK: dict[str, Any] = {"id": "", "name": "", "node": "", "seconds": 0.0, "state": ""}
STALE: dict[str, Any] = {"id": "", "name": "", "node": ""}
NODE: dict[str, Any] = {"queues": [""], "active": 0, "reserved": 0, "scheduled": None}
# What the container answers, whatever it is.
ANSWER: dict[str, Any] = {
    **NOTHING,
    "error": "",
    "done": [""],
    "unfinished": [TASK],
    "stale": [STALE],
    "silent": [""],
    "queues": {EACH: [""]},
    "nodes": {EACH: NODE},
}


def request_of(params: dict[str, Any], look_only: bool) -> dict[str, Any]:
    """Return what the probe is asked."""
    names = ("app", "timeout", "interval", "reply_timeout", "silent_after", "import_timeout")
    request = {name: params[name] for name in names}
    request["look_only"] = look_only
    if params["since"]:
        request["timeout"] = max(1.0, params["timeout"] - (time.time() - params["since"]))
    if params["state"] == "drained":
        return {**request, "command": "drain", "nodes": params["nodes"]}
    queues = {
        node: [str(queue) for queue in wanted]
        for node, wanted in params["queues"].items()
        if params["nodes"] is None or node in params["nodes"]
    }
    return {**request, "command": "resume", "queues": queues}


def ask_running(
    module: AnsibleModule, container: str, request: dict[str, Any]
) -> dict[str, Any] | None:
    """Return what the running container answers; None, and a warning, where the release is asked.

    Raises:
        RemoteError: it gave no answer, and there is no release to ask.
    """
    params = module.params
    command = [params["docker_cli"], "exec", "--interactive", container, params["python"], "-"]
    limit = params["import_timeout"] + params["timeout"] + params["reply_timeout"] + 60
    if not other_way(params):
        first: dict[str, Any] = like(run(command, drain_probe, request, limit), ANSWER)
        return first
    seconds = min(request["timeout"], RESUME_SECONDS)
    quick, limit = hurried(request, seconds)
    try:
        limit += params["reply_timeout"]
        reply: dict[str, Any] = like(run(command, drain_probe, quick, limit), ANSWER)
        # Another container has the same Redis.
        if reply["problem"] in ("", "broker_unreachable"):
            return reply
        why = f"{reply['problem']}: {quote(reply['error'])}"
    except RemoteError as error:
        why = str(error)
    module.warn(no_answer(container, why, "A container of the release is asked instead"))
    return None


def other_way(params: dict[str, Any]) -> bool:
    """Return whether a one-off container of a release may be asked."""
    return params["state"] == "resumed" and bool(params["project_src"] and params["project"])


def ask_release(params: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """Return what a one-off container of the release answers.

    Raises:
        RemoteError: it gives no answer.
    """
    command = [params["docker_cli"], "compose", "--project-name", params["project"], "run", "--rm"]
    command += ["--no-deps", "-T", params["service"], params["python"], "-"]
    limit = params["import_timeout"] + params["timeout"] + params["reply_timeout"] + 60
    reply = run(command, drain_probe, request, limit, params["project_src"])
    answer: dict[str, Any] = like(reply, ANSWER)
    return answer
