"""A host of the stub tests: its engine as a file, and the script of what goes wrong on it.

Used by the connection plugin, the stub modules and the fake Docker client.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

KILL, UNREACHABLE = "kill", "unreachable"
MODULE = "module"  # name of a module's process
FOLDER, CONTROLLER = "SCRIPTED_FOLDER", "SCRIPTED_CONTROLLER"
LONGEST = 60.0  # seconds that a point waits for the test


class World:
    """One host: ``<site>/<host>/`` with ``engine.json``; the script is ``<site>/script.json``."""

    def __init__(self, folder: Path | None = None, controller: int = 0) -> None:
        self.folder = folder or Path(os.environ[FOLDER])
        self.controller = controller or int(os.environ.get(CONTROLLER, "0"))

    def environment(self) -> dict[str, str]:
        """What a process on this host has in its environment."""
        path = f"{self.folder.parent / 'bin'}:{os.environ.get('PATH', '')}"
        return {FOLDER: str(self.folder), CONTROLLER: str(self.controller), "PATH": path}

    @contextlib.contextmanager
    def engine(self) -> Iterator[dict[str, Any]]:
        """The engine's state; what is changed in it is kept."""
        path = self.folder / "engine.json"
        with (self.folder / "engine.lock").open("a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            before = path.read_text()
            state = json.loads(before)
            yield state
            after = json.dumps(state, indent=1, sort_keys=True)
            if after != before:
                draft = path.with_name(f".engine.{os.getpid()}")
                draft.write_text(after)
                draft.replace(path)

    @property
    def root(self) -> Path:
        """The stack's folder."""
        return self.folder / "opt"

    def serving(self, passes: bool = False) -> str:
        """The release that answers requests; empty when none does.

        `passes`: whether requests go past the maintenance page.
        """
        with self.engine() as engine:
            release, running = engine["serving"], engine["containers"]
        fit = [c for c in running if c["state"] == "running" and c["health"] == "healthy"]
        whole = {"nginx"} <= {c["service"] for c in fit} and {"backend"} <= {
            c["service"] for c in fit if c["release"] == release
        }
        shown = self.page_shown() and not passes
        return release if release and whole and not shown else ""

    def page_shown(self) -> bool:
        """Whether nginx answers with the maintenance page."""
        return (self.root / "live/nginx/maintenance.on").exists()

    def reach(self, point: str, arguments: dict[str, Any]) -> Any:
        """What the script has for this point: an answer, a signal, or None to go on.

        Writes the point down in ``points.log``. Waits where the script says so, and kills the
        controller.
        """
        with (self.folder / "points.log").open("a") as log:
            log.write(point + "\n")
        rule = self._rule(point, arguments)
        if rule is None:
            return None
        what = rule["do"]
        if what == "controller":
            kill_controller(self.controller)
            return None
        if what == "wait":
            waiting, go = self.folder / "waiting", self.folder / "go"
            waiting.write_text(point)
            deadline = time.monotonic() + LONGEST
            while not go.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            waiting.unlink(missing_ok=True)
            go.unlink(missing_ok=True)
            return None
        if what == "fail":
            answer = {"failed": True, "msg": "scripted: it failed"}
            return {**answer, **rule.get("answer", {})}
        return what

    def _rule(self, point: str, arguments: dict[str, Any]) -> dict[str, Any] | None:
        path = self.folder.parent / "script.json"
        with (self.folder.parent / "script.lock").open("a") as guard:
            fcntl.flock(guard, fcntl.LOCK_EX)
            rules = json.loads(path.read_text()) if path.exists() else []
            for rule in rules:
                if self._fits(rule, point, arguments):
                    rule["met"] = rule.get("met", 0) + 1
                    path.write_text(json.dumps(rules))
                    if rule["met"] >= rule.get("call", 1):
                        return rule
        return None

    def _fits(self, rule: dict[str, Any], point: str, arguments: dict[str, Any]) -> bool:
        if rule.get("host", self.folder.name) != self.folder.name:
            return False
        # A host that does not answer any more answers nothing.
        gone = rule["do"] == UNREACHABLE and rule.get("met", 0) >= rule.get("call", 1)
        if gone:
            return True
        times = rule.get("call", 1) + rule.get("times", 1) - 1
        if rule["point"] != point or rule.get("met", 0) >= times:
            return False
        wanted = rule.get("with", {})
        return all(_holds(arguments.get(name), value) for name, value in wanted.items())

    def point(self, name: str) -> dict[str, Any] | None:
        """A point within a stub: it may end this process, and gives the failure it has to tell."""
        answer = self.reach(name, {})
        if answer == KILL:
            os.kill(os.getpid(), signal.SIGKILL)
        # What runs on a host that does not answer any more goes on there.
        return None if answer == UNREACHABLE else answer


def kill_controller(pid: int) -> None:
    """Kill Ansible and its workers, and wait until they have let go of their modules.

    Modules that run go on, as they do on a server.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    name = _name(pid)
    killed = (pid, *(child for child in map(int, children) if _name(child) == name))
    for process in killed:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    while any(map(_lives, killed)):
        time.sleep(0.005)


def _name(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/comm").read_text()
    return ""


def _lives(pid: int) -> bool:
    """Return whether a process still has its pipes: its last thread closes them.

    A killed process is a zombie as soon as its first thread has ended, and Ansible has others.
    """
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return False
    return state not in ("Z", "X") or len(threads) > 1


def _holds(given: Any, wanted: Any) -> bool:
    return wanted in given if isinstance(given, list) else given == wanted


def image_id(reference: str) -> str:
    """Id of the image that a reference names, everywhere the same."""
    return f"sha256:{hashlib.sha256(reference.encode()).hexdigest()}"
