"""Seconds per stage and the deploy's summary, after Ansible's own recap."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_stages
type: aggregate
short_description: Seconds per stage and the summary of a deploy
description:
  - Adds up the time of the tasks of each role and prints it after the recap, with the summary
    that role C(finish) hands over by C(set_stats).
"""

import time
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Times roles by the start of their tasks; a role ends where the next one begins."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "crisper_stages"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.seconds: dict[str, float] = {}
        self.stage = ""
        self.since = time.monotonic()

    def _enter(self, stage: str) -> None:
        now = time.monotonic()
        if self.stage:
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.stage, self.since = stage, now

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Book the time since the last task on its role."""
        role = getattr(task, "_role", None)
        self._enter(role.get_name() if role else self.stage)

    v2_playbook_on_handler_task_start = v2_playbook_on_task_start  # type: ignore[assignment]

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print what was collected."""
        self._enter("")
        summaries = stats.custom.get("_run", {}).get("crisper_summary", {})
        for host, text in summaries.items():
            self._display.banner(f"SUMMARY {host}")
            self._display.display(str(text).rstrip())
        if self.seconds:
            table = "  ".join(f"{name} {spent:.1f}" for name, spent in self.seconds.items())
            total = sum(self.seconds.values())
            self._display.display(f"Seconds   {table}  total {total:.1f}")
