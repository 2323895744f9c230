"""Runs the probe in a container: the one place where the Celery modules call the outside."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Mapping
from typing import Any

from ansible.module_utils import crisper_celery_probe as probe
from ansible.module_utils.crisper_celery import REMEDIES, classify_exec, parse_output

CONTAINER_SPEC: dict[str, Any] = {
    "container": {"type": "str"},
    "project": {"type": "str"},
    "service": {"type": "str"},
    "app": {"type": "str", "required": True},
    "import_timeout": {"type": "float", "default": 60.0},
    "python": {"type": "str", "default": "python"},
    "docker_cli": {"type": "str", "default": "docker"},
    "fail_on_findings": {"type": "bool", "default": True},
}


class ProbeError(Exception):
    """No answer, or an answer that names a trouble; `outcome` goes into the module's result."""

    def __init__(self, problem: str, text: str, outcome: Mapping[str, Any]) -> None:
        remedy = REMEDIES.get(problem, "")
        super().__init__(f"{problem}: {text.rstrip('.')}. {remedy}".rstrip())
        self.problem = problem
        self.outcome = outcome


def probe_script(request: Mapping[str, Any]) -> str:
    """The probe's source with one request at its end."""
    source = probe.__loader__.get_source(probe.__name__)
    return f"{source}\n\nmain(json.loads({json.dumps(request)!r}))\n"


def run_probe(
    params: Mapping[str, Any], request: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The probe's reply, and ``{inspect_rc}``.

    Raises:
        ProbeError: with the kind of trouble, when there is no usable reply.
    """
    docker = params["docker_cli"]
    container = params["container"] or _find(docker, params["project"], params["service"])
    request = {
        **request,
        "app": params["app"],
        "timeout": params["timeout"],
        "import_timeout": params["import_timeout"],
    }
    limit = params["import_timeout"] + 2 * params["timeout"] + 15
    command = [docker, "exec", "-i", container, params["python"], "-"]
    code, out, err = _run(command, probe_script(request), limit)
    outcome: dict[str, Any] = {"inspect_rc": code}
    reply = parse_output(out)
    if reply is None:
        # Only now: what an application prints may hold anything, and the reply says it better.
        err = re.sub(r"://[^/@\s]*@", "://***@", err)
        outcome["stderr"] = err[-2000:]
        problem, text = classify_exec(code, err)
        raise ProbeError(problem, f"{container}: {text}", outcome)
    if reply.get("problem"):
        raise ProbeError(str(reply["problem"]), str(reply.get("error")), outcome)
    return reply, outcome


def _find(docker: str, project: str, service: str) -> str:
    command = [docker, "ps", "--quiet", "--filter", "status=running"]
    for name, value in (("project", project), ("service", service)):
        command += ["--filter", f"label=com.docker.compose.{name}={value}"]
    code, out, err = _run(command, "", 30)
    outcome = {"inspect_rc": code, "stderr": err[-2000:]}
    if code != 0:
        raise ProbeError("docker_unavailable", err.strip(), outcome)
    if not out.split():
        text = f"No container of service {service} in project {project} runs"
        raise ProbeError("container_not_running", text, outcome)
    return out.split()[0]


def _run(command: list[str], text: str, limit: float) -> tuple[int, str, str]:
    """Like run_command, but with a time limit: a hung engine must not hang a deploy."""
    try:
        done = subprocess.run(
            command, input=text, capture_output=True, text=True, errors="replace", timeout=limit
        )
    except FileNotFoundError as error:
        outcome = {"inspect_rc": 127, "stderr": str(error)}
        raise ProbeError("docker_unavailable", f"{command[0]} is not there", outcome) from error
    except subprocess.TimeoutExpired as error:
        outcome = {"inspect_rc": 124, "stderr": ""}
        text = f"docker did not return within {limit:g} s"
        raise ProbeError("docker_unavailable", text, outcome) from error
    return done.returncode, done.stdout, done.stderr
