"""Say why a host could not be connected to, or its operator could not become root there.

Pure functions, on what ssh, sudo and Ansible's connection plugins print.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from ..output import last_lines
from ..text import quoted_lines


@dataclass(frozen=True)
class Target:
    """A host as Ansible connects to it; what is not known is empty."""

    name: str
    address: str = ""
    port: str = ""
    user: str = ""
    method: str = "sudo"
    become_user: str = "root"

    def __str__(self) -> str:
        """Return ``app-1 (deployer@192.0.2.7, port 22)``; the name alone if no more is known."""
        place = f"{self.user}@{self.address}" if self.user else self.address
        port = f", port {self.port}" if self.port else ""
        return f"{self.name} ({place}{port})" if self.address else self.name


@dataclass(frozen=True)
class Cause:
    """A cause of failure: the output that shows it, and what to do about it."""

    pattern: re.Pattern[str]
    what: str
    remedy: str


def _cause(pattern: str, what: str, remedy: str) -> Cause:
    return Cause(re.compile(pattern, re.IGNORECASE), what, remedy)


SCAN = "ssh-keyscan {scan}{address} >> ~/.ssh/known_hosts"
CONNECTION = (
    _cause(
        r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed",
        "its host key is another one than the known one",
        "If the server was installed anew, compare the fingerprint with the server's own, remove"
        " the old key (ssh-keygen -R {known}) and add the new one: " + SCAN,
    ),
    _cause(
        r"Host key verification failed|host key is known for|authenticity of host"
        r"|Host Key checking is enabled|Host public key is unknown",
        "its host key is not known here",
        f"Compare the fingerprint with the server's own and add the key: {SCAN}",
    ),
    _cause(
        r"you must install the sshpass program|sshpass\b.*(not found|No such file)",
        "the controller cannot give ssh a password: the program sshpass is missing",
        "Install sshpass, or use a key: ansible_ssh_private_key_file",
    ),
    _cause(
        r"Connection refused",
        "nothing answers on that port",
        "Check ansible_host and ansible_port, and that sshd runs",
    ),
    _cause(
        r"timed out|No route to host|Network is unreachable|Host is down",
        "no answer came",
        "Check ansible_host and ansible_port, the network and its firewalls, and that the server"
        " runs",
    ),
    _cause(
        r"Could not resolve hostname (?P<name>\S+?):?\s|Name or service not known",
        "the name {name} has no address",
        "Check the name in the inventory and in the jump host of ~/.ssh/config, or set"
        " ansible_host",
    ),
    # As ssh ends its line; a banner or a path may have the first two words alone.
    _cause(
        r"Permission denied \(|Permission denied, please try again|Authentication failed"
        r"|Too many authentication failures|Invalid/incorrect password",
        "the login was refused",
        "Check ansible_user and its key (ansible_ssh_private_key_file, ssh-add), or give its"
        " password: --ask-pass",
    ),
)
BECOME = (
    _cause(
        r"you must have a tty",
        "{method} needs a terminal (requiretty), and pipelining gives none",
        "Set ansible_pipelining: false for this host in the inventory",
    ),
    _cause(
        r"Missing \w+ password|a (terminal|password) is required|no tty present",
        "{method} asks {who} for a password, and none was given",
        "Give it: --ask-become-pass, or ansible_become_password from a vault",
    ),
    _cause(
        r"Incorrect \w+ password|Sorry, try again|incorrect password attempt"
        r"|Authentication failure",
        "{method} refused the password",
        "Give the right one: --ask-become-pass, or ansible_become_password from a vault",
    ),
    _cause(
        r"not in the sudoers file|is not allowed to (run|execute)|may not run sudo",
        "{method} does not let {who} become {become_user}",
        "Give that user the right to (a file in /etc/sudoers.d), or set another ansible_user",
    ),
    _cause(
        r"(sudo|su|doas):? (command )?not found|No such file or directory.*\b(sudo|su|doas)\b",
        "{method} is not installed there",
        "Install it, log in as root (ansible_user: root), or set ansible_become_method",
    ),
    _cause(
        r"waiting for privilege escalation prompt|escalation prompt",
        "{method} did not answer in time",
        "If it asks for a password, give it (--ask-become-pass, or ansible_become_password from a"
        " vault); else try it by hand on the server",
    ),
)
BECOME_LINE = re.compile(r"\s*(?:\S+: )?(?:sudo|su|doas):")
BECOME_FAILED = re.compile(
    r"become success|Unknown command: (sudo|su|doas)|command not found: (sudo|su|doas)"
)
OTHER = "Try it by hand: ssh {login}"
# Of a connection that is not SSH, such as that into a container.
OTHER_PLUGIN = "Check ansible_connection and ansible_host"


def describe_connection_failure(target: Target, output: str) -> str:
    """Return one message for a first contact that failed: what, where, why and the remedy.

    Args:
        target: the host.
        output: what the connection plugin, ssh or sudo said.
    """
    text = last_lines(output)
    become = f"become {target.become_user} on"
    # What sudo itself prints is about becoming another user, whatever words it has in it.
    outside = "\n".join(line for line in text.splitlines() if not BECOME_LINE.match(line))
    for causes, goal, searched in ((BECOME, become, text), (CONNECTION, "connect to", outside)):
        for cause in causes:
            if found := cause.pattern.search(searched):
                name = found.groupdict().get("name") or target.address or target.name
                return _sentence(target, goal, cause.what.replace("{name}", name), cause.remedy)
    goal = become if outside != text or BECOME_FAILED.search(text) else "connect to"
    reason = text or "it printed nothing"
    remedy = OTHER if target.address else OTHER_PLUGIN
    return (
        f"{_sentence(target, goal, 'the reason is quoted below', remedy)}\n{quoted_lines(reason)}"
    )


def describe_lost_host(host: str, task: str, locked: bool) -> str:
    """Return what is known of a host that stopped answering during a run, and what to do.

    Args:
        host: its name in the inventory.
        task: the task during which it stopped.
        locked: whether this run has the lock of the stack there.
    """
    head = f"{host} stopped answering in the task '{task}'."
    if not locked:
        return (
            f"{head}\nKnown: this run does not hold the lock of the stack there, so no step of a"
            " deploy is open.\n"
            "When the host answers, run the same command again."
        )
    return (
        f"{head}\n"
        "Known: this run holds the lock of the stack there. A step that was on its way ends by"
        " itself; no further one is taken.\n"
        "Not known: which release serves there now. No check was possible.\n"
        "When the host answers, run the same command again: it says in which step this run was cut"
        " off, and resumes or reverts it. ansible-playbook playbooks/status.yml says what runs."
    )


def _sentence(target: Target, goal: str, what: str, remedy: str) -> str:
    scan = f"-p {target.port} " if target.port not in ("", "22") else ""
    address = target.address or target.name
    values = {
        "method": target.method,
        "who": target.user or "the user",
        "become_user": target.become_user,
        "address": address,
        "scan": scan,
        "known": f"'[{address}]:{target.port}'" if scan else address,
        "login": f"{scan}{target.user + '@' if target.user else ''}{address}",
    }
    return (
        f"Cannot {goal} {target}: {what.format(**values)}. Nothing was done.\n"
        f"{remedy.format(**values)}."
    )
