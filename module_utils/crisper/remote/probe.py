"""Run the Celery probe inside a container and read its answer: the I/O edge of two modules."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

from ..celery import busy, stale
from ..probes import inspect as celery_probe
from ..probes import queue_head
from ..process import capture
from ..text import printable
from .run import ERROR_WIDTH, parse, program

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


SHIPPED = (stale, busy, queue_head, celery_probe)


def find_container(module: AnsibleModule) -> tuple[str, str]:
    """Id of a running container to ask in, and else the problem."""
    if module.params["container"]:
        return module.params["container"], ""
    return running(module, module.params["service"])


def running(module: AnsibleModule, service: str) -> tuple[str, str]:
    """Id of a running container of that service, and else the problem."""
    label = "label=com.docker.compose"
    command = [module.params["docker_cli"], "ps", "--quiet", "--no-trunc"]
    command += ["--filter", f"{label}.project={module.params['project']}"]
    command += ["--filter", f"{label}.service={service}"]
    command += ["--filter", "status=running", "--filter", f"{label}.oneoff=False"]
    try:
        code, out, err = module.run_command(command, handle_exceptions=False)
    except OSError as error:
        return "", f"docker_unavailable: {error}"
    if code != 0:
        return "", f"docker_unavailable: {printable(err.strip(), ERROR_WIDTH)}"
    ids = out.split()
    if not ids:
        where = f"service {service} of project {module.params['project']}"
        return "", f"container_not_running: no container of {where} runs"
    return ids[0], ""


def ask(module: AnsibleModule, request: dict[str, Any]) -> dict[str, Any]:
    """The probe's reply; ``problem`` and ``error`` are set when there is no good one."""
    container, problem = find_container(module)
    if problem:
        kind, _, error = problem.partition(": ")
        return {"problem": kind, "error": error}
    request = {
        **request,
        "app": module.params["app"],
        "timeout": module.params["timeout"],
        "import_timeout": module.params["import_timeout"],
    }
    # The probe keeps its own time; this only ends a Docker client that hangs.
    waits = 2 * (module.params["timeout"] + (request.get("canary") or {}).get("timeout", 0))
    limit = int(module.params["import_timeout"] + waits + 60)
    command = ["timeout", "--kill-after=5", str(limit)]
    command += [module.params["docker_cli"], "exec", "--interactive", container]
    command += [module.params["python"], "-"]
    data = program(SHIPPED, request)
    try:
        done = capture(command, data, limit + 30)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"problem": "docker_unavailable", "error": printable(str(error), ERROR_WIDTH)}
    if done.cut:
        text = f"{json.dumps(command[3:])} printed more than {len(done.stdout)} bytes and was ended"
        return {"problem": "malformed_reply", "error": text}
    reply = parse(done.stdout)
    if reply is not None:
        return {"problem": "", "error": "", **reply}
    code, err = done.returncode, done.stderr
    lines = [printable(line) for line in err.strip().splitlines()[-3:]] or [""]
    text = f"{json.dumps(command[3:])} exited with {code}: {' '.join(lines)}"
    if code in (124, 137):
        return {"problem": "docker_unavailable", "error": f"no answer within {limit} s"}
    if "is not running" in err or "No such container" in err:
        return {"problem": "container_not_running", "error": lines[-1]}
    if code in (126, 127) or "executable file not found" in err:
        return {"problem": "app_not_importable", "error": text}
    if code in (125, 1) and "Cannot connect to the Docker daemon" in err:
        return {"problem": "docker_unavailable", "error": lines[-1]}
    return {"problem": "malformed_reply", "error": text}
