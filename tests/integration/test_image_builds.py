"""Builds of the application's image on the real engine: what fails is told, and CAs are trusted."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from hostile_values import example, unsafe, written  # noqa: E402

STACK = f"buildtest-{os.getpid()}"
STORE = Path("/etc/ssl/certs/ca-certificates.crt")
PLAY = """
- name: Provide the images of a release
  hosts: localhost
  connection: local
  gather_facts: false
  roles: [stack, images]
"""
NAMES = ("nginx", "postgres", "redis", "qdrant", "python", "mariadb")


def docker(*arguments: str, **options: Any) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, check=True, **options)
    return done.stdout.decode().strip()


@pytest.fixture(scope="module")
def base() -> Iterator[str]:
    """An image with this machine's shell and nothing else; it stands for all platform images."""
    linked = subprocess.run(["ldd", "/bin/sh"], check=True, capture_output=True, text=True)
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w", dereference=True) as archive:
        for path in ["/bin/sh", *re.findall(r"(/\S+) \(0x", linked.stdout)]:
            archive.add(Path(path).resolve(), arcname=path.lstrip("/"))
    docker("import", "-", f"{STACK}/base:1", input=content.getvalue())
    yield f"{STACK}/base:1"
    names = docker("image", "ls", "--quiet", "--filter", f"reference={STACK}/*:*").split()
    docker("image", "rm", "--force", *sorted(set(names)))


def deploy(folder: Path, base: str, dockerfile: str, **values: Any) -> str:
    """The output of a play that builds an application of one Dockerfile."""
    context = folder / "context"
    context.mkdir(exist_ok=True)
    (context / "Dockerfile").write_text(f"ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\n{dockerfile}")
    site = unsafe(example()) | {"stack_name": STACK, "stack_root": str(folder / "stack")}
    site["image_refs"] = dict.fromkeys(NAMES, base)
    site["stack_app"] = {**site["stack_app"], "build": {"context": str(context)}}
    for name in ("frontend", "image"):
        site["stack_app"].pop(name, None)
    (folder / "play.yml").write_text(PLAY)
    (folder / "vars.yml").write_text(written(site | values))
    command = ["ansible-playbook", "-i", "localhost,", str(folder / "play.yml")]
    command += ["-e", f"@{folder / 'vars.yml'}"]
    command += ["-e", json.dumps({"ansible_python_interpreter": sys.executable})]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    return done.stdout + done.stderr


def test_a_failing_build_is_one_readable_message(base: str, tmp_path: Path) -> None:
    """Regression: 20 KB of escaped JSON, three times, and the reason somewhere in it."""
    steps = 'RUN i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo "step $i"; done; exit 7\n'
    output = deploy(tmp_path, base, steps)
    assert "The build of backend failed" in output
    assert "stack_app.build" in output
    assert "step 400" in output
    assert "exit code: 7" in output
    assert "step 300" not in output
    assert len(output) < 12_000
    assert not (tmp_path / "stack" / "build").exists()


def test_builds_trust_what_the_host_trusts(base: str, tmp_path: Path) -> None:
    """Regression: a CA of the server's trust store was not trusted by builds on it."""
    first = STORE.read_text().splitlines()[0]
    steps = "RUN --mount=type=secret,id=ca,required=true read -r line < /run/secrets/ca && "
    output = deploy(tmp_path, base, f"{steps} [ \"$line\" = '{first}' ]\n")
    assert "failed=0" in output, output
    assert "changed=0" in deploy(tmp_path, base, f"{steps} [ \"$line\" = '{first}' ]\n")
    (tmp_path / "bundle.pem").write_text("the controller's own\n")
    told = f'{steps} [ "$line" = "the controller\'s own" ]\n'
    output = deploy(tmp_path, base, told, controller_ca_bundle=str(tmp_path / "bundle.pem"))
    assert "failed=0" in output, output


def test_a_change_of_the_same_size_is_built(base: str, tmp_path: Path) -> None:
    """Regression: "1" became "2", the deploy was proved, and the old code served."""
    (tmp_path / "context").mkdir()
    for version in ("1", "2"):
        (tmp_path / "context/version").write_text(version)
        output = deploy(tmp_path, base, "COPY version /version\n")
        assert "failed=0" in output, output
        listed = docker("image", "ls", "--quiet", "--filter", f"reference={STACK}/backend:*")
        newest = listed.split()[0]
        shown = docker(
            "run", "--rm", "--entrypoint", "/bin/sh", newest, "-c", "read -r v </version; echo $v"
        )
        assert shown == version
