#!/usr/bin/python
"""What Docker Engine a host has, and where one should come from."""

from __future__ import annotations

DOCUMENTATION = r"""
module: docker_engine_facts
short_description: The Docker Engine a host has, and where it should come from
description:
  - Looks once at everything the C(docker) role decides from - engine, client, Compose plugin,
    packages, init system, apt mirrors, running containers - and decides.
  - Changes nothing, on a host with or without Docker.
author: [Crisper]
options:
  source:
    description: Where the engine shall come from.
    type: str
    choices: [auto, docker, distro, present]
    default: auto
  min_engine:
    description: Oldest acceptable Docker Engine.
    type: str
    default: "24.0"
  min_compose:
    description: Oldest acceptable Compose plugin.
    type: str
    default: "2.20"
  repository_url:
    description: Docker's apt repository; the id of the operating system is appended.
    type: str
    default: https://download.docker.com/linux
  repository_timeout:
    description: Seconds to wait for the repository to answer.
    type: int
    default: 8
  distro_packages:
    description: Docker packages of each known release's own archive, by codename.
    type: dict
    default: {}
  next_suites:
    description: For a release whose archive lacks Compose v2, the suite to take it from.
    type: dict
    default: {}
  live_restore:
    description: Whether live-restore is wanted (a Swarm node cannot have it).
    type: bool
    default: true
  replace:
    description: Whether an engine may be replaced while containers run.
    type: bool
    default: false
  config:
    description:
      - Keys that C(daemon.json) is to have, as M(docker_daemon_config) takes them. What of them
        would hide the engine's images, containers or volumes is a problem while it has any.
    type: dict
    default: {}
  config_path:
    description: The configuration file.
    type: path
    default: /etc/docker/daemon.json
attributes:
  check_mode: {support: full}
"""

EXAMPLES = r"""
- name: The state of the engine is known
  docker_engine_facts:
    source: auto
  register: found
"""

RETURN = r"""
source:
  description: 'Where the engine comes from: docker, distro or present.'
  type: str
  returned: always
install: {description: Whether packages are to be installed., type: bool, returned: always}
problems:
  description: What forbids it; each says what to set.
  type: list
  elements: str
  returned: always
held:
  description: How much the engine has; of one that does not answer, what lies in its data-root.
  type: dict
  returned: always
  sample: {containers: 8, images: 7, volumes: 5}
engine:
  description: The engine as found (version, compose, kind, containers, swarm).
  type: dict
  returned: always
  sample: {version: 26.1.5+dfsg1, compose: 2.26.1-4, kind: distro, containers: 0, swarm: false}
cli: {description: A docker client that has the Compose plugin., type: str, returned: always}
running: {description: Whether the engine answers., type: bool, returned: always}
enabled: {description: Whether systemd starts it at boot., type: bool, returned: always}
manager:
  description: 'What runs it: systemd, script (crisper-dockerd), other or none.'
  type: str
  returned: always
pid: {description: Process id of dockerd; 0 when it does not run., type: int, returned: always}
flags: {description: dockerd's command line flags., type: list, elements: str, returned: always}
systemd: {description: Whether the init system is systemd., type: bool, returned: always}
os: {description: "id and codename of the operating system.", type: dict, returned: always}
arch: {description: dpkg's name of the architecture., type: str, returned: always}
mirror:
  description: uri and signed_by of the release's own apt source.
  type: dict
  returned: always
security_mirror: {description: The same of its security suite., type: dict, returned: always}
next_suite_known:
  description: Whether apt already has the next suite.
  type: bool
  returned: always
missing_python:
  description: Python modules community.docker lacks.
  type: list
  elements: str
  returned: always
python_is_system: {description: Whether apt can add to this Python., type: bool, returned: always}
"""

import dataclasses
import glob
import importlib.util
import json
import os
import shutil
import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url
from ansible_collections.crisper.stack.plugins.module_utils.host import engine as engine_logic
from ansible_collections.crisper.stack.plugins.module_utils.host import engine_store as store_logic

