#!/usr/bin/python
"""Gather the facts about a host's Docker Engine, and decide where one should come from."""

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
- name: Gather facts about the engine
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
import importlib.util
import sys
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible_collections.crisper.stack.plugins.module_utils.host import engine as engine_logic
from ansible_collections.crisper.stack.plugins.module_utils.host import engine_store as store_logic
from ansible_collections.crisper.stack.plugins.module_utils.host.engine_facts import (
    Process,
    apt_entries,
    client,
    configuration,
    find_engine,
    find_process,
    info,
    os_release,
    repository_answers,
    stored,
)

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


def wanted_engine(params: dict[str, Any]) -> engine_logic.Wanted:
    """Return the engine that the arguments ask for."""
    return engine_logic.Wanted(
        source=params["source"],
        engine=params["min_engine"],
        compose=params["min_compose"],
        distro_releases=sorted(params["distro_packages"]),
        next_suites=params["next_suites"],
        live_restore=params["live_restore"],
        replace=params["replace"],
    )


def decide(
    module: AnsibleModule,
    engine: engine_logic.EngineFacts,
    release: dict[str, str],
    entries: list[engine_logic.AptEntry],
) -> engine_logic.Decision:
    """Decide where the engine comes from."""
    params, wanted = module.params, wanted_engine(module.params)
    mirror = engine_logic.mirror_of(entries, release["codename"])
    host = engine_logic.Host(release["id"], release["codename"], mirror is not None)
    # The repository is asked only where its answer matters: most runs change nothing.
    answers = False
    if wanted.source in ("auto", "docker") and (
        engine_logic.shortcomings(engine, wanted)
        or (wanted.source == "docker" and engine.kind != "docker")
    ):
        base = params["repository_url"].rstrip("/")
        url = f"{base}/{release['id']}/dists/{release['codename']}/Release"
        answers = repository_answers(url, params["repository_timeout"])
    return engine_logic.decide(wanted, engine, host, answers)


def judge_store(
    module: AnsibleModule,
    reached: tuple[str, dict[str, Any]],
    engine: engine_logic.EngineFacts,
    decision: engine_logic.Decision,
    process: Process,
) -> tuple[store_logic.Store, list[str]]:
    """Return what the host's engine has, and the problems with what would hide it.

    Args:
        module: whose arguments have the configuration that is to be.
        reached: the client, and what the engine that it reaches answered.
        engine: the engine of the host.
        decision: where the engine comes from.
        process: the dockerd that runs.
    """
    params = module.params
    old = configuration(params["config_path"])
    new = engine_logic.merged(old, params["config"])
    settings = store_logic.Settings(
        old=old,
        new=new,
        flags=process.flags,
        # An engine of another source is started by a unit of its own, with its own flags.
        keeps_flags=not decision.install
        or (process.manager in ("systemd", "script") and engine.kind == decision.source),
        # Which version would be installed is known to apt alone.
        version=""
        if decision.install
        else ".".join(map(str, engine_logic.version(engine.version)[:1])),
    )
    store, elsewhere = stored(module, *reached, settings)
    restarts = decision.install or not store.running or bool(engine_logic.restart_keys(old, new))
    problem, warning = store_logic.refusal(
        store, store_logic.hiding(store, settings), params["config_path"], restarts
    )
    if warning:
        module.warn(warning)
    return store, [*filter(None, (elsewhere, problem))]


def apt_facts(
    entries: list[engine_logic.AptEntry], codename: str, next_suite: str
) -> dict[str, Any]:
    """Return the mirrors of the release, and whether apt knows the suite of the next one."""
    return {
        "mirror": engine_logic.mirror_of(entries, codename) or {},
        "security_mirror": engine_logic.mirror_of(entries, codename + "-security") or {},
        "next_suite_known": bool(next_suite)
        and engine_logic.mirror_of(entries, next_suite) is not None,
    }


def main() -> None:
    """Look, decide, report."""
    module = AnsibleModule(argument_spec=SPEC, supports_check_mode=True)
    release, entries = os_release(), apt_entries()
    cli, compose = client(module)
    answer = info(module, cli)
    process = find_process(module)
    engine = find_engine(module, answer, compose)
    decision = decide(module, engine, release, entries)
    store, problems = judge_store(module, (cli, answer), engine, decision, process)
    next_suite = module.params["next_suites"].get(release["codename"], "")
    module.exit_json(
        changed=False,
        source=decision.source,
        install=decision.install,
        problems=[*decision.problems, *problems],
        held=dataclasses.asdict(store.data),
        engine=dataclasses.asdict(engine),
        cli=cli,
        running=bool(answer),
        **dataclasses.asdict(process),
        os=release,
        arch=module.run_command(["dpkg", "--print-architecture"])[1].strip(),
        **apt_facts(entries, release["codename"], next_suite),
        missing_python=[
            name for name in ("requests", "yaml") if importlib.util.find_spec(name) is None
        ],
        python_is_system=sys.prefix == sys.base_prefix and sys.prefix == "/usr",
    )


if __name__ == "__main__":
    main()
