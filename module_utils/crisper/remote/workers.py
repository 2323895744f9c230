"""Ask all workers, and send canaries, from a container of the application: two modules' call."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..docker.client import find_container
from ..probes import workers
from .run import ask

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

CONNECTION_SPEC: dict[str, Any] = {
    "container": {"type": "str"},
    "project": {"type": "str"},
    "service": {"type": "str"},
    "app": {"type": "str", "required": True},
    "timeout": {"type": "float", "default": 5.0},
    "import_timeout": {"type": "int", "default": 60},
    "python": {"type": "str", "default": "python"},
    "docker_cli": {"type": "str", "default": "docker"},
}

# What is expected of workers, and the canaries that are sent to them.
EXPECT_OPTIONS: dict[str, Any] = {
    "nodes": {"type": "list", "elements": "str"},
    "count": {"type": "int"},
    "no_foreign_nodes": {"type": "bool"},
    "pools": {"type": "dict"},
    "registered": {"type": "list", "elements": "str"},
    "time_limit": {"type": "int"},
    "soft_time_limit": {"type": "int"},
    "accept_content": {"type": "list", "elements": "str"},
    "task_serializer": {"type": "str"},
}
CANARY_OPTIONS: dict[str, Any] = {
    "task": {"type": "str", "required": True},
    "queues": {"type": "list", "elements": "str", "required": True},
    "nodes": {"type": "list", "elements": "str", "default": []},
    "timeout": {"type": "float", "default": 30.0},
}


def ask_workers(module: AnsibleModule, request: dict[str, Any]) -> dict[str, Any]:
    """Return the probe's reply; ``problem`` and ``error`` are set when there is no good one."""
    params = module.params
    container, problem = find_container(module)
    if problem:
        kind, _, error = problem.partition(": ")
        return {"problem": kind, "error": error}
    names = ("app", "timeout", "import_timeout")
    request = {**request, **{name: params[name] for name in names}}
    # The probe keeps its own time; this only ends a Docker client that hangs.
    waits = 2 * (params["timeout"] + (request.get("canary") or {}).get("timeout", 0))
    command = [params["docker_cli"], "exec", "--interactive", container, params["python"], "-"]
    return ask(command, workers, request, params["import_timeout"] + waits + 60)
