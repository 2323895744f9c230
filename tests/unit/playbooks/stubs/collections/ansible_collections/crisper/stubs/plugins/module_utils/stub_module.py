"""What stub modules have in common: the real module's options, and the host's state."""

from __future__ import annotations

import functools
import importlib.util
import secrets
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import yaml
from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stubs.plugins.module_utils.stub_world import World

LIBRARY = Path(__file__).resolve().parents[10] / "library"
COMPOSE: dict[str, Any] = {
    "project_src": {"type": "path"},
    "project_name": {"type": "str"},
    "files": {"type": "list", "elements": "str"},
    "docker_cli": {"type": "path"},
}


@functools.cache
def real_options(name: str) -> dict[str, Any]:
    """The argument specification of the repository's module of this name."""
    module = _load(LIBRARY / f"{name}.py")
    if hasattr(module, "ARGUMENT_SPEC"):
        return module.ARGUMENT_SPEC
    text = yaml.safe_load(module.DOCUMENTATION)
    shared = _load(LIBRARY.parent / "plugins/doc_fragments/crisper.py").ModuleDocFragment
    options = text.get("options") or {}
    for fragment in text.get("extends_documentation_fragment") or []:
        part = getattr(shared, fragment.partition(".")[2].upper() or "DOCUMENTATION")
        options |= yaml.safe_load(part)["options"]
    return _documented(options)


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(f"real_{path.stem}", path)
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def _documented(options: dict[str, Any]) -> dict[str, Any]:
    kept = ("type", "elements", "required", "default", "choices")
    found = {}
    for name, option in options.items():
        found[name] = {key: option[key] for key in kept if key in option}
        if "suboptions" in option:
            found[name]["options"] = _documented(option["suboptions"])
    return found


class Stub:
    """A stub module of the name `name`; its options are the real ones unless given."""

    def __init__(self, name: str, options: dict[str, Any] | None = None) -> None:
        self.name, self.world = name, World()
        spec = real_options(name) if options is None else options
        self.module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
        self.params = self.module.params
        self.result: dict[str, Any] = {"changed": False}

    def point(self, name: str) -> None:
        """A point in the middle; the script may have the module fail or die here."""
        answer = self.world.point(f"{self.name}:{name}")
        if answer:
            self.fail(**answer)

    def fail(self, **answer: Any) -> NoReturn:
        """End with what is known by now."""
        self.module.fail_json(**{**self.result, **answer})
        raise AssertionError

    def end(self, **answer: Any) -> NoReturn:
        """End well."""
        self.module.exit_json(**{**self.result, **answer})
        raise AssertionError


def stub(name: str, act: Callable[[Stub], dict[str, Any]]) -> None:
    """Run a stub that needs no more than a function."""
    module = Stub(name)
    module.end(**act(module))


def container(
    engine: dict[str, Any], project: str, service: str, release: str, pool: str = ""
) -> dict[str, Any]:
    """Add a healthy container to the engine."""
    taken = {each["name"] for each in engine["containers"]}
    number = next(n for n in range(1, 99) if f"{project}-{service}-{n}" not in taken)
    made = {
        "id": secrets.token_hex(32),
        "name": f"{project}-{service}-{number}",
        "service": service,
        "release": release,
        "image": "",
        "state": "running",
        "health": "healthy",
        "pool": pool,
        "consumes": bool(pool),
        "created": time.time(),
    }
    engine["containers"].append(made)
    return made
