"""Seconds per stage and the deploy's summary, after Ansible's own recap."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_stages
type: aggregate
short_description: Seconds per stage and the summary of a deploy
description:
  - Adds up the time of the tasks of each role and prints it after the recap, with the summary
    that role C(finish) hands over by C(set_stats).
  - Says of a host that stopped answering in the middle what is known and what to do. No task can,
    because Ansible runs none there any more, and no rescue.
"""

import re
import time
from typing import Any

from ansible.plugins.callback import CallbackBase
from ansible_collections.crisper.stack.plugins.module_utils.playbook.connection import (
    describe_lost_host,
)
from ansible_collections.crisper.stack.plugins.module_utils.text import printable_lines

ROLE = re.compile(r".*/roles/([^/]+)/(?:tasks|handlers)/")


def find_role(task: Any) -> str:
    """Return the role whose file a task stands in; empty for a task of a playbook."""
    found = ROLE.match(task.get_path())
    return found[1] if found else ""


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
        # Hosts whose stack this run has locked; host -> what is said when it stopped answering.
        self.locked: set[str] = set()
        self.lost: dict[str, str] = {}

    def _enter(self, stage: str) -> None:
        now = time.monotonic()
        if self.stage:
            self.seconds[self.stage] = self.seconds.get(self.stage, 0.0) + now - self.since
        self.stage, self.since = stage, now

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Add the time since the last task to its role."""
        self._enter(find_role(task) or self.stage)

    v2_playbook_on_handler_task_start = v2_playbook_on_task_start  # type: ignore[assignment]

    def v2_runner_on_ok(self, result: Any) -> None:
        """Keep in mind on which hosts this run has the lock."""
        host, content = result.host.get_name(), result.result
        if result.task.action == "deploy_begin" and content.get("locked"):
            self.locked.add(host)
        elif content.get("ended") is True or result.task.args.get("state") == "ended":
            self.locked.discard(host)

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Keep in mind what is known of a host that stopped answering."""
        task = result.task
        if find_role(task) and task.action != "connection_check":
            host = result.host.get_name()
            self.lost[host] = describe_lost_host(host, task.get_name(), host in self.locked)

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Print what was collected."""
        self._enter("")
        summaries = stats.custom.get("_run", {}).get("crisper_summary", {})
        for host, text in summaries.items():
            self._display.banner(f"SUMMARY {host}")
            # What others have written was made printable where it was read; this is the last door.
            self._display.display(printable_lines(str(text).rstrip()))
        for host, text in self.lost.items():
            self._display.banner(f"LOST {host}")
            self._display.display(printable_lines(text))
        if self.seconds:
            table = "  ".join(f"{name} {spent:.1f}" for name, spent in self.seconds.items())
            total = sum(self.seconds.values())
            self._display.display(f"Seconds   by role: {table}  in all roles {total:.1f}")
