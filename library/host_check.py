#!/usr/bin/python
"""Is this host fit for the stack? All findings at once, each with what to do."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_check
short_description: Every reason why a host is not fit for the stack, each with a remedy
description:
  - Looks at the operating system, architecture, Python, privilege, disk, inodes, memory, ports,
    clock and the addresses the deploy needs, and returns every finding.
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
- name: The host is looked at
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

import dataclasses
import json
import os
import platform
import re
import shutil
import sys
import time
from urllib.error import HTTPError

from ansible.module_utils import crisper_host as logic
from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

SPEC = {
    "stack": {"type": "str", "default": ""},
    "paths": {"type": "list", "elements": "path", "default": ["/var/lib/docker"]},
    "min_disk_gb": {"type": "float", "default": 10},
    "min_inodes": {"type": "int", "default": 100000},
    "memory_required_bytes": {"type": "int", "default": 0},
    "ports": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "port": {"type": "int", "required": True},
            "address": {"type": "str", "default": "0.0.0.0"},  # noqa: S104
        },
    },
    "controller_epoch": {"type": "float", "default": 0},
    "clock_skew": {"type": "float", "default": 60},
    "supported_os": {"type": "dict", "required": True},
    "supported_arch": {"type": "list", "elements": "str", "default": ["x86_64", "aarch64"]},
    "registries": {"type": "list", "elements": "str", "default": []},
    "docker_repository": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 8},
}


def read(path: str) -> str:
    """The text of a file; '' where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def os_release() -> dict[str, str]:
    """Fields of os-release."""
    lines = (line.split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    return {key: value.strip("\"'") for key, value in lines}


def filesystem(path: str) -> logic.Filesystem:
    """The filesystem a path is on, or will be: that of its nearest parent."""
    place = os.path.realpath(path)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    numbers = os.statvfs(place)
    mount = place
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    return logic.Filesystem(
        path=path,
        mount=mount,
        device=str(os.stat(place).st_dev),  # two bind mounts may be one filesystem
        free_bytes=numbers.f_bavail * numbers.f_frsize,
        total_inodes=numbers.f_files,
        free_inodes=numbers.f_favail,
    )


def memory() -> int:
    """Bytes of memory: the machine's, or the container's if this is one with a limit."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo"), re.MULTILINE)
    total = int(match[1]) * 1024 if match else 0
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = read(path).strip()
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def containers(module: AnsibleModule) -> list[dict[str, str]]:
    """Running containers with their labels and ports; none where no engine answers."""
    docker = shutil.which("docker", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
    if not docker:
        return []
    rc, out, _err = module.run_command([docker, "ps", "--no-trunc", "--format", "{{json .}}"])
    return [json.loads(line) for line in out.splitlines()] if rc == 0 else []


def sockets_of_processes() -> dict[str, str]:
    """Socket inode -> 'name (pid n)'."""
    owners = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for handle in os.listdir(f"/proc/{pid}/fd"):
                target = os.readlink(f"/proc/{pid}/fd/{handle}")
                if target.startswith("socket:["):
                    owners[target[8:-1]] = f"{read(f'/proc/{pid}/comm').strip()} (pid {pid})"
        except OSError:
            continue  # it ended, or is not ours to look at
    return owners


def listeners(module: AnsibleModule) -> list[logic.Listener]:
    """Listening TCP sockets and who holds them; ports Docker forwards without a proxy too."""
    published: dict[int, tuple[str, str]] = {}
    forwarded = []
    for container in containers(module):
        labels = dict(part.partition("=")[::2] for part in container.get("Labels", "").split(","))
        stack = labels.get("crisper.stack", "")
        for address, port in logic.published(container.get("Ports", "")):
            name = f"the container {container['Names']}"
            published[port] = (name, stack)
            forwarded.append(logic.Listener(address, port, name, stack))
    owners: dict[str, str] = {}
    found = []
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for address, port, inode in logic.listening(read(table)):
            owners = owners or sockets_of_processes()
            process = owners.get(inode, "")
            stack = ""
            if port in published and (not process or process.startswith("docker-proxy")):
                process, stack = published[port]
            found.append(logic.Listener(address, port, process, stack))
    return found + forwarded


def reach(url: str, why: str, timeout: int) -> logic.Reach:
    """Ask an address; any HTTP status below 500 is an answer (a registry says 401)."""
    try:
        open_url(url, timeout=timeout)
        error = ""
    except HTTPError as answer:
        error = f"HTTP {answer.code}" if answer.code >= 500 or answer.code == 404 else ""
    except Exception as problem:
        error = str(getattr(problem, "reason", "") or problem)
    return logic.Reach(url, why, error)


def reaches(params: dict, release: dict[str, str]) -> list[logic.Reach]:
    """The addresses this deploy needs."""
    wanted = [
        (f"https://{host}/v2/", "image_source is 'registry'; 'local' needs no registry")
        for host in sorted({logic.registry_of(ref) for ref in params["registries"]})
    ]
    if params["docker_repository"]:
        base = params["docker_repository"].rstrip("/")
        wanted.append(
            (
                f"{base}/{release.get('ID', '')}/dists/"
                f"{release.get('VERSION_CODENAME', '')}/Release",
                "docker_source is 'docker'; 'distro' does without it",
            )
        )
    return [reach(url, why, params["timeout"]) for url, why in wanted]


def main() -> None:
    """Gather, judge, report."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    params = module.params
    epoch = time.time()  # first: what follows may take its time
    release = os_release()
    host = logic.Host(
        os_id=release.get("ID", ""),
        os_version=release.get("VERSION_ID", ""),
        arch=platform.machine(),
        python=list(sys.version_info[:3]),
        root=os.geteuid() == 0,
        memory_bytes=memory(),
        epoch=epoch,
        filesystems=[filesystem(path) for path in params["paths"]],
        listeners=listeners(module) if params["ports"] else [],
        reaches=reaches(params, release),
    )
    needs = logic.Needs(
        supported_os={name: list(map(str, v)) for name, v in params["supported_os"].items()},
        supported_arch=params["supported_arch"],
        stack=params["stack"],
        disk_gb=params["min_disk_gb"],
        inodes=params["min_inodes"],
        memory_bytes=params["memory_required_bytes"],
        ports=params["ports"],
        controller_epoch=params["controller_epoch"],
        clock_skew=params["clock_skew"],
    )
    module.exit_json(
        changed=False,
        findings=[dataclasses.asdict(finding) for finding in logic.judge(host, needs)],
        host=dataclasses.asdict(host),
    )


if __name__ == "__main__":
    main()
