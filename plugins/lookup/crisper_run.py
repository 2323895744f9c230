"""The owner of a deploy: the Ansible process on the controller."""

from __future__ import annotations

DOCUMENTATION = r"""
name: crisper_run
short_description: The Ansible process as the owner of a deploy
description:
  - Gives one mapping with C(id), C(who), C(controller) and C(process) of this run, the same
    in every task. With a term, a mapping C(controller, process) as of another run's lock, it
    gives whether that process is known to be dead.
options:
  _terms:
    description: Locks to judge; none for this run itself.
"""

import getpass
import hashlib
import multiprocessing
import os
import platform
import subprocess
import time
import uuid
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ansible.plugins.lookup import LookupBase


def started(pid: int) -> int | None:
    """Return the Unix time (seconds) at which a process of this machine started; None if gone."""
    if Path("/proc/stat").exists():
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            text = Path("/proc/stat").read_text()
        except OSError:
            return None
        if fields[0] in ("Z", "X"):
            return None  # killed, and not yet reaped
        boot = next(int(s.split()[1]) for s in text.splitlines() if s.startswith("btime"))
        return boot + int(fields[19]) // os.sysconf("SC_CLK_TCK")
    environment = {**os.environ, "LC_ALL": "C"}
    command = ["ps", "-o", "lstart=", "-p", str(pid)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    text = done.stdout.strip()
    return int(time.mktime(time.strptime(text, "%a %b %d %H:%M:%S %Y"))) if text else None


def machine() -> str:
    """Return 12 hex digits for the processes that this one can see.

    Two laptops may have one name, and a container on the host's network has the host's: a process
    id of the one says nothing about the other.
    """
    try:
        identity = Path("/etc/machine-id").read_text().strip() or str(uuid.getnode())
    except OSError:
        identity = str(uuid.getnode())
    try:
        identity += os.readlink("/proc/self/ns/pid")
    except OSError:
        identity += platform.system()  # no namespaces there
    return hashlib.sha256(identity.encode()).hexdigest()[:12]


def this_run() -> dict[str, str]:
    """Return this run; tasks are templated in children of the Ansible process."""
    parent = multiprocessing.parent_process()
    pid = parent.pid if parent and parent.pid else os.getpid()
    since = started(pid) or 0
    moment = datetime.fromtimestamp(since, UTC)
    return {
        "id": f"{moment:%Y%m%dt%H%M%Sz}-{pid}",
        "who": os.environ.get("SUDO_USER") or getpass.getuser(),
        "controller": platform.node(),
        "process": f"{pid}@{since}@{machine()}",
    }


def is_dead(lock: Mapping[str, Any]) -> bool:
    """Return whether the owner of a lock is a process of this machine that is no more."""
    if lock.get("controller") != platform.node():
        return False
    pid, since, where = [*str(lock.get("process", "")).split("@"), "", ""][:3]
    # Locks of before do not tell the machine.
    if not (pid.isdecimal() and since.isdecimal()) or where not in ("", machine()):
        return False
    # The boot time that the kernel tells moves by a second when the clock is set.
    now = started(int(pid))
    return now is None or abs(now - int(since)) > 2


class LookupModule(LookupBase):
    """The lookup."""

    def run(self, terms: list[Any], variables: Any = None, **kwargs: Any) -> list[Any]:
        """Return this run, or whether the owners of locks are dead."""
        return [is_dead(term) for term in terms] if terms else [this_run()]
