"""M(stack_secrets): read the file here; only the first deploy needs the module."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.crisper.stack.plugins.module_utils.playbook.debug import install


def read_secrets(text: str, names: list[str]) -> dict[str, str]:
    """Return the secrets in a file's text; none when it is no such file or lacks one of `names`."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    whole = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in names)
    return found if whole else {}


class ActionModule(ActionBase):
    """Reads the file; the module does what is to be made, mended or reported."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict:
        """Return the module's result."""
        super().run(tmp, task_vars)
        # The callback does so for all tasks; without it ANSIBLE_DEBUG would print all secrets here.
        install(Display)
        path, names = self._task.args.get("path"), self._task.args.get("names")
        if isinstance(path, str) and path.startswith("/") and isinstance(names, list):
            read = self._low_level_execute_command(f"cat {shlex.quote(path)}")
            secrets = read_secrets(read["stdout"], names) if read["rc"] == 0 else {}
            if secrets:
                return {"changed": False, "secrets": secrets, "generated": []}
        return dict(self._execute_module(task_vars=task_vars))
