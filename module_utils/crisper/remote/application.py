"""Ask an application about itself in a container of its image that has nothing but the image."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from ..celery.application import read_facts
from ..deploy.begin import read_manifest
from ..docker.labels import NO_SERVICE
from ..model.validators import env_text
from ..probes import application as application_probe
from ..process import capture
from .run import RemoteError, run, sources_of

# An import that takes longer says nothing more.
START_SECONDS = 60
MEMORY = "1g"
# In the container, where nothing else can be written.
SCRATCH = "/tmp"  # noqa: S108 - of the container alone


def facts_key(params: Mapping[str, Any]) -> str:
    """Return the digest of all that the answer depends on: image, environment, and the question."""
    parts = [params[name] for name in ("image", "app", "settings", "environment", "user")]
    whole = json.dumps([parts, sources_of(application_probe)], sort_keys=True, default=str)
    return hashlib.sha256(whole.encode()).hexdigest()


def remembered_facts(root: str, key: str) -> dict[str, Any]:
    """Return the facts in the manifest of the release that serves, if they have that key."""
    found = read_manifest(Path(root)).get("application")
    if not isinstance(found, dict) or found.get("key") != key:
        return {}
    return read_facts(found.get("facts"))


def container_command(params: Mapping[str, Any], name: str) -> list[str]:
    """Return the command that runs Python in the image: without network, volumes or rights."""
    return [
        *(params["docker_cli"], "run", "--rm", "--interactive", "--name", name),
        *("--network", "none", "--read-only", "--tmpfs", SCRATCH, "--cap-drop", "ALL"),
        *("--security-opt", "no-new-privileges", "--pids-limit", "512", "--memory", MEMORY),
        # No log: the engine would write all of an endless output into it.
        *("--log-driver", "none", "--pull", "never"),
        *(*NO_SERVICE, "--label", f"crisper.stack={params['stack']}"),
        *(("--user", params["user"]) if params["user"] else ()),
        *("--entrypoint", params["python"], params["image"], "-"),
    ]


def ask_application(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``{key, facts, error}``; facts are empty where `error` says why there are none."""
    key = facts_key(params)
    facts = remembered_facts(params["root"], key) if params["root"] else {}
    if facts:
        return {"key": key, "facts": facts, "error": ""}
    environment = {name: env_text(value) for name, value in params["environment"].items()}
    request = {name: params[name] for name in ("app", "settings", "import_timeout")}
    request["environment"] = environment
    name = f"{params['stack']}-question-{uuid4().hex[:8]}"
    try:
        limit = params["import_timeout"] + START_SECONDS
        reply = run(container_command(params, name), application_probe, request, limit)
    except RemoteError as error:
        _remove(params["docker_cli"], name)
        return {"key": "", "facts": {}, "error": str(error)}
    if reply.get("problem") or "routes" not in reply:
        why = str(reply.get("error") or reply.get("problem") or "no answer")
        return {"key": "", "facts": {}, "error": why}
    return {"key": key, "facts": read_facts(reply), "error": ""}


def _remove(docker_cli: str, container: str) -> None:
    """Remove a container whose Docker client was ended: it goes on without one."""
    with suppress(OSError, subprocess.TimeoutExpired):
        capture([docker_cli, "rm", "--force", container], "", START_SECONDS)
