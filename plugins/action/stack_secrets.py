"""M(stack_secrets), which has nothing to do but read on every deploy but the first."""

from __future__ import annotations

import json
import shlex
from typing import Any

from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.crisper.stack.plugins.module_utils.playbook.debug import install


def kept(text: str, names: list[str]) -> dict[str, str]:
    """The secrets in the file's text; none when one of `names` is missing or it is no such file."""
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    whole = isinstance(found, dict) and all(isinstance(found.get(name), str) for name in names)
    return found if whole else {}


class ActionModule(ActionBase):
    """Reads the file; whatever is to be made, mended or told, the module does."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict:
        """The module's result."""
        super().run(tmp, task_vars)
        # The callback does so for all tasks; without it ANSIBLE_DEBUG would print all secrets here.
        install(Display)
        path, names = self._task.args.get("path"), self._task.args.get("names")
        if isinstance(path, str) and path.startswith("/") and isinstance(names, list):
            read = self._low_level_execute_command(f"cat {shlex.quote(path)}")
            secrets = kept(read["stdout"], names) if read["rc"] == 0 else {}
            if secrets:
                return {"changed": False, "secrets": secrets, "generated": []}
        return dict(self._execute_module(task_vars=task_vars))
