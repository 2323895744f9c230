"""An operator's days with inventories/example, over a real SSH connection.

Each test is a step and builds on those before it (``pytest -x``). The operator's machine is a
container with the newest ansible-core (scripts/controller), in which the tests run: a copy of the
repository, a home folder of its own, and the plain commands of the example's README with their
prompts. The server is the container ``$CRISPER_SSH_SERVER``. Nothing sets a variable that the
README does not name; ``ssh`` is a wrapper for ``ssh -F``: it stands for ``~/.ssh/config``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pexpect
import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "molecule/shared"))
from load import report  # noqa: E402

SERVER = os.environ["CRISPER_SSH_SERVER"]
NAME = "app1.example.com"
STACK = "/opt/myapp"
ANSWERS = {
    r"Vault password: ": "vault horse",
    r"BECOME password[^:]*: ": "correct horse",
    r"\(yes/no/\[fingerprint\]\)\? ": "yes",
}
DEPLOY = "ansible-playbook -i inventories/production --ask-vault-pass --ask-become-pass"
EDITOR = """\
import pathlib, secrets, sys
for path in map(pathlib.Path, sys.argv[1:]):
    text = path.read_text()
    while '""' in text:
        text = text.replace('""', f'"{secrets.token_urlsafe(32)}"', 1)
    path.write_text(text)
"""


def on_server(*command: str) -> str:
    """Return what a command prints as root on the server; not by SSH: the test's own look."""
    done = subprocess.run(
        ["docker", "exec", SERVER, *command], capture_output=True, text=True, check=True
    )
    return done.stdout


class Operator:
    """A person at a terminal of the controller."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "crisper"
        without = shutil.ignore_patterns(".git", ".venv*", "__pycache__")
        shutil.copytree(ROOT, self.repository, ignore=without, symlinks=True)
        # What a setup that ran before has made: the image of this machine did it by scripts/setup.
        (self.repository / ".venv").symlink_to(ROOT / ".venv")
        self.address = json.loads(
            subprocess.run(
                ["docker", "inspect", SERVER], capture_output=True, text=True, check=True
            ).stdout
        )[0]["NetworkSettings"]["Networks"]["bridge"]["IPAddress"]
        self.environment = self._home()

    def _home(self) -> dict[str, str]:
        home, tools = self.folder / "home", self.folder / "bin"
        home.mkdir()
        tools.mkdir()
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(home / "key")], check=True
        )
        key = (home / "key.pub").read_text()
        script = (
            "cd ~deploy && install -d -m 700 -o deploy -g deploy .ssh"
            " && cat >.ssh/authorized_keys && chown deploy: .ssh/authorized_keys"
        )
        command = ["docker", "exec", "-i", SERVER, "sh", "-c", script]
        subprocess.run(command, input=key, text=True, check=True)
        self.ssh_config(home, NAME)
        shutil.copy(shutil.which("ssh") or "/usr/bin/ssh", tools / "ssh.real")
        (tools / "ssh").write_text(
            f'#!/bin/sh\nexec "{tools}/ssh.real" -F {home}/ssh_config "$@"\n'
        )
        (tools / "editor").write_text(f"#!{sys.executable}\n{EDITOR}")
        for tool in ("ssh", "editor"):
            (tools / tool).chmod(0o755)
        # What molecule sets for its own plays is none of the operator's.
        own = {k: v for k, v in os.environ.items() if not k.startswith(("ANSIBLE_", "MOLECULE_"))}
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        return own | {
            "HOME": str(home),
            "PATH": path,
            "EDITOR": str(tools / "editor"),
            "TERM": "dumb",
            "NO_COLOR": "1",
            "ANSIBLE_NOCOLOR": "1",
        }

    def ssh_config(self, home: Path, *names: str, port: int = 22) -> None:
        """Write what stands in ``~/.ssh/config``."""
        (home / "ssh_config").write_text(
            f"Host {' '.join(names)}\n  HostName {self.address}\n  Port {port}\n  User deploy\n"
            f"  IdentityFile {home}/key\n  UserKnownHostsFile {home}/known_hosts\n"
        )

    def start(self, command: str) -> pexpect.spawn:
        """Start a command at the terminal."""
        return pexpect.spawn(
            "bash",
            ["-c", command],
            cwd=self.repository,
            env=self.environment,
            encoding="utf-8",
            codec_errors="replace",
            timeout=600,
            dimensions=(50, 200),
        )

    def answer(self, child: pexpect.spawn, answers: dict[str, str]) -> str:
        """Answer every prompt until the command ends; return all that it printed."""
        prompts, printed = [*answers, pexpect.EOF], ""
        while (found := child.expect(prompts)) < len(answers):
            printed += child.before + child.after
            child.sendline(list(answers.values())[found])
        printed += child.before
        child.wait()
        return printed.replace("\r\n", "\n")

    def run(self, command: str, code: int = 0, answers: dict[str, str] | None = None) -> str:
        """Run a command that must end with `code`; return all that it printed."""
        child = self.start(command)
        printed = self.answer(child, ANSWERS if answers is None else answers)
        print(f"$ {command}\n{printed}")
        assert child.exitstatus == code, f"exit code {child.exitstatus}, expected {code}"
        # What a newer Ansible will refuse is met before it does.
        assert "[DEPRECATION WARNING]" not in printed
        return printed

    def change(self, colour: str) -> None:
        """Edit the application's environment: another release."""
        path = self.repository / "inventories/production/group_vars/all/stack.yml"
        text = re.sub(r"    COLOUR: .*\n", "", path.read_text())
        text = text.replace("  environment:\n", f"  environment:\n    COLOUR: {colour}\n")
        path.write_text(text)

    def forget_connections(self) -> None:
        """End the SSH connections that are kept open (ControlPersist)."""
        for pid in self.ssh_processes():
            with contextlib.suppress(ProcessLookupError):  # ended by itself meanwhile
                os.kill(pid, signal.SIGKILL)

    def ssh_processes(self) -> list[int]:
        """Return the processes of this operator's own ssh."""
        found = subprocess.run(
            ["pgrep", "--full", str(self.folder)], capture_output=True, text=True, check=False
        )
        pids = []
        for pid in map(int, found.stdout.split()):
            with contextlib.suppress(OSError):
                if b"ssh" in Path(f"/proc/{pid}/cmdline").read_bytes() and pid != os.getpid():
                    pids.append(pid)
        return pids