SPEC = {
    "source": {
        "type": "str",
        "choices": ["auto", "docker", "distro", "present"],
        "default": "auto",
    },
    "min_engine": {"type": "str", "default": "24.0"},
    "min_compose": {"type": "str", "default": "2.20"},
    "repository_url": {"type": "str", "default": "https://download.docker.com/linux"},
    "repository_timeout": {"type": "int", "default": 8},
    "distro_packages": {"type": "dict", "default": {}},
    "next_suites": {"type": "dict", "default": {}},
    "live_restore": {"type": "bool", "default": True},
    "replace": {"type": "bool", "default": False},
    "config": {"type": "dict", "default": {}},
    "config_path": {"type": "path", "default": "/etc/docker/daemon.json"},
}
# The socket of the engine that this role configures and restarts.
LOCAL = "unix:///var/run/docker.sock"


def read(path: str) -> str:
    """The text of a file; '' where it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def os_release() -> dict[str, str]:
    """Id and codename of the operating system."""
    lines = (line.split("=", 1) for line in read("/etc/os-release").splitlines() if "=" in line)
    values = {key: value.strip("\"'") for key, value in lines}
    return {"id": values.get("ID", ""), "codename": values.get("VERSION_CODENAME", "")}


def client(module: AnsibleModule) -> tuple[str, str]:
    """(a docker client whose Compose plugin works, the plugin's version); else any client."""
    folders = [*os.environ.get("PATH", "").split(":"), "/usr/bin", "/usr/local/bin"]
    paths = dict.fromkeys(os.path.join(folder, "docker") for folder in folders if folder)
    usable = [path for path in paths if os.access(path, os.X_OK)]
    for path in usable:
        rc, out, _err = module.run_command([path, "compose", "version", "--short"])
        if rc == 0:
            return path, out.strip()
    return (usable[0] if usable else ""), ""


def info(module: AnsibleModule, cli: str, *at: str) -> dict[str, Any]:
    """What the engine says of itself; {} when it does not answer.

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
    """How many volumes an engine has."""
    return len(module.run_command([cli, *at, "volume", "ls", "--quiet"])[1].split())


def configuration(path: str) -> dict[str, Any]:
    """Keys of daemon.json; {} where it cannot be read, which docker_daemon_config tells."""
    try:
        found = json.loads(read(path) or "{}")
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def endpoint(module: AnsibleModule, cli: str) -> tuple[str, str]:
    """(address, what leads there) of the engine that the client reaches; ('', '') for the usual."""
    if address := os.environ.get("DOCKER_HOST", ""):
        return address, "DOCKER_HOST"
    shown = ["context", "inspect", "--format", "{{.Name}} {{.Endpoints.docker.Host}}"]
    name, _, address = module.run_command([cli, *shown])[1].strip().partition(" ")
    return (address, f"docker context '{name}'") if name != "default" and address else ("", "")


def stored(
    module: AnsibleModule, cli: str, answer: dict[str, Any], settings: store_logic.Settings
) -> tuple[store_logic.Store, str]:
    """What this host's engine has, and why the client reaches another one; '' if it does not."""
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
    """Process id of dockerd, 0 when it does not run."""
    text = read("/var/run/docker.pid").strip()
    return int(text) if text.isdigit() and os.path.exists("/proc/" + text) else 0


def package_kind(module: AnsibleModule) -> str:
    """Whose package the installed engine is."""
    _rc, out, _err = module.run_command(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status}\n", "docker-ce", "docker.io"]
    )
    installed = [line.split()[0] for line in out.splitlines() if line.endswith(" installed")]
    if "docker-ce" in installed:
        return "docker"
    return "distro" if "docker.io" in installed else "other"


def manager(module: AnsibleModule, systemd: bool, pid: int) -> str:
    """What started the running engine."""
    if systemd:
        _rc, out, _err = module.run_command(["systemctl", "is-active", "docker.service"])
        if out.strip() in ("active", "activating", "reloading"):
            return "systemd"
    script = os.access("/usr/local/sbin/crisper-dockerd", os.X_OK)
    if script and pid and read("/var/run/docker-ssd.pid").strip() == str(pid):
        return "script"
    return "other" if pid else "none"


def apt_entries() -> list[engine_logic.AptEntry]:
    """Every apt source of this host but ours."""
    entries = []
    for pattern in ("/etc/apt/sources.list", "/etc/apt/sources.list.d/*"):
        for path in sorted(glob.glob(pattern)):
            # Our own source file is what the answer decides about.
            if path.endswith((".list", ".sources")) and "crisper-" not in path:
                entries += engine_logic.apt_sources(read(path), path.endswith(".sources"))
    return entries


