"""Data services of this machine, reached as if they ran in containers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker  # noqa: E402

# docker exec --interactive [--env NAME=VALUE] <container> <command …>, run right here.
DOCKER = f"""#!{sys.executable}
import os, sys
rest = sys.argv[3:]
while rest[0] == "--env":
    name, _, value = rest[1].partition("=")
    os.environ[name] = value
    rest = rest[2:]
os.execvp(rest[1], rest[1:])
"""


@pytest.fixture
def docker(tmp_path: Path) -> Docker:
    """A stand-in for the Docker client."""
    path = tmp_path / "docker"
    path.write_text(DOCKER)
    path.chmod(0o755)
    return Docker(str(path), 60)