@pytest.fixture(scope="module")
def operator(tmp_path_factory):
    person = Operator(tmp_path_factory.mktemp("operator"))
    yield person
    person.forget_connections()


@pytest.fixture
def load(operator):
    """20 requests a second from outside while the step runs; none may fail."""
    command = ["hey", "-z", "900s", "-t", "30", "-c", "4", "-q", "5"]
    address = f"http://{operator.address}/health"
    process = subprocess.Popen([*command, address], stdout=subprocess.PIPE, text=True)
    yield
    process.send_signal(signal.SIGINT)
    seen = report(process.communicate(timeout=60)[0])
    print(seen)
    assert seen["sent"] > 100
    assert seen["failed"] == 0, seen


def current() -> str:
    return on_server("readlink", f"{STACK}/current").strip().rpartition("/")[2]


def environment_of(service: str) -> list[str]:
    label = f"label=com.docker.compose.service={service}"
    ids = on_server("docker", "ps", "--quiet", "--filter", label).split()
    return json.loads(on_server("docker", "inspect", *ids))[0]["Config"]["Env"]


def test_the_operator_has_the_newest_ansible(operator):
    pinned = (ROOT / "requirements/controller-python3.12.txt").read_text()
    version = re.search(r"^ansible-core==([\d.]+)", pinned, re.MULTILINE)[1]
    assert f"[core {version}]" in operator.run("ansible-playbook --version")


def test_everybody_has_a_umask_of_077(operator):
    operator.run(f"ssh deploy@{NAME} true")
    assert operator.run(f"ssh deploy@{NAME} umask").split()[-1] == "0077"
    command = f"echo correct horse | ssh deploy@{NAME} sudo -S sh -c umask"
    assert operator.run(command).split()[-1] == "0077"
    (operator.folder / "home/known_hosts").unlink()


def test_the_commands_of_the_readme_deploy(operator):
    text = (operator.repository / "inventories/example/README.md").read_text()
    commands = text.split("```")[1].strip().splitlines()
    assert len(commands) > 7
    for command in commands:
        printed = operator.run(command)
        if "--check" in command:
            assert on_server("docker", "ps", "--all", "--quiet") == ""
            assert on_server("sh", "-c", f"ls {STACK} 2>/dev/null || true") == ""
            assert re.search(r"^Plan +a new release, the first", printed, re.MULTILINE)
    assert f"URL       http://{operator.address}  answered 200 at " in printed
    assert current()
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{operator.address}/health", timeout=10) as answer:
        assert answer.status == 200
    modes = on_server("stat", "-c", "%a", STACK, f"{STACK}/.lock", f"{STACK}/live/nginx").split()
    assert modes == ["750", "600", "755"]


def test_a_second_run_changes_nothing(operator):
    printed = operator.run(f"{DEPLOY} deploy.yml")
    assert re.search(r"changed=0 +unreachable=0 +failed=0", printed)
    assert "unchanged: the same inputs" in printed
    planned = operator.run(f"{DEPLOY} deploy.yml --tags plan")
    assert f"nothing to deploy: release {current()} is the wanted one" in planned


