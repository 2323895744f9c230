"""The address of a host is that of its own connection, also in a task that is delegated."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
PLAY = """
- hosts: all
  gather_facts: false
  tasks:
    - name: Store the address
      ansible.builtin.set_fact: {stack_address: "{{ lookup('crisper_address') }}"}
    - name: Load the defaults of role verify
      ansible.builtin.include_vars: {file: %(root)s/roles/verify/defaults/main.yml, name: defaults}
    - name: Write what a delegated task reads
      ansible.builtin.copy:
        content: "{{ defaults.verify_address }}"
        dest: "%(folder)s/{{ inventory_hostname }}.txt"
        mode: "0600"
      delegate_to: localhost
      vars:
        ansible_connection: local
        ansible_python_interpreter: "{{ ansible_playbook_python }}"
"""
SSH_CONFIG = """\
Host alias
  HostName 192.0.2.77
Match originalhost matched user deploy
  HostName 192.0.2.12
"""
HOSTS = {
    "alias": {},
    "plain": {"ansible_host": "192.0.2.8", "ansible_user": "deploy"},
    "templated": {"ansible_host": "{{ address }}", "address": "192.0.2.9"},
    "optioned": {"ansible_ssh_common_args": "-o HostName={{ address }}", "address": "192.0.2.10"},
    "matched": {"ansible_user": "deploy"},
    "broken": {
        "ansible_host": "192.0.2.11",
        "ansible_ssh_common_args": "-o 'x",
    },
    "six": {"ansible_host": "2001:db8::7"},
    "local": {"ansible_connection": "local"},
    "container": {"ansible_connection": "community.docker.docker", "ansible_host": "name"},
}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    assert shutil.which("ssh"), "openssh-client is missing: apt-get install openssh-client"
    folder = tmp_path_factory.mktemp("address")
    (folder / "ssh_config").write_text(SSH_CONFIG)
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": HOSTS}}))
    (folder / "play.yml").write_text(PLAY % {"root": ROOT, "folder": folder})
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "hosts.json", "play.yml"],
        cwd=folder,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_SSH_EXTRA_ARGS": f"-F {folder}/ssh_config",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return {path.stem: path.read_text() for path in folder.glob("*.txt")}


@pytest.mark.parametrize(
    ("host", "address"),
    [
        ("alias", "192.0.2.77"),
        ("plain", "192.0.2.8"),
        ("templated", "192.0.2.9"),
        ("optioned", "192.0.2.10"),
        ("matched", "192.0.2.12"),
        ("broken", "192.0.2.11"),
        ("six", "2001:db8::7"),
        ("local", ""),
        ("container", "name"),
    ],
)
def test_the_address_is_the_connections_own(addresses, host, address):
    assert addresses[host] == address
