"""Stub: every command in a container succeeds."""

from __future__ import annotations

from ansible.module_utils.stub_module import COMPOSE, Stub

options = {
    **COMPOSE,
    "service": {"type": "str"},
    "argv": {"type": "list", "elements": "str"},
    "tty": {"type": "bool"},
}
Stub("docker_compose_v2_exec", options).end(rc=0, stdout="", stderr="")