def test_a_changed_deploy_under_load(operator, load):
    operator.change("blue")
    before = current()
    planned = operator.run(f"{DEPLOY} deploy.yml --check --diff")
    assert re.search(rf"^Plan +a new release instead of {before}", planned, re.MULTILINE)
    assert "+COLOUR=<redacted>" in planned
    assert current() == before
    printed = operator.run(f"{DEPLOY} deploy.yml")
    sentinels = r"Tasks +sentinel tasks of this deploy: [1-9]\d* accepted, .* 0 lost, 0 run twice"
    assert re.search(sentinels, printed)
    assert re.search(r"Requests +[1-9]\d* probed, 0 failed", printed)
    assert current() != before
    assert "COLOUR=blue" in environment_of("backend")


def test_a_deploy_whose_controller_dies_is_picked_up(operator, load):
    operator.change("green")
    before = current()
    child = operator.start(f"{DEPLOY} deploy.yml")
    for prompt in (r"BECOME password[^:]*: ", r"Vault password: "):
        child.expect(prompt)
        child.sendline(ANSWERS[prompt])
    deadline = time.monotonic() + 300
    known = on_server("cat", f"{STACK}/journal.jsonl").count('"start"')
    while on_server("cat", f"{STACK}/journal.jsonl").count('"start"') == known:
        assert time.monotonic() < deadline, "no rollout began"
        assert child.isalive(), "the deploy ended before its rollout"
        child.expect([pexpect.TIMEOUT, pexpect.EOF], timeout=0.1)
    os.killpg(child.pid, signal.SIGKILL)
    operator.forget_connections()
    child.close(force=True)
    assert current() == before
    status = operator.run(f"{DEPLOY} playbooks/status.yml")
    assert re.search(r"^(Cut off|Has lock) .*in step", status, re.MULTILINE)
    printed = operator.run(f"{DEPLOY} deploy.yml")
    assert re.search(r"Picked up .*: resumed", printed)
    assert "COLOUR=green" in environment_of("backend")
    assert current() != before


def test_a_rollback_under_load(operator, load):
    before = current()
    printed = operator.run(f"{DEPLOY} deploy.yml --tags rollback")
    assert f"put back; before: {before}" in printed
    assert "COLOUR=blue" in environment_of("backend")


def test_backup_status_releases_and_verify(operator):
    operator.run(f"{DEPLOY} playbooks/backup.yml")
    status = operator.run(f"{DEPLOY} playbooks/status.yml")
    assert re.search(r"^Release +\S+, made .*, verified", status, re.MULTILINE)
    assert not re.search(r"^Backup +no set", status, re.MULTILINE)
    operator.run(f"{DEPLOY} deploy.yml --tags releases")
    operator.run(f"{DEPLOY} deploy.yml --tags verify")


def test_sudo_without_a_password_and_with_a_terminal(operator):
    rule = "deploy ALL=(ALL:ALL) NOPASSWD: ALL\nDefaults requiretty\n"
    write = f"printf '%s' '{rule}' >/etc/sudoers.d/zz-deploy && chmod 440 /etc/sudoers.d/zz-deploy"
    on_server("sh", "-c", write)
    command = "ansible-playbook -i inventories/production --ask-vault-pass deploy.yml"
    printed = operator.run(command, code=4)
    assert "ansible_pipelining: false" in printed
    hosts = operator.repository / "inventories/production/hosts.yml"
    before = hosts.read_text()
    hosts.write_text(f"{before.rstrip()}\n      ansible_pipelining: false\n")
    operator.change("red")
    printed = operator.run(command)
    assert re.search(r"Requests +[1-9]\d* probed, 0 failed", printed)
    assert "COLOUR=red" in environment_of("backend")
    hosts.write_text(before)
    on_server("rm", "/etc/sudoers.d/zz-deploy")


@pytest.mark.parametrize(
    ("given", "cause", "remedy"),
    [
        ("wrong password", "sudo refused the password", "ansible_become_password"),
        ("no password", "none was given", "--ask-become-pass"),
        ("unknown host key", "its host key is not known here", "ssh-keyscan"),
        ("closed port", "nothing answers on that port", "ansible_port"),
    ],
)
def test_a_connection_that_fails_is_one_clear_message(operator, given, cause, remedy):
    home = operator.folder / "home"
    operator.forget_connections()
    command, answers = f"{DEPLOY} deploy.yml", dict(ANSWERS)
    if given == "wrong password":
        answers[r"BECOME password[^:]*: "] = "wrong"
    elif given == "no password":
        command = command.replace("--ask-become-pass ", "")
    elif given == "unknown host key":
        (home / "known_hosts").rename(home / "known_hosts.kept")
    else:
        operator.ssh_config(home, NAME, port=9)
    try:
        printed = operator.run(command, code=4, answers=answers)
    finally:
        if given == "unknown host key":
            (home / "known_hosts.kept").replace(home / "known_hosts")
        operator.ssh_config(home, NAME)
    assert cause in printed
    assert remedy in printed
    assert NAME in printed
    assert "undone" not in printed.lower()
    assert "What serves" not in printed
    assert printed.count("fatal: ") <= 1
