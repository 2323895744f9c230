"""Stub: services of a project are started, stopped or removed in the engine's file."""

from __future__ import annotations

from pathlib import Path

from ansible_collections.crisper.stubs.plugins.module_utils.stub_module import (
    COMPOSE,
    Stub,
    container,
)


def main() -> None:
    """Act on the engine's file."""
    options = {
        **COMPOSE,
        "services": {"type": "list", "elements": "str", "default": []},
        "state": {"type": "str", "default": "present"},
        "pull": {"type": "str"},
        "recreate": {"type": "str"},
        "wait": {"type": "bool"},
        "wait_timeout": {"type": "int"},
        "timeout": {"type": "int"},
        "remove_orphans": {"type": "bool"},
        "remove_volumes": {"type": "bool"},
    }
    module = Stub("docker_compose_v2", options)
    params = module.params
    module.point(params["state"])
    with module.world.engine() as engine:
        if not engine["up"]:
            module.fail(msg="Cannot connect to the Docker daemon")
        named = [c for c in engine["containers"] if c["service"] in params["services"]]
        if params["state"] == "absent":
            engine["containers"], engine["serving"] = [], ""
        elif params["state"] == "stopped":
            for each in named:
                each["state"] = "exited"
        else:
            for each in named:
                each["state"], each["health"] = "running", "healthy"
            there = {each["service"] for each in named}
            for service in params["services"]:
                volume = f"{params['project_name']}_{service}"
                engine["volumes"][volume] = str(module.world.folder)
                if service not in there:
                    release = Path(params["project_src"]).name
                    container(engine, params["project_name"], service, release)
    module.end(changed=True)


main()
