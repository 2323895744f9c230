"""Deploys of the server, as an operator runs them from the controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.bench_deploy import app

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Deploy:
    """A deploy that changes the application's environment.

    Attributes:
        group: the server's group in molecule/inventory.
        colour: value of the variable that is changed.
    """

    group: str
    colour: str
    log: Path = field(init=False)
    process: subprocess.Popen[str] | None = None
    told: str = ""

    def start(self) -> Deploy:
        """Begin."""
        descriptor, name = tempfile.mkstemp(prefix="deploy-")
        self.log = Path(name)
        settings = {"CRISPER_LOAD_TEST": "true", "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
        self.process = subprocess.Popen(
            [
                str(Path(sys.executable).parent / "ansible-playbook"),
                "deploy.yml",
                f"--inventory={ROOT / 'molecule/inventory'}",
                f"--extra-vars=stack_hosts={self.group}",
                "--extra-vars",
                json.dumps({"stack_app": app(self.colour)}),
            ],
            cwd=ROOT,
            env={**os.environ, **settings},
            stdout=descriptor,
            stderr=subprocess.STDOUT,
            text=True,
        )
        os.close(descriptor)
        return self

    def is_running(self) -> bool:
        """Whether it goes on."""
        return self.process is not None and self.process.poll() is None

    def wait(self, seconds: float) -> dict[str, Any]:
        """Its exit code, and the end of what it told; it is killed after so many `seconds`."""
        assert self.process is not None
        try:
            code = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        if self.log.exists():
            self.told = self.log.read_text()[-3000:]
            self.log.unlink()
        return {"code": code, "told": self.told}
