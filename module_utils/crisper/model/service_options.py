"""Options of the application's services: one schema for web, front end, workers and beat (no I/O).

What an operator says of a service stands beside its other keys: in stack_app.web,
stack_app.frontend, an entry of celery_workers, and stack_app.celery.beat in place of ``true``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

from ..host.shared_paths import exposure
from . import option_values as judge
from .container_limits import RESOURCES
from .defaults import limits_by_service, unknown_keys
from .guard import MOUNT, is_guarded
from .health_checks import HealthCheck, health_check, judge_check
from .mount_points import TMP, Mount, mount_problems
from .validators import FOLDER, as_mapping, env_text, quoted, size_bytes, whole
from .workers import pool_service

Check = Callable[[str, Any], Iterator[str]]
# Options of every service, and what judges each.
CHECKS: dict[str, Check] = {
    "entrypoint": judge.entrypoint,
    "user": judge.user,
    "read_only": judge.boolean,
    "tmpfs": judge.tmpfs,
    "volumes": judge.volumes,
    "files": judge.files,
    "cap_add": judge.capabilities,
    "shm_size": judge.size,
    "ulimits": judge.ulimits,
    "devices": judge.devices,
    "labels": judge.labels,
    "extra_hosts": judge.extra_hosts,
    "environment": judge.environment,
}
# Of web and front end alone.
WEB_CHECKS: dict[str, Check] = {
    "stop_signal": judge.stop_signal,
    "stop_grace_period": judge.seconds,
}
FRONTEND_CHECKS: dict[str, Check] = {"command": judge.command}
# What ends workers and beat, and what to set instead.
ELSEWHERE = {
    "stop_grace_period": "celery_stop_grace_period, the same for all pools",
    "stop_signal": "nothing: workers and beat end by SIGTERM, as Celery does",
}
GRACE = {"backend": 45, "frontend": 30}
BEAT, BEAT_KEY = "celery-beat", "stack_app.celery.beat"
BEAT_FOLDER = "/var/lib/celery"


@dataclass(frozen=True)
class Service:
    """A service of the application as its operator describes it.

    Attributes:
        name: of the Compose service.
        where: place of its options, for messages.
        options: the mapping that has them, among other keys; what has no value is left out.
        memory: its memory limit.
    """

    name: str
    where: str
    options: Mapping[str, Any]
    memory: Any

    @property
    def checks(self) -> dict[str, Check]:
        """Options that it may have, and what judges each."""
        own = WEB_CHECKS if self.name in GRACE else {}
        health = {"healthcheck": partial(judge_check, self.name)}
        command = FRONTEND_CHECKS if self.name == "frontend" else {}
        return {**CHECKS, **health, **own, **command}


class Tmpfs(TypedDict):
    """A temporary folder in memory; ``size`` in bytes, ``exec``: whether programs run there."""

    path: str
    size: int
    exec: bool


class ServiceOptions(TypedDict):
    """Options of a service as the compose file has them.

    ``compose``: keys of the service and their values. ``tmpfs``: temporary folders, ``/tmp`` first.
    ``volumes``: mounts beside the stack's own. ``files``: where files of the release are mounted,
    in the order of model.service_files. ``ulimits``: beside that of open files.
    ``environment``, ``labels``: its own, by name.
    """

    compose: dict[str, Any]
    tmpfs: list[Tmpfs]
    volumes: list[dict[str, Any]]
    files: list[str]
    healthcheck: HealthCheck
    ulimits: dict[str, Any]
    environment: dict[str, str]
    labels: dict[str, str]


def app_services(values: Mapping[str, Any]) -> list[Service]:
    """Return the services of the application that an operator describes, right or wrong."""
    app = as_mapping(values.get("stack_app"))
    limits = limits_by_service(values)
    celery = as_mapping(app.get("celery"))
    found = [("backend", "stack_app.web", app.get("web"))]
    if app.get("frontend"):
        found.append(("frontend", "stack_app.frontend", app["frontend"]))
    pools = values.get("celery_workers")
    for index, pool in enumerate(pools if isinstance(pools, (list, tuple)) else ()):
        name = pool_service(str(as_mapping(pool).get("name")))
        found.append((name, f"celery_workers[{index}]", {"memory": "1g", **as_mapping(pool)}))
    if celery.get("beat"):
        found.append((BEAT, BEAT_KEY, celery["beat"]))
    return [
        Service(
            name,
            where,
            {key: value for key, value in as_mapping(options).items() if value is not None},
            as_mapping(options).get("memory") or as_mapping(limits.get(name)).get("memory"),
        )
        for name, where, options in found
    ]


def service_options(values: Mapping[str, Any], tmp: Mapping[str, int]) -> dict[str, ServiceOptions]:
    """Return the options of checked variables, by Compose service.

    Args:
        values: the variables.
        tmp: size of ``/tmp`` in bytes by service.
    """
    return {
        service.name: {
            "compose": dict(_compose_keys(service)),
            "tmpfs": _folders(service, tmp[service.name]),
            "volumes": [_volume(volume) for volume in service.options.get("volumes", [])],
            "files": [judge.normal_path(file["path"]) for file in service.options.get("files", [])],
            "healthcheck": health_check(service.options.get("healthcheck")),
            "ulimits": {
                name: {"soft": int(limit["soft"]), "hard": int(limit["hard"])}
                if isinstance(limit, Mapping)
                else int(limit)
                for name, limit in service.options.get("ulimits", {}).items()
            },
            "environment": _texts(service, "environment"),
            "labels": _texts(service, "labels"),
        }
        for service in app_services(values)
    }


def _volume(volume: Mapping[str, Any]) -> dict[str, Any]:
    """Return a volume or a path of the server as the compose file has it."""
    is_bind = volume.get("host") is not None
    found = {
        "type": "bind" if is_bind else "volume",
        "source": judge.normal_path(volume["host"]) if is_bind else volume["name"],
        "target": judge.normal_path(volume["path"]),
    }
    if volume.get("read_only"):
        found["read_only"] = True
    # A folder that the engine makes belongs to root, and hides a mistyped path.
    return {**found, "bind": {"create_host_path": False}} if is_bind else found


def own_volumes(values: Mapping[str, Any]) -> list[str]:
    """Return the volumes that the operator names in checked variables, sorted."""
    return sorted(
        {
            volume["name"]
            for service in app_services(values)
            for volume in service.options.get("volumes", [])
            if volume.get("name") is not None
        }
    )


def shared_paths(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the paths of the server that containers get: ``place``, ``path``, ``read_only``."""
    found = []
    for service in app_services(values):
        for index, volume in judge.entries(service.options.get("volumes")):
            if volume.get("host") is not None:
                place = f"{service.where}.volumes[{index}].host"
                path, read_only = judge.normal_path(volume["host"]), bool(volume.get("read_only"))
                found.append({"place": place, "path": path, "read_only": read_only})
        for index, device in enumerate(service.options.get("devices", [])):
            place, path = f"{service.where}.devices[{index}]", str(device).partition(":")[0]
            found.append({"place": place, "path": path, "read_only": False})
    return found


