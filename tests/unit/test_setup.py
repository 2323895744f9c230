"""scripts/setup takes the pinned packages that the controller's Python can run."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OLD, NEW = (f"requirements/controller-python3.{minor}.txt" for minor in (11, 12))
# Answers as a Python of another version, and makes a venv whose pip writes down its options.
PYTHON = f"""\
#!/bin/sh
case $1 in
    -V) echo Python %(version)s ;;
    -m) mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/ansible-playbook &&
        printf '#!/bin/sh\\necho "$@" >>pip.log\\n' >.venv/bin/pip && chmod +x .venv/bin/pip ;;
    *) exec {sys.executable} -c '
import sys
sys.version_info = %(numbers)s
exec(sys.argv[1])' "$2" ;;
esac
"""


class Controller:
    """A copy of the scripts, and a PATH on which a Python of some version is."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        (folder / "scripts").mkdir()
        shutil.copy(ROOT / "scripts/setup", folder / "scripts/setup")
        shutil.copytree(ROOT / "requirements", folder / "requirements")

    def python(self, name: str, version: str) -> None:
        """Put a Python on the PATH."""
        numbers = tuple(map(int, version.split(".")))
        (self.bin / name).write_text(PYTHON % {"version": version, "numbers": numbers})
        (self.bin / name).chmod(0o755)

    def setup(self) -> str:
        """Run scripts/setup; return the options of the pip installations since the beginning."""
        path = f"{self.bin}:/usr/bin:/bin"
        done = subprocess.run(
            [self.folder / "scripts/setup"],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        log = self.folder / "pip.log"
        return log.read_text() if log.exists() else ""


@pytest.fixture
def controller(tmp_path: Path) -> Controller:
    return Controller(tmp_path)


@pytest.mark.parametrize(
    ("version", "requirements"),
    [("3.11.2", OLD), ("3.12.3", NEW), ("3.13.5", NEW), ("3.14.0", NEW)],
)
def test_python_decides_which_ansible_is_installed(controller, version, requirements):
    controller.python("python3", version)
    expected = f"install -qq --require-hashes --only-binary :all: --requirement {requirements}\n"
    assert controller.setup() == expected
    assert controller.setup() == expected, "a second run installs nothing"


def test_a_venv_whose_packages_are_for_another_python_is_made_anew(controller):
    controller.python("python3", "3.13.5")
    controller.setup()
    shutil.copy(controller.folder / OLD, controller.folder / ".venv/.requirements")
    assert controller.setup().count(NEW) == 2


def test_a_newer_python_beside_a_too_old_one_is_found(controller):
    controller.python("python3", "3.10.12")
    controller.python("python3.11", "3.11.9")
    for name in ("python3.12", "python3.13", "python3.14"):
        controller.python(name, "3.9.0")  # what hides this machine's own
    assert OLD in controller.setup()
