"""Gather the facts about a host's Docker Engine: its client, process, packages and apt sources.

Runs on the server, with the module that gathers; nothing is changed. ``host.engine`` and
``host.engine_store`` decide from what is found.
"""

from __future__ import annotations

import dataclasses
import glob
import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from . import engine as engine_logic
from . import engine_store as store_logic

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

# The socket of the engine that this role configures and restarts.
LOCAL = "unix:///var/run/docker.sock"


@dataclasses.dataclass(frozen=True)
class Process:
    """The dockerd of this host; the fields are described in RETURN."""

    pid: int
    flags: list[str]
    manager: str
    systemd: bool
    enabled: bool


def read(path: str) -> str:
    """Return the text of a file; '' where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def os_release() -> dict[str, str]:
    """Return id and codename of the operating system."""
    lines = (line.split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    values = {key: value.strip("\"'") for key, value in lines}
    return {"id": values.get("ID", ""), "codename": values.get("VERSION_CODENAME", "")}


def client(module: AnsibleModule) -> tuple[str, str]:
    """Return a docker client whose Compose plugin works, and the plugin's version.

    Else any client, and ''.
    """
    folders = [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/usr/local/bin"]
    paths = dict.fromkeys(os.path.join(folder, "docker") for folder in folders if folder)
    usable = [path for path in paths if os.access(path, os.X_OK)]
    for path in usable:
        rc, out, _err = module.run_command([path, "compose", "version", "--short"])
        if rc == 0:
            return path, out.strip()
    return (usable[0] if usable else ""), ""


def info(module: AnsibleModule, cli: str, *at: str) -> dict[str, Any]:
    """Return what the engine says of itself; {} when it does not answer.

    `at` are words that lead the client to another engine (``--host …``).
    """
    if not cli:
        return {}
    rc, out, _err = module.run_command([cli, *at, "info", "--format", "{{json .}}"])
    try:
        answer = json.loads(out) if rc == 0 else {}
    except ValueError:
        return {}
    return answer if answer.get("ServerVersion") else {}


def volumes(module: AnsibleModule, cli: str, *at: str) -> int:
    """Return how many volumes an engine has."""
    return len(module.run_command([cli, *at, "volume", "ls", "--quiet"])[1].split())


def configuration(path: str) -> dict[str, Any]:
    """Return the keys of daemon.json; {} where docker_daemon_config will find it broken."""
    try:
        found = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def endpoint(module: AnsibleModule, cli: str) -> tuple[str, str]:
    """Return address and source of the engine that the client reaches; ('', '') for the usual.

    The source is what leads the client there: a variable or a context.
    """
    if address := os.environ.get("DOCKER_HOST", ""):
        return address, "DOCKER_HOST"
    command = ["context", "inspect", "--format", "{{.Name}} {{.Endpoints.docker.Host}}"]
    name, _, address = module.run_command([cli, *command])[1].strip().partition(" ")
    return (address, f"docker context '{name}'") if name != "default" and address else ("", "")


def stored(
    module: AnsibleModule, cli: str, answer: dict[str, Any], settings: store_logic.Settings
) -> tuple[store_logic.Store, str]:
    """Return what this host's engine has, and why the client reaches another one; else ''."""
    address, source = endpoint(module, cli) if cli else ("", "")
    at = ["--host", LOCAL] if source else []
    local = info(module, cli, *at) if source else answer
    if not local:
        return store_logic.stopped_store(settings), ""
    store = store_logic.store_of(local, volumes(module, cli, *at))
    store = dataclasses.replace(store, prior_graph=store_logic.find_data(store.data_root)[1])
    if not source:
        return store, ""
    reached = store_logic.store_of(answer, volumes(module, cli) if answer else 0)
    return store, store_logic.another_engine(
        store_logic.Endpoint(address, source, str(answer.get("ID", "")), data=reached.data),
        store_logic.Endpoint(LOCAL, "", str(local.get("ID", "")), store.data_root, store.data),
    )


def running_pid() -> int:
    """Return the process id of dockerd, 0 when it does not run."""
    text = read("/var/run/docker.pid").strip()
    return int(text) if text.isdigit() and os.path.exists("/proc/" + text) else 0


def package_kind(module: AnsibleModule) -> str:
    """Return the source of the installed engine's package: docker, distro or other."""
    _rc, out, _err = module.run_command(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", "docker-ce", "docker.io"]
    )
    installed = [line.split()[0] for line in out.splitlines() if line.endswith(" installed")]
    if "docker-ce" in installed:
        return "docker"
    return "distro" if "docker.io" in installed else "other"


def manager(module: AnsibleModule, systemd: bool, pid: int) -> str:
    """Return what started the running engine: systemd, script, other or none."""
    if systemd:
        _rc, out, _err = module.run_command(["systemctl", "is-active", "docker.service"])
        if out.strip() in ("active", "activating", "reloading"):
            return "systemd"
    script = os.access("/usr/local/sbin/crisper-dockerd", os.X_OK)
    if script and pid and read("/var/run/docker-ssd.pid").strip() == str(pid):
        return "script"
    return "other" if pid else "none"


def apt_entries() -> list[engine_logic.AptEntry]:
    """Return every apt source of this host but ours."""
    entries = []
    for pattern in ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*"):
        for path in sorted(glob.glob(pattern)):
            # Our own source file is what the answer decides about.
            if path.endswith((".list", ".sources")) and "crisper-" not in path:
                entries += engine_logic.apt_sources(read(path), path.endswith(".sources"))
    return entries


def repository_answers(url: str, timeout: int) -> bool:
    """Return whether Docker's repository has something for this release."""
    from ansible.module_utils.urls import open_url  # slow to import, and seldom needed

    try:
        return bool(open_url(url, method="HEAD", timeout=timeout).getcode() == 200)
    except Exception:  # whatever goes wrong on the way, it does not answer
        return False


def find_process(module: AnsibleModule) -> Process:
    """Return the dockerd that runs, and what starts it."""
    systemd = os.path.isdir("/run/systemd/system")
    pid = running_pid()
    enabled = False
    if systemd:
        enabled = module.run_command(["systemctl", "is-enabled", "docker.service"])[0] == 0
    return Process(
        pid=pid,
        flags=read(f"/proc/{pid}/cmdline").strip("\0").split("\0")[1:] if pid else [],
        manager=manager(module, systemd, pid),
        systemd=systemd,
        enabled=enabled,
    )


def find_engine(
    module: AnsibleModule, answer: dict[str, Any], compose: str
) -> engine_logic.EngineFacts:
    """Return the engine that answered, else the one that is installed, by its own words."""
    version = answer.get("ServerVersion", "")
    dockerd = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin:/bin")
    if not version and dockerd:
        version = module.run_command([dockerd, "--version"])[1].split(",")[0].split(" ")[-1]
    return engine_logic.EngineFacts(
        version=version,
        compose=compose,
        kind=package_kind(module) if version else "",
        containers=answer.get("ContainersRunning", 0),
        swarm=answer.get("Swarm", {}).get("LocalNodeState", "inactive") != "inactive",
    )
