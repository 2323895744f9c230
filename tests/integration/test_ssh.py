"""The first contact of a deploy over real SSH and sudo: one message per failure, exit code 4.

The server is a container of the project's own server image, with Debian's sshd and three users.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVER = f"crisper-test-ssh-{os.getpid()}"
# Users by what sudo says to them; each one's password is its name.
SUDO = {"free": "ALL=(ALL) NOPASSWD: ALL", "asked": "ALL=(ALL) ALL", "barred": ""}
MAKE = """
set -eu
apt-get -qq update
DEBIAN_FRONTEND=noninteractive apt-get -y -qq --no-install-recommends install openssh-server
mkdir -p /run/sshd
/usr/sbin/sshd
"""
USER = """
set -eu
useradd --create-home --shell /bin/bash {name}
echo {name}:{name} | chpasswd
[ -z "{rule}" ] || echo "{name} {rule}" >/etc/sudoers.d/{name}
install -d -m 0700 -o {name} /home/{name}/.ssh
cat >/home/{name}/.ssh/authorized_keys
"""


def run(*command: str, **options: Any) -> str:
    """Standard output of a command that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


@dataclass(frozen=True)
class Server:
    """A server that runs sshd, and the operator's files for it."""

    address: str
    folder: Path

    def play(self, *arguments: str, **variables: Any) -> tuple[int, str]:
        """Exit code and output of the deploy up to its first contact."""
        site = self.folder / "site"
        (site / "group_vars").mkdir(parents=True, exist_ok=True)
        if not (site / "group_vars/all").exists():
            (site / "group_vars/all").symlink_to(ROOT / "inventories/local/group_vars/all")
        host = {
            "ansible_host": self.address,
            "ansible_ssh_private_key_file": str(self.folder / "key"),
            "ansible_ssh_args": f"-o UserKnownHostsFile={self.folder}/known_hosts -o GlobalKnown"
            "HostsFile=none -o ControlMaster=no -o ControlPath=none",
            "ansible_ssh_timeout": 5,
            **variables,
        }
        (site / "hosts.yml").write_text(yaml.safe_dump({"stack": {"hosts": {"app-1": host}}}))
        done = subprocess.run(
            [
                str(Path(sys.executable).with_name("ansible-playbook")),
                *("-i", str(site), "deploy.yml", "--tags", "always", *arguments),
            ],
            cwd=ROOT,
            env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "SSH_AUTH_SOCK": ""},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with the three users; its host key is known."""
    folder = tmp_path_factory.mktemp("ssh")
    run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
    image = run(str(ROOT / "scripts/server-image"), "trixie").strip()
    run("docker", "run", "--detach", "--name", SERVER, image, "sleep", "infinity")
    try:
        run("docker", "exec", SERVER, "sh", "-c", MAKE)
        for name, rule in SUDO.items():
            script = USER.format(name=name, rule=rule)
            key = (folder / "key.pub").read_text()
            run("docker", "exec", "--interactive", SERVER, "sh", "-c", script, input=key)
        field = "{{.NetworkSettings.Networks.bridge.IPAddress}}"
        address = run("docker", "inspect", "--format", field, SERVER).strip()
        keys = run("ssh-keyscan", "-t", "ed25519", address)
        (folder / "known_hosts").write_text(keys)
        yield Server(address, folder)
    finally:
        run("docker", "rm", "--force", "--volumes", SERVER)


@pytest.fixture
def known_hosts(server: Server) -> Iterator[Path]:
    """The operator's known_hosts, as it was afterwards."""
    path = server.folder / "known_hosts"
    before = path.read_text()
    yield path
    path.write_text(before)


def refused(answer: tuple[int, str]) -> str:
    """The output of a contact that failed, without a rescue."""
    code, output = answer
    assert code == 4, output
    assert "Nothing was done." in output
    assert "The deploy of" not in output
    assert "rescued=0" in output
    return output


@pytest.mark.parametrize(
    "variables",
    [
        {"ansible_user": "free"},
        {"ansible_user": "asked", "ansible_become_password": "asked"},
        {"ansible_user": "barred", "ansible_become_method": "su", "stack_become": False},
    ],
)
def test_a_host_that_can_be_managed_is_no_problem(
    server: Server, variables: dict[str, Any]
) -> None:
    code, output = server.play(**variables)
    assert code == 0, output


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"ansible_user": "asked"}, "sudo asks asked for a password, and none was given"),
        (
            {"ansible_user": "asked", "ansible_become_password": "wrong"},
            "sudo refused the password",
        ),
        (
            {"ansible_user": "barred", "ansible_become_password": "barred"},
            "sudo does not let barred become root",
        ),
        ({"ansible_user": "nobody-here"}, "the login was refused"),
        ({"ansible_user": "free", "ansible_port": 1}, "nothing answers on that port"),
        (
            {"ansible_user": "free", "ansible_host": "no-such.invalid"},
            "the name no-such.invalid has no address",
        ),
        ({"ansible_user": "free", "ansible_become_method": "su"}, "su did not answer in time"),
    ],
)
def test_what_stands_against_it_is_one_message(
    server: Server, variables: dict[str, Any], said: str
) -> None:
    output = refused(server.play(**variables))
    assert said in output, output
    assert "app-1 (" in output


def test_a_host_key_that_is_not_known(server: Server, known_hosts: Path) -> None:
    known_hosts.write_text("")
    output = refused(server.play(ansible_user="free"))
    assert "its host key is not known here" in output
    assert f"ssh-keyscan {server.address} >> ~/.ssh/known_hosts" in output


def test_a_host_key_that_changed(server: Server, known_hosts: Path) -> None:
    kind, key = (server.folder / "key.pub").read_text().split()[:2]
    known_hosts.write_text(f"{server.address} {kind} {key}\n")
    output = refused(server.play(ansible_user="free"))
    assert "its host key is another one than the known one" in output
    assert f"ssh-keygen -R {server.address}" in output


def test_a_server_without_sudo(server: Server) -> None:
    run("docker", "exec", SERVER, "mv", "/usr/bin/sudo", "/usr/bin/sudo.away")
    try:
        output = refused(server.play(ansible_user="free"))
    finally:
        run("docker", "exec", SERVER, "mv", "/usr/bin/sudo.away", "/usr/bin/sudo")
    assert "sudo is not installed there" in output
