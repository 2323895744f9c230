"""A broken inventory is one error with file and line, before a server is contacted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HOSTS = "stack:\n  hosts:\n    app-1: {ansible_connection: local}\n"
REFUSED = 5
BROKEN = {
    "a tab": ("group_vars/all/own.yml", "stack_tls: none\nrollout_hooks:\n\tafter_switch: []\n", 3),
    "a bad indent": ("group_vars/all/own.yml", "stack_http_port: 80\n  stack_tls: none\n", 2),
    "an open quote": ("group_vars/all/own.yml", 'stack_root: "/opt/x\nstack_name: y\n', 3),
    "a file of one host": ("host_vars/app-1.yml", "stack_http_port: [80\n", 2),
    "a list of variables": ("group_vars/all/own.yml", "- stack_tls: none\n", 0),
    "an open mapping of hosts": ("hosts.yml", "stack:\n  hosts: {app-1: {}\n", 3),
    "a list of hosts": ("hosts.yml", "stack:\n  hosts:\n    - app-1\n", 0),
}


def play(folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of a deploy with this inventory."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("deploy.yml", "--tags", "always", "-i", str(folder), *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "host_vars").mkdir()
    (tmp_path / "hosts.yml").write_text(HOSTS)
    return tmp_path


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_is_named_with_its_line(case: str, site: Path) -> None:
    """Regression: "Tabs are usually invalid in YAML" named no file; or no host was found."""
    name, content, line = BROKEN[case]
    (site / name).write_text(content)
    code, output = play(site)
    assert code == REFUSED, output
    assert f"{site / name}{f':{line}' if line else ''}" in output.partition("[ERROR]: ")[2]
    assert "cannot be read" in output
    assert "No server was contacted." in output
    assert "TASK" not in output
    assert "AnsibleTagged" not in output.partition("[ERROR]: ")[2]


def test_a_vault_without_its_password_is_named(site: Path) -> None:
    vault = site / "group_vars/all/vault.yml"
    vault.write_text("vault_x: secret\n")
    for name in ("right", "wrong"):
        (site.parent / name).write_text(f"{name}\n")
    tool = str(Path(sys.executable).with_name("ansible-vault"))
    key = str(site.parent / "right")
    subprocess.run([tool, "encrypt", "--vault-password-file", key, str(vault)], check=True)
    code, output = play(site, "--vault-password-file", str(site.parent / "wrong"))
    assert code == REFUSED, output
    assert f"{vault} cannot be decrypted" in output
    assert "--ask-vault-pass" in output
