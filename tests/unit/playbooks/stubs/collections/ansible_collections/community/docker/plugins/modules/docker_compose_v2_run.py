"""Stub: a migration adds its release to the database; other commands do nothing."""

from __future__ import annotations

from pathlib import Path

from ansible.module_utils.stub_module import COMPOSE, Stub


def main() -> None:
    """Act on the engine's file."""
    options = {
        **COMPOSE,
        "service": {"type": "str"},
        "argv": {"type": "list", "elements": "str"},
        "no_deps": {"type": "bool"},
        "cleanup": {"type": "bool"},
        "tty": {"type": "bool"},
    }
    module = Stub("docker_compose_v2_run", options)
    argv = module.params["argv"]
    if "current" in argv:
        module.end(rc=1, stdout="", stderr="")
    output = "done"
    if "upgrade" in argv:
        release = Path(module.params["project_src"]).name
        with module.world.engine() as engine:
            output = "Running upgrade" + (" irreversible" if engine["irreversible"] else "")
            engine["database"].append(release)
        module.point("migrated")
    module.end(changed=True, rc=0, stdout=output, stderr="")


main()
