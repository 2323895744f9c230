"""A host that cannot be managed is one clear message, and nothing is undone after it."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.playbook.connection import (
    Target,
    describe_connection_failure,
)
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
HOST = Target("app-1", "192.0.2.7", "2222", "deployer")
# As ssh 9.2 and sudo 1.9 print it through Ansible 2.19; the host's name and key changed.
CHANGED = """Failed to connect to the host via ssh: @@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
It is also possible that a host key has just been changed.
The fingerprint for the ED25519 key sent by the remote host is
SHA256:rsHvoW2QAS8VebM4tGU1YmZvrP1/XMhk69ftc+bSmfM.
Offending ED25519 key in /home/deployer/.ssh/known_hosts:1
Host key for 192.0.2.7 has changed and you have requested strict checking.
Host key verification failed."""
REAL = {
    CHANGED: ("its host key is another one", "ssh-keygen -R '[192.0.2.7]:2222'"),
    "Failed to connect to the host via ssh: Host key verification failed.": (
        "its host key is not known here",
        "ssh-keyscan -p 2222 192.0.2.7 >> ~/.ssh/known_hosts",
    ),
    "Failed to connect to the host via ssh: deployer@192.0.2.7: Permission denied"
    " (publickey,password).": ("the login was refused", "ansible_ssh_private_key_file"),
    "to use the 'ssh' connection type with passwords or pkcs11_provider, you must install the"
    " sshpass program": ("sshpass is missing", "Install sshpass"),
    "Failed to connect to the host via ssh: ssh: connect to host 192.0.2.7 port 2222: Connection"
    " refused": ("nothing answers on that port", "ansible_port"),
    "Failed to connect to the host via ssh: ssh: Could not resolve hostname nowhere.invalid: Name"
    " or service not known": ("nowhere.invalid has no address", "ansible_host"),
    "Failed to connect to the host via ssh: Connection timed out during banner exchange\r\n"
    "Connection to 192.0.2.7 port 2222 timed out": ("no answer came", "firewalls"),
    "Using a SSH password instead of a key is not possible because Host Key checking is enabled and"
    " sshpass does not support this.": ("its host key is not known here", "ssh-keyscan"),
    "Permission denied for intruders\nssh: connect to host 192.0.2.7 port 2222: Connection"
    " refused": (
        "nothing answers on that port",
        "ansible_port",
    ),
    "sudo: unable to resolve host app1: Name or service not known\nsudo: unknown user: opss": (
        "Cannot become root on app-1",
        "Try it by hand",
    ),
    "Control socket connect(/root/x): Permission denied": (
        "the reason is quoted below",
        "Try it by hand",
    ),
    "sudo: sorry, you must have a tty to run sudo\n": (
        "sudo needs a terminal (requiretty)",
        "ansible_pipelining: false",
    ),
    "Missing sudo password": ("sudo asks deployer for a password", "--ask-become-pass"),
    "\nsudo: a password is required\n": ("none was given", "ansible_become_password"),
    "Incorrect sudo password": ("sudo refused the password", "--ask-become-pass"),
    "\ndeployer is not in the sudoers file.\n": (
        "sudo does not let deployer become root",
        "/etc/sudoers.d",
    ),
    "\n/bin/sh: 1: sudo: not found\n": ("sudo is not installed", "ansible_become_method"),
    "Timeout (12s) waiting for privilege escalation prompt: ": (
        "did not answer in time",
        "by hand",
    ),
}


@pytest.mark.parametrize(("output", "said"), REAL.items())
def test_what_ssh_and_sudo_print_is_one_message_with_a_remedy(output, said):
    message = describe_connection_failure(HOST, output)
    what, remedy = message.split("\n")[:2]
    assert "app-1 (deployer@192.0.2.7, port 2222): " in what
    assert said[0] in what
    assert what.endswith("Nothing was done.")
    assert said[1] in remedy
    goal = "become root on" if "sudo" in what or "sudo: " in output else "connect to"
    assert what.startswith(f"Cannot {goal} app-1") or "sshpass" in what


def test_a_controller_without_room_is_told_before_any_server_is_touched():
    place = ROOT / "plugins/action/connection_check.py"
    spec = importlib.util.spec_from_file_location("connection_check", place)
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    assert plugin.find_lack_of_room("/tmp/x", plugin.ROOM_BYTES) == ""
    said = plugin.find_lack_of_room("/tmp/x", 3_000_000)
    assert "3 MB free in /tmp/x" in said
    assert "ANSIBLE_LOCAL_TEMP" in said
    assert said.endswith("No server was touched.")


def test_what_is_not_known_is_quoted():
    message = describe_connection_failure(Target("app-1"), "kex_exchange_identification: reset")
    assert message.splitlines()[0].startswith("Cannot connect to app-1: the reason is quoted below")
    assert "Check ansible_connection" in message
    assert "ssh -p 2222 deployer@192.0.2.7" in describe_connection_failure(HOST, "reset")
    assert message.endswith("\n| kex_exchange_identification: reset")
    assert "it printed nothing" in describe_connection_failure(Target("app-1"), " \n")


@given(st.text(), st.text(), st.text())
def test_any_output_and_any_name_is_a_message(output, name, user):
    target = Target(name, "{x}", "", user)
    assert "Nothing was done." in describe_connection_failure(target, output)


# --- As a deploy meets it ----------------------------------------------------------------------


def play(*arguments: str) -> tuple[int, str]:
    """Exit code and output of ansible-playbook in this repository."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def site(tmp_path: Path) -> str:
    """The local inventory's variables, for two servers that do not answer and one that does."""
    (tmp_path / "site/group_vars").mkdir(parents=True)
    local = ROOT / "inventories/local/group_vars/all"
    (tmp_path / "site/group_vars/all").symlink_to(local)
    gone = {"ansible_host": "127.0.0.1", "ansible_port": 1, "ansible_user": "deployer"}
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    hosts = {"stack": {"hosts": {"app-1": gone, "app-2": gone, "here": here}}}
    (tmp_path / "site/hosts.yml").write_text(yaml.safe_dump(hosts))
    return str(tmp_path / "site")