def _texts(service: Service, option: str) -> dict[str, str]:
    """Return a mapping of an operator as processes and labels have it: values are texts."""
    return {name: env_text(value) for name, value in service.options.get(option, {}).items()}


def _compose_keys(service: Service) -> Iterator[tuple[str, Any]]:
    """Yield keys of a service in the compose file, and their values."""
    options = service.options
    for key in ("entrypoint", *(("command",) if service.name == "frontend" else ())):
        if key in options:
            yield key, [str(word) for word in options[key]]
    if options.get("user", "") != "":
        yield "user", str(options["user"])
    if options.get("read_only") is False:
        yield "read_only", False
    if options.get("cap_add"):
        yield "cap_add", sorted({judge.capability(name) for name in options["cap_add"]})
    if "shm_size" in options:
        yield "shm_size", size_bytes(options["shm_size"])
    if options.get("devices"):
        yield "devices", [str(device) for device in options["devices"]]
    if options.get("extra_hosts"):
        yield "extra_hosts", dict(options["extra_hosts"])
    if "stop_signal" in service.checks and "stop_signal" in options:
        yield "stop_signal", options["stop_signal"]
    elif service.name == "frontend":
        yield "stop_signal", "SIGQUIT"
    if service.name in GRACE:
        seconds = whole(options.get("stop_grace_period")) or GRACE[service.name]
        yield "stop_grace_period", f"{seconds}s"


