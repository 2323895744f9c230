#!/usr/bin/python
"""Which of some TCP ports answer, seen from where the module runs."""

from __future__ import annotations

DOCUMENTATION = r"""
module: port_probe
short_description: Which of some TCP ports answer, seen from where the module runs
description:
  - Connects to all ports at once and tells which were open. Sends nothing.
options:
  address:
    description: Host name or address; empty takes this machine's own address on its default
      route, which is what others reach it by.
    type: str
    default: ""
  ports:
    description: The ports.
    type: list
    elements: int
    required: true
  timeout:
    description: Seconds to wait for an answer.
    type: float
    default: 1.0
attributes:
  check_mode:
    description: It only looks.
    support: full
  diff_mode:
    description: There is nothing to show.
    support: none
author: Crisper
"""

EXAMPLES = r"""
- name: The data ports are looked at from here
  port_probe:
    address: app1.example.com
    ports: [5432, 6379, 6333]
  delegate_to: localhost
"""

RETURN = r"""
address:
  description: The address that was tried.
  returned: always
  type: str
  sample: 192.0.2.10
open:
  description: Ports that accepted a connection.
  returned: always
  type: list
  elements: int
  sample: [6379]
"""

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from ansible.module_utils.basic import AnsibleModule

ARGUMENT_SPEC: dict[str, Any] = {
    "address": {"type": "str", "default": ""},
    "ports": {"type": "list", "elements": "int", "required": True},
    "timeout": {"type": "float", "default": 1.0},
}


def own_address() -> str:
    """This machine's address on its default route; nothing is sent to find it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # TEST-NET-1 (RFC 5737): routed, never reached
            return str(probe.getsockname()[0])
        except OSError:
            return "127.0.0.1"


def is_open(address: str, port: int, timeout: float) -> bool:
    """Whether the port accepts a connection."""
    try:
        with socket.create_connection((address, port), timeout=timeout):
            return True
    except OSError:
        return False


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    address = module.params["address"] or own_address()
    ports, timeout = module.params["ports"], module.params["timeout"]
    with ThreadPoolExecutor(max_workers=16) as pool:
        answers = list(pool.map(lambda port: is_open(address, port, timeout), ports))
    found = [port for port, answered in zip(ports, answers, strict=True) if answered]
    module.exit_json(changed=False, address=address, open=found)


if __name__ == "__main__":
    main()
