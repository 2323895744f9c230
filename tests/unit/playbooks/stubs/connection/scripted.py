"""A connection to a host that is a folder of this machine, and that fails as a test's script says.

Modules run for real, or as the stub of their name, in a process of their own that outlives its
controller, as behind SSH. It is forked from the task's process: starting Python for each module
would take most of the time of a deploy.
"""

from __future__ import annotations

DOCUMENTATION = r"""
name: scripted
short_description: Run modules on this machine, and fail where a test's script says so
description:
  - Runs modules and commands on this machine with the folder of one host.
options:
  folder:
    description: Folder of the host; its parent has the script.
    required: true
    vars: [{name: scripted_folder}]
extends_documentation_fragment:
  - connection_pipelining
"""

import ast
import atexit
import json
import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import traceback
import types
from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any, NoReturn

import ansible
import ansible.module_utils
from ansible.errors import AnsibleConnectionFailure
from ansible.module_utils import basic
from ansible.module_utils.common.text.converters import to_text
from ansible.plugins.connection import ConnectionBase

STUBS = Path(__file__).resolve().parents[1]
ROOT = STUBS.parents[3]

from ansible_collections.crisper.stubs.plugins.module_utils.stub_world import (
    KILL,
    MODULE,
    UNREACHABLE,
    World,
)

PLACES = (STUBS / "library", ROOT / "library", Path(ansible.__file__).parent / "modules")
COLLECTIONS = STUBS / "collections/ansible_collections"


class Module:
    """What a payload would run."""

    def __init__(self, payload: str) -> None:
        call = ast.parse(payload[payload.rindex("    _ansiballz_main(") :].strip()).body[0].value
        known = {keyword.arg: keyword.value for keyword in call.keywords}
        names = ("ansible_module", "module_fqn", "params", "profile")
        found = {name: ast.literal_eval(known[name]) for name in names}
        self.name = found["ansible_module"].rpartition(".")[2]
        self.profile = found["profile"]
        self.params: str = found["params"]
        self.path = self._path(found["module_fqn"])

    def _path(self, qualified: str) -> Path:
        if match := re.match(r"ansible_collections\.(?!ansible\b)(.+)", qualified):
            return COLLECTIONS / f"{match[1].replace('.', '/')}.py"
        paths = (place / f"{self.name}.py" for place in PLACES)
        return next(path for path in paths if path.is_file())

    @property
    def arguments(self) -> dict[str, Any]:
        """The options that the task gave."""
        return json.loads(self.params)["ANSIBLE_MODULE_ARGS"]

    def run(self) -> None:
        """Run it in this process."""
        basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = self.params.encode(), self.profile
        main = types.ModuleType("__main__")
        main.__file__ = str(self.path)
        sys.modules["__main__"] = main
        exec(compiled(self.path), main.__dict__)


def compiled(path: Path) -> types.CodeType:
    """Return the code of a module, as Python keeps it beside the file."""
    return SourceFileLoader("__main__", str(path)).get_code("__main__")


def separately(run: Callable[[], None], environment: dict[str, str]) -> tuple[int, bytes, bytes]:
    """Run it in a forked process; its exit code, output and errors."""
    outputs = [os.pipe(), os.pipe()]
    child = os.fork()
    if child == 0:
        _become_module(run, environment, [writing for _, writing in outputs])
    for _, writing in outputs:
        os.close(writing)
    texts = []
    for reading, _ in outputs:
        with os.fdopen(reading, "rb") as stream:
            texts.append(stream.read())
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), texts[0], texts[1]


def _become_module(
    run: Callable[[], None], environment: dict[str, str], outputs: list[int]
) -> NoReturn:
    code = 1
    try:
        atexit._clear()
        os.setsid()
        Path("/proc/self/comm").write_text(MODULE)
        os.environ.update(environment)
        for number, descriptor in enumerate(outputs, 1):
            os.dup2(descriptor, number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.closerange(3, 256)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115 (until the process ends)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        try:
            run()
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:
            traceback.print_exc()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


class Connection(ConnectionBase):
    """Runs everything here."""

    transport = "scripted"
    has_pipelining = True

    def _connect(self) -> Connection:
        self._connected = True
        return self

    def close(self) -> None:
        """Nothing is open."""
        self._connected = False

    @property
    def world(self) -> World:
        """The host."""
        # A task runs in the process of Ansible (inline_worker.py), or in a fork of it.
        controller = os.getppid() if multiprocessing.parent_process() else os.getpid()
        return World(Path(str(self.get_option("folder"))), controller)

    def exec_command(
        self, cmd: str, in_data: bytes | None = None, sudoable: bool = True
    ) -> tuple[int, bytes, bytes]:
        """Run a module, or a command."""
        super().exec_command(cmd, in_data=in_data, sudoable=sudoable)
        text = to_text(in_data or b"")
        world = self.world
        environment = world.environment()
        if "_ansiballz_main(" not in text:
            self._reach(world, "command")
            done = subprocess.run(
                ["/bin/sh", "-c", to_text(cmd)],
                input=in_data,
                capture_output=True,
                env={**os.environ, **environment},
                start_new_session=True,
                check=False,
            )
            return done.returncode, done.stdout, done.stderr
        module = Module(text)
        answer = self._reach(world, module.name, module.arguments)
        if answer is None:
            code, out, err = separately(module.run, environment)
            answer = self._reach(world, f"{module.name}:after", module.arguments)
            answer = answer or (code, out, err)
        return answer

    def _reach(
        self, world: World, point: str, arguments: dict[str, Any] | None = None
    ) -> tuple[int, bytes, bytes] | None:
        """What happens at a point instead of the module."""
        answer = world.reach(point, arguments or {})
        if answer is None:
            return None
        if answer == UNREACHABLE:
            raise AnsibleConnectionFailure(f"scripted: {world.folder.name} does not answer")
        if answer == KILL:
            return -9, b"", b"Killed\n"
        return 1, json.dumps(answer).encode(), b""

    def put_file(self, in_path: str, out_path: str) -> None:
        """Copy a file."""
        self._reach(self.world, "command")
        shutil.copyfile(in_path, out_path)

    def fetch_file(self, in_path: str, out_path: str) -> None:
        """Copy a file."""
        self._reach(self.world, "command")
        shutil.copyfile(in_path, out_path)
