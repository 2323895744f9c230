"""volume_owner on a real volume and a real service, which runs as a user of an older edition."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = f"crispertest-owner-{os.getpid()}"
IMAGE = os.environ.get("CRISPER_TEST_REDIS_IMAGE", "redis:8.0")
# As the template has every service.
HARDENED = {"read_only": True, "cap_drop": ["ALL"], "security_opt": ["no-new-privileges:true"]}
WRITE = "umask 077; mkdir -p /data/inner && echo x >/data/inner/file && ln -sf /etc/passwd /data/l"
LIST = "find /data -exec stat -c '%u:%g %a %N' {} + | sort"


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Callable[[str], None]]:
    """Write the release: the service runs as a user, on a volume with private files."""

    def release(user: str) -> None:
        service = {"image": IMAGE, "pull_policy": "never", "user": user, "entrypoint": ["sh", "-c"]}
        service |= {
            "command": [f"{WRITE} && exec sleep 60"],
            "volumes": ["store:/data:nocopy"],
            **HARDENED,
        }
        service |= {"init": True, "stop_grace_period": "1s", "network_mode": "none"}
        compose = {"name": PROJECT, "services": {"store": service}, "volumes": {"store": {}}}
        (tmp_path / "docker-compose.yml").write_text(json.dumps(compose))

    yield release
    down = ["docker", "compose", "down", "--volumes", "--timeout", "1"]
    subprocess.run(down, cwd=tmp_path, check=True, capture_output=True)


def fit(folder: Path) -> dict[str, Any]:
    """Run the module through Ansible itself."""
    arguments = {"project_src": str(folder), "project_name": PROJECT, "services": ["store"]}
    command = [str(Path(sys.executable).with_name("ansible")), "-i", "localhost,", "localhost"]
    command += ["-c", "local", "-m", "volume_owner", "-a", json.dumps(arguments)]
    command += ["-e", f"ansible_python_interpreter={sys.executable}"]
    environment = {
        **os.environ,
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "ANSIBLE_CALLBACK_RESULT_FORMAT": "json",
    }
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)
    found = re.search(
        r"^localhost \| CHANGED => (?=\{)|SUCCESS => (?=\{)", done.stdout, re.MULTILINE
    )
    assert found is not None, done.stdout + done.stderr
    return json.JSONDecoder().raw_decode(done.stdout[found.end() :])[0]


def up(folder: Path) -> None:
    """Start the service; it must be able to write."""
    command = ["docker", "compose", "up", "--detach", "--wait"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def files() -> list[str]:
    """Owner, mode and name of all there is in the volume."""
    command = ["docker", "run", "--rm", "--network", "none", "--user", "0:0", "--entrypoint", "sh"]
    command += ["--volume", f"{PROJECT}_store:/data:ro", IMAGE, "-c", LIST]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()


def test_a_new_volume_belongs_to_the_user_of_the_first_release(
    project: Callable[[str], None], tmp_path: Path
) -> None:
    """Regression: the first deploy failed; the empty volume took over the owner of the image's."""
    project("60905:60906")
    (done,) = fit(tmp_path)["services"]
    assert (done["before"], done["after"]) == (None, 60905)
    up(tmp_path)
    assert {line.split()[0] for line in files()} == {"60905:60906"}


def test_data_follows_the_user_of_the_release_and_back(
    project: Callable[[str], None], tmp_path: Path
) -> None:
    project("999:999")
    fit(tmp_path)
    up(tmp_path)
    before = files()
    assert {line.split()[0] for line in before} == {"999:999"}
    project("60905:60906")
    first = fit(tmp_path)["services"]
    assert [(each["before"], each["after"]) for each in first] == [(999, 60905)]
    assert files() == [line.replace("999:999", "60905:60906") for line in before]
    up(tmp_path)
    assert fit(tmp_path)["services"] == [], "what fits is left alone"
    project("999:999")
    assert fit(tmp_path)["changed"]
    assert files() == before