def _folders(service: Service, tmp: int) -> list[Tmpfs]:
    """Return the temporary folders of a service, ``/tmp`` of that size (bytes) first."""
    found: dict[str, Tmpfs] = {TMP: {"path": TMP, "size": tmp, "exec": False}}
    for folder in service.options.get("tmpfs", []):
        path, size = judge.normal_path(folder["path"]), size_bytes(folder.get("size"))
        found[path] = {"path": path, "size": size or tmp, "exec": folder.get("exec") is True}
    return list(found.values())


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the options of the application's services, with the remedy."""
    app = as_mapping(values.get("stack_app"))
    beat = as_mapping(app.get("celery")).get("beat")
    if beat is not None and not isinstance(beat, bool) and not (beat and isinstance(beat, Mapping)):
        yield (
            f"{BEAT_KEY} is {quoted(beat)}: give true or false, or a mapping of its options, such"
            " as {read_only: false}."
        )
    for service in app_services(values):
        yield from _option_problems(service)
        yield from _size_problems(service)
        yield from _host_problems(service, values.get("stack_root"))
        yield from mount_problems(_mounts(service), _taken_paths(service, app))


def _option_problems(service: Service) -> Iterator[str]:
    """Yield what is wrong with single options, and options of others."""
    checks, where = service.checks, service.where
    for option, value in service.options.items():
        if option in checks:
            yield from checks[option](f"{where}.{option}", value)
        elif option in ELSEWHERE:
            yield f"{where}.{option} is not for workers and beat: set {ELSEWHERE[option]}."
        elif service.name == BEAT and option in RESOURCES:
            yield f"{where}.{option} is set: move it to stack_limits.{BEAT}."
    if service.name == BEAT:  # the others have other keys besides, which types know
        known = {*checks, *ELSEWHERE, *RESOURCES}
        rest = {key: value for key, value in service.options.items() if key not in known}
        yield from unknown_keys(where, rest, checks)


def _size_problems(service: Service) -> Iterator[str]:
    """Yield memory that a service wants for files and does not have."""
    memory, where = size_bytes(service.memory), service.where
    folders = judge.entries(service.options.get("tmpfs"))
    wanted = [(f"tmpfs[{index}].size", folder.get("size")) for index, folder in folders]
    for key, value in (*wanted, ("shm_size", service.options.get("shm_size"))):
        size = size_bytes(value)
        if size and memory and size > memory:
            yield (
                f"{where}.{key} is {quoted(value)}, more than the memory of {service.name}"
                f" ({service.memory}), in which it lies: lower it, or raise the memory."
            )
    for index, folder in folders:
        is_tmp = judge.normal_path(folder.get("path")) == TMP
        if is_tmp and "size" in folder and "tmp" in service.options:
            yield f"{where}.tmpfs[{index}].size is set, and {where}.tmp too: remove one."
        elif not is_tmp and folder.get("size") is None:
            yield f"{where}.tmpfs[{index}].size is missing: give one, such as 64m."


def _host_problems(service: Service, root: Any) -> Iterator[str]:
    """Yield paths of the server that no container may have."""
    for index, volume in judge.entries(service.options.get("volumes")):
        if (path := volume.get("host")) is None:
            continue
        setting = f"{service.where}.volumes[{index}].host is {quoted(path)}"
        stack_root = judge.normal_path(root) if FOLDER.matches(root) else ""
        if not FOLDER.matches(path):
            yield f"{setting}: give an absolute path of plain characters, such as /srv/media."
        elif why := exposure(judge.normal_path(path), stack_root, volume.get("read_only") is True):
            yield f"{setting}: {why}; choose a folder of the application's own."


def _mounts(service: Service) -> list[Mount]:
    """Return what an operator mounts into the containers of a service."""
    return [
        Mount(f"{service.where}.{option}[{index}].path", mount.get("path"), option)
        for option in ("tmpfs", "volumes", "files")
        for index, mount in judge.entries(service.options.get(option))
    ]


def _taken_paths(service: Service, app: Mapping[str, Any]) -> dict[str, str]:
    """Return the folders that the stack itself mounts there, and what each is."""
    found = {}
    if service.name not in GRACE and is_guarded(as_mapping(app.get("celery"))):
        found[MOUNT] = "the guard of workers and beat"
    if service.name == BEAT:
        found[BEAT_FOLDER] = "the times of beat's last runs"
    elif service.name != "frontend" and isinstance(app.get("uploads"), str) and app["uploads"]:
        found[judge.normal_path(app["uploads"])] = "stack_app.uploads"
    return found