@pytest.mark.parametrize(
    "playbook", ["deploy.yml", *(f"playbooks/{name}.yml" for name in ("backup", "down", "images"))]
)
def test_a_host_that_does_not_answer_ends_the_play_before_anything(playbook, site):
    code, output = play("-i", site, playbook, "--limit", "app-1", "-e", "down_delete_data=no")
    assert code == 4, output
    assert "Cannot connect to app-1 (deployer@127.0.0.1, port 1): nothing answers" in output
    assert "The deploy of" not in output
    assert "TASK [begin : Record" not in output


def test_every_host_is_told_and_nothing_is_done_on_those_that_answer(site):
    code, output = play("-i", site, "deploy.yml")
    assert code == 4, output
    for host in ("app-1", "app-2"):
        assert f"Cannot connect to {host}" in output
    assert "TASK [begin : Record" not in output
    assert "rescued=0" in output


def test_every_playbook_of_an_operator_connects_before_it_acts():
    for path in [ROOT / "deploy.yml", *(ROOT / "playbooks").glob("*.yml")]:
        plays = yaml.safe_load(path.read_text())
        if plays[0].get("ansible.builtin.import_playbook") == "../deploy.yml":
            continue  # which connects
        for one in plays:
            tasks = [*one.get("pre_tasks", []), *one.get("tasks", [])]
            first = next(i for i, task in enumerate(tasks) if "connection_check" in task)
            before = {
                task.get("ansible.builtin.import_role", {}).get("name") for task in tasks[:first]
            }
            assert before <= {"stack"}, path


RESCUE = """
- hosts: stack
  gather_facts: false
  any_errors_fatal: true
  vars: {stack_name: shop, stack_root: /nowhere}
  tasks:
    - name: Do something
      block:
        - name: Look at the stack
          ansible.builtin.import_role: {name: begin, tasks_from: fact}
          vars: {begin_news: "{{ {'state': wanted} if wanted is defined else {} }}"}
        - name: Break
          ansible.builtin.fail: {msg: broken}
      rescue:
        - ansible.builtin.include_role: {name: rollback, tasks_from: automatic}
"""


@pytest.mark.parametrize(
    ("facts", "serves"),
    [
        ({}, "not checked; this run had not begun to change anything"),
        ({"locked": False, "current": "r1"}, "not checked; this run had not begun"),
    ],
)
def test_a_run_that_never_asked_for_the_lock_asks_no_server(facts, serves, site, tmp_path):
    """Regression: the rescue looked at the server again, and failed as the deploy had."""
    playbook = tmp_path / "play.yml"
    playbook.write_text(RESCUE)
    given = f'{{"wanted": {facts}}}'.replace("'", '"').replace("False", "false") if facts else "{}"
    code, output = play("-i", site, str(playbook), "--limit", "app-1", "-e", given)
    assert code == 2
    assert "What failed: Break: " in output
    assert f"What serves: {serves}" in output
    assert "UNREACHABLE" not in output


LOST = """
- hosts: stack
  gather_facts: false
  vars:
    ansible_connection: local
    owner: {id: r1, who: Kim, controller: here, process: 1@1}
  tasks:
    - name: Lock the stack
      deploy_begin: {root: "{{ folder }}", project: lost, owner: "{{ owner }}"}
    - name: Give the lock back
      deploy_journal: {run: {root: "{{ folder }}", id: r1}, state: ended, result: done}
      when: ended | default(false)
    - name: Act
      ansible.builtin.import_role: {name: maintenance}
      vars: {ansible_connection: ssh, stack_root: "{{ folder }}"}
"""


@pytest.mark.parametrize(
    ("ended", "said"),
    [
        ("{}", "this run holds the lock of the stack there"),
        ('{"ended": true}', "this run does not hold the lock"),
    ],
)
def test_a_host_that_stops_answering_in_the_middle_is_told(ended, said, site, tmp_path):
    """No rescue runs on it: Ansible gives an unreachable host no task any more."""
    playbook = tmp_path / "play.yml"
    playbook.write_text(LOST)
    code, output = play(
        *("-i", site, str(playbook), "--limit", "app-1", "-e", f"folder={tmp_path}/stack"),
        *("-e", ended, "-e", f"ansible_python_interpreter={sys.executable}"),
    )
    assert code == 4, output
    assert "LOST app-1" in output
    assert "app-1 stopped answering in the task 'maintenance : " in output
    assert said in output
    assert "run the same command again" in output
