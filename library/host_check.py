#!/usr/bin/python
"""Check a host for everything that the stack needs: all findings at once, each with a remedy."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Every reason why a host is not fit for the stack, each with a remedy
description:
  - Looks at the operating system, architecture, Python, privilege, disk, inodes, memory, ports,
    clock, the versions of databases, the addresses the deploy needs and the paths that containers
    get, and returns every finding.
  - Changes nothing, does not fail on findings, and needs no Docker on the host.
author: [Crisper]
options:
  stack:
    description: Name of the stack; ports its containers publish count as free.
    type: str
    default: ''
  paths:
    description: Paths that need room. One that is not there yet stands for its nearest parent.
    type: list
    elements: path
    default: [/var/lib/docker]
  min_disk_gb:
    description: GB that must be free on each filesystem of these paths.
    type: float
    default: 10
  min_inodes: {description: Inodes that must be free there., type: int, default: 100000}
  memory_required_bytes:
    description: Memory that the services may use together.
    type: int
    default: 0
  ports:
    description: TCP ports the stack will publish.
    type: list
    elements: dict
    default: []
    suboptions:
      port: {description: The port., type: int, required: true}
      address: {description: The address it is bound to., type: str, default: 0.0.0.0}
  controller_epoch:
    description: The controller's time in seconds; 0 compares nothing.
    type: float
    default: 0
  clock_skew: {description: Seconds the clocks may differ., type: float, default: 60}
  supported_os: {description: Supported versions by os-release ID., type: dict, required: true}
  supported_arch:
    description: Supported architectures, as uname -m has them.
    type: list
    elements: str
    default: [x86_64, aarch64]
  databases:
    description:
      - Service to image reference of C(postgres) and C(mariadb). Data in the stack's volumes must
        be of a version that the image can open.
    type: dict
    default: {}
  root:
    description:
      - Folder of the stack. Where it names a current release, the volumes with its data must be in
        this engine, and in the hands of no process outside of it. Empty looks at nothing of that.
    type: path
    default: ""
  recreate_volumes:
    description: Whether data volumes of the current release that are gone are to be made anew.
    type: bool
    default: false
  isolation:
    description: Whether the host is closed to the containers, which needs iptables.
    type: bool
    default: false
  shared_paths:
    description: Folders, files and devices of the host that containers get. They must be there, and
      give away neither the engine nor the host.
    type: list
    elements: dict
    default: []
    suboptions:
      place: {description: "The variable that has it, for messages.", type: str, required: true}
      path: {description: The path., type: str, required: true}
      read_only: {description: Whether the container only reads it., type: bool, default: false}
  registries:
    description: Image references whose registries must answer.
    type: list
    elements: str
    default: []
  docker_repository:
    description: Docker's apt repository, if it must answer; the release's path is appended.
    type: str
    default: ""
  timeout: {description: Seconds an address has to answer., type: int, default: 8}
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: Check the host
  host_check:
    stack: crisper
    paths: [/var/lib/docker, /opt/crisper]
    ports: [{port: 80}]
    supported_os: {debian: ["12", "13"]}
  register: checked
"""

RETURN = r"""
findings:
  description: What is wrong; empty for a fit host.
  type: list
  elements: dict
  returned: always
  sample:
    - check: port
      severity: error
      message: port 0.0.0.0:80 is taken by apache2 (pid 812)
      remedy: stop that, or choose another port or address (stack_http_port, stack_https_port,
        stack_bind_address)
host:
  description: What was seen, the judged facts.
  type: dict
  returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.host.facts import SPEC, check_host


def main() -> None:
    """Gather, judge, report."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    module.exit_json(changed=False, **check_host(module, module.params))


if __name__ == "__main__":
    main()
