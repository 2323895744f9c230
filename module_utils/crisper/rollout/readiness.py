"""Readiness of new containers that the engine has no health check for.

An image may have no program that could ask (`healthcheck: none`). A web container is then asked
from the server, in its own network namespace, and a worker by the deploy: it must answer a ping.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..output import first_line
from ..probes import health
from ..process import capture
from ..text import printable
from .plan import Container
from .state import Rollout

# The probe itself ends after 4 s.
PROBE_SECONDS = 8


def with_readiness(rollout: Rollout, container: Container) -> Container:
    """Return a new container with the health that it has, or that was found out."""
    container = rollout.with_answer(container)
    if container.state != "running" or container.health not in ("none", ""):
        return container
    if container.pool:
        is_ready = rollout.workers is None or rollout.node(container) in rollout.workers.answering
    elif rollout.services.get(container.service, {}).get("kind") == "web":
        is_ready = not _unanswered(rollout, container)
    else:
        return container
    return replace(container, health="healthy" if is_ready else "starting")


def _unanswered(rollout: Rollout, container: Container) -> str:
    """Return why a web container does not answer as a healthy one does; empty when it does."""
    if rollout.unanswered.get(container.id) == "":
        return ""
    probe = rollout.services[container.service].get("probe")
    reason = ask_inside(container.pid, probe) if probe else ""
    rollout.unanswered[container.id] = reason
    return reason


def ask_inside(pid: int, probe: Mapping[str, Any]) -> str:
    """Return why what listens in a process's network does not answer as expected; or nothing.

    Args:
        pid: of a container's first process.
        probe: ``{port, path, host, scheme, status}`` of the model.
    """
    host = str(probe["host"] or f"127.0.0.1:{probe['port']}")
    words = [str(probe["port"]), str(probe["path"]), host, str(probe["scheme"])]
    words.append(",".join(str(status) for status in probe["status"]))
    program = [sys.executable, "-IS", "-c", inspect.getsource(health), *words]
    command = ["nsenter", f"--net=/proc/{pid}/ns/net", "--", *program]
    try:
        done = capture(command, "", PROBE_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return printable(str(error))
    return printable(first_line(done.stderr) or "no answer") if done.returncode else ""


def describe_unanswered(rollout: Rollout, containers: list[Container]) -> str:
    """Return what was said by containers without a health check that do not answer."""
    found = [
        f"\n{container.name}: {reason}"
        for container in containers
        if (reason := rollout.unanswered.get(container.id))
    ]
    return "".join(found)