def repository_answers(url: str, timeout: int) -> bool:
    """Does Docker's repository have something for this release?"""
    try:
        return bool(open_url(url, method="HEAD", timeout=timeout).getcode() == 200)
    except Exception:  # whatever goes wrong on the way, it does not answer
        return False


def main() -> None:
    """Look, decide, report."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    want = module.params
    release = os_release()
    cli, compose = client(module)
    answer = info(module, cli)
    systemd = os.path.isdir("/run/systemd/system")
    pid = running_pid()
    entries = apt_entries()
    next_suite = want["next_suites"].get(release["codename"], "")

    version = answer.get("ServerVersion", "")
    dockerd = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin:/bin")
    if not version and dockerd:
        version = module.run_command([dockerd, "--version"])[1].split(",")[0].split(" ")[-1]
    engine = engine_logic.EngineFacts(
        version=version,
        compose=compose,
        kind=package_kind(module) if version else "",
        containers=answer.get("ContainersRunning", 0),
        swarm=answer.get("Swarm", {}).get("LocalNodeState", "inactive") != "inactive",
    )
    wanted = engine_logic.Wanted(
        source=want["source"],
        engine=want["min_engine"],
        compose=want["min_compose"],
        distro_releases=sorted(want["distro_packages"]),
        next_suites=want["next_suites"],
        live_restore=want["live_restore"],
        replace=want["replace"],
    )
    mirror = engine_logic.mirror_of(entries, release["codename"])
    host = engine_logic.Host(release["id"], release["codename"], mirror is not None)

    # The repository is asked only where its answer matters: most runs change nothing.
    answers = False
    if want["source"] in ("auto", "docker") and (
        engine_logic.shortcomings(engine, wanted)
        or (want["source"] == "docker" and engine.kind != "docker")
    ):
        base = want["repository_url"].rstrip("/")
        url = f"{base}/{release['id']}/dists/{release['codename']}/Release"
        answers = repository_answers(url, want["repository_timeout"])
    decision = engine_logic.decide(wanted, engine, host, answers)

    runs = manager(module, systemd, pid)
    flags = read(f"/proc/{pid}/cmdline").strip("\0").split("\0")[1:] if pid else []
    old = configuration(want["config_path"])
    new = engine_logic.merged(old, want["config"])
    settings = store_logic.Settings(
        old=old,
        new=new,
        flags=flags,
        # An engine of another source is started by a unit of its own, with its own flags.
        keeps_flags=not decision.install
        or (runs in ("systemd", "script") and engine.kind == decision.source),
        # Which version would be installed is known to apt alone.
        version="" if decision.install else ".".join(map(str, engine_logic.version(version)[:1])),
    )
    store, elsewhere = stored(module, cli, answer, settings)
    restarts = decision.install or not store.running or bool(engine_logic.restart_keys(old, new))
    problem, warning = store_logic.refusal(
        store, store_logic.hiding(store, settings), want["config_path"], restarts
    )
    problems = [*decision.problems, *filter(None, (elsewhere, problem))]
    if warning:
        module.warn(warning)

    enabled = False
    if systemd:
        enabled = module.run_command(["systemctl", "is-enabled", "docker.service"])[0] == 0
    module.exit_json(
        changed=False,
        source=decision.source,
        install=decision.install,
        problems=problems,
        held=dataclasses.asdict(store.data),
        engine=dataclasses.asdict(engine),
        cli=cli,
        running=bool(answer),
        enabled=enabled,
        manager=runs,
        pid=pid,
        flags=flags,
        systemd=systemd,
        os=release,
        arch=module.run_command(["dpkg", "--print-architecture"])[1].strip(),
        mirror=mirror or {},
        security_mirror=engine_logic.mirror_of(entries, release["codename"] + "-security") or {},
        next_suite_known=bool(next_suite)
        and engine_logic.mirror_of(entries, next_suite) is not None,
        missing_python=[
            name for name in ("requests", "yaml") if importlib.util.find_spec(name) is None
        ],
        python_is_system=sys.prefix == sys.base_prefix and sys.prefix == "/usr",
    )


if __name__ == "__main__":
    main()
