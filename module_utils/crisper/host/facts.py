"""Gather the facts of a host, and judge whether it is fit for the stack."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import re
import shutil
import stat
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError

from ..database.versions import Misfit, find_misfits
from . import checks as logic
from .data_guard import check_data
from .shared_paths import DEVICE, FILE, FOLDER, OTHER, SOCKET, SharedPath

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

SPEC: dict[str, Any] = {
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
    "databases": {"type": "dict", "default": {}},
    "root": {"type": "path", "default": ""},
    "recreate_volumes": {"type": "bool", "default": False},
    "isolation": {"type": "bool", "default": False},
    "shared_paths": {
        "type": "list",
        "elements": "dict",
        "default": [],
        "options": {
            "place": {"type": "str", "required": True},
            "path": {"type": "str", "required": True},
            "read_only": {"type": "bool", "default": False},
        },
    },
    "registries": {"type": "list", "elements": "str", "default": []},
    "docker_repository": {"type": "str", "default": ""},
    "timeout": {"type": "int", "default": 8},
}


def read(path: str) -> str:
    """Return the text of a file; '' if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def os_release() -> dict[str, str]:
    """Return the fields of os-release."""
    lines = (line.split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    return {key: value.strip("\"'") for key, value in lines}


def filesystem(path: str) -> logic.Filesystem:
    """Return the filesystem a path is on, or will be: that of its nearest parent."""
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
    """Return the bytes of memory: the machine's, or the container's if it has a limit."""
    match = re.search(r"^MemTotal:\s+(\d+) kB", read("/proc/meminfo"), re.MULTILINE)
    total = int(match[1]) * 1024 if match else 0
    for path in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = read(path).strip()
        if limit.isdigit():
            total = min(total, int(limit))
    return total


def ask_docker(module: AnsibleModule, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the Docker client; 127 where there is none."""
    docker = shutil.which("docker", path=os.environ.get("PATH", "") + ":/usr/bin:/usr/local/bin")
    return module.run_command([docker, *arguments]) if docker else (127, "", "no docker")


def containers(module: AnsibleModule) -> list[dict[str, str]]:
    """Return running containers with their labels and ports; none if no engine answers."""
    rc, out, _err = ask_docker(module, "ps", "--no-trunc", "--format", "{{json .}}")
    return [json.loads(line) for line in out.splitlines()] if rc == 0 else []


def misfits(module: AnsibleModule, params: dict[str, Any]) -> list[Misfit]:
    """Return the databases whose data the wanted images cannot open."""
    images = {name: {"ref": reference} for name, reference in params["databases"].items()}
    return find_misfits(lambda *words: ask_docker(module, *words), params["stack"], images)


def misplaced(module: AnsibleModule, params: dict[str, Any]) -> list[Misfit]:
    """Return the data of the current release that is not in this engine, or in other hands."""
    if not params["root"]:
        return []
    found = check_data(
        lambda *words: ask_docker(module, *words),
        Path(params["root"]),
        params["stack"],
        params["recreate_volumes"],
    )
    return [Misfit("", each.message, each.remedy) for each in found]


def sockets_of_processes() -> dict[str, str]:
    """Return 'name (pid n)' by socket inode."""
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
    """Return listening TCP sockets and who holds them; ports that Docker forwards itself too."""
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
    from ansible.module_utils.urls import open_url  # slow to import, and seldom needed

    try:
        open_url(url, timeout=timeout)
        error = ""
    except HTTPError as answer:
        error = f"HTTP {answer.code}" if answer.code >= 500 or answer.code == 404 else ""
    except Exception as problem:
        error = str(getattr(problem, "reason", "") or problem)
    return logic.Reach(url, why, error)


def reaches(params: dict[str, Any], release: dict[str, str]) -> list[logic.Reach]:
    """Return the addresses that this deploy needs."""
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


def missing_commands() -> list[str]:
    """Return what the firewall of the stack needs and an engine that is here came without.

    Where there is no engine yet, it comes with them.
    """
    places = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin"
    if not shutil.which("dockerd", path=places):
        return []
    return [name for name in ("iptables",) if not shutil.which(name, path=places)]


def kind_of(path: str) -> str:
    """Return what is at a path, behind symbolic links; empty for nothing."""
    try:
        mode = os.stat(path).st_mode
    except OSError:
        return ""
    tests = (
        (stat.S_ISDIR, FOLDER),
        (stat.S_ISREG, FILE),
        (stat.S_ISCHR, DEVICE),
        (stat.S_ISBLK, DEVICE),
        (stat.S_ISSOCK, SOCKET),
    )
    return next((kind for test, kind in tests if test(mode)), OTHER)


def shared_paths(wanted: list[dict[str, Any]]) -> list[SharedPath]:
    """Return the paths that containers get, as this server has them."""
    return [
        SharedPath(
            each["place"],
            each["path"],
            os.path.realpath(each["path"]),
            # A folder of devices, such as /dev/dri, stands for those in it.
            DEVICE
            if each["path"].startswith("/dev/") and os.path.isdir(each["path"])
            else kind_of(each["path"]),
            each["read_only"],
        )
        for each in wanted
    ]


def check_host(module: AnsibleModule, params: dict[str, Any]) -> dict[str, Any]:
    """Gather and judge: ``{findings, host}``. `params` are of type `SPEC`."""
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
        misfits=[*misplaced(module, params), *misfits(module, params)],
        missing=missing_commands() if params["isolation"] else [],
        shared_paths=shared_paths(params["shared_paths"]),
    )
    needs = logic.Needs(
        supported_os={name: list(map(str, v)) for name, v in params["supported_os"].items()},
        supported_arch=params["supported_arch"],
        stack=params["stack"],
        root=os.path.realpath(params["root"]) if params["root"] else "",
        disk_gb=params["min_disk_gb"],
        inodes=params["min_inodes"],
        memory_bytes=params["memory_required_bytes"],
        ports=params["ports"],
        controller_epoch=params["controller_epoch"],
        clock_skew=params["clock_skew"],
    )
    return {
        "findings": [dataclasses.asdict(finding) for finding in logic.judge(host, needs)],
        "host": dataclasses.asdict(host),
    }
