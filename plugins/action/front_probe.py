"""M(front_probe) on the controller itself: in the process that is there already."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import ansible.module_utils
from ansible.plugins.action import ActionBase

ROOT = Path(__file__).resolve().parents[2]
# Ansible adds the repository's module_utils for modules only; plugins must say where it is.
ansible.module_utils.__path__.append(str(ROOT / "module_utils"))


class ActionModule(ActionBase):
    """Packing a module and starting Python for it takes longer than all its questions."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict:
        """The module's result; on other hosts, or as another user, the module's own."""
        super().run(tmp, task_vars)
        if self._connection.transport != "local" or self._connection.become is not None:
            return dict(self._execute_module(task_vars=task_vars))
        path = ROOT / "library/front_probe.py"
        spec = importlib.util.spec_from_file_location("front_probe", path)
        module: Any = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        _, given = self.validate_argument_spec(module.ARGUMENT_SPEC)
        return {"changed": False, **module.probe(given)}
