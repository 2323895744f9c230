"""Stub: the site answers when nginx runs, no page is shown, and its release runs."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase

STUBS = Path(__file__).resolve().parents[1]

from ansible_collections.crisper.stubs.plugins.module_utils.stub_world import (
    KILL,
    UNREACHABLE,
    World,
)


class ActionModule(ActionBase):
    """Asks the engine's file of the host in question."""

    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict:
        """The module's result."""
        super().run(tmp, task_vars)
        folder = Path(str(self._templar.template((task_vars or {})["scripted_folder"])))
        world = World(folder, os.getppid())
        answer = world.reach("http_probe", self._task.args)
        if answer == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        if answer and answer != UNREACHABLE:
            return dict(answer)
        # Verification goes past the maintenance page.
        passes = bool(self._task.args.get("maintenance_pass"))
        ok = bool(world.serving(passes)) and answer != UNREACHABLE
        answers = [
            {
                "url": f"http://{folder.name}{path}",
                "status": 200 if ok else 503,
                "location": "",
                "expected": [200],
                "ok": ok,
                "msg": "" if ok else "nothing serves",
                "seconds": 0.01,
            }
            for path in ("/health",)
        ]
        return {"changed": False, "answers": answers, "address": folder.name, "open": []}
