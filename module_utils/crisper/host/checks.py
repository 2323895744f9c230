"""Judge whether a host is fit for the stack, from what was gathered about it (no I/O).

Runs on the target's Python (3.8 or newer).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..database.versions import Misfit
from ..sockets import socket_address
from .shared_paths import SharedPath, problems

GB = 1024**3


@dataclass(frozen=True)
class Finding:
    """A fault of a host, and what to do about it."""

    # os, arch, disk, inodes, memory, port, clock, python, privilege, reach, data, firewall, path
    check: str
    severity: str  # error | warning
    message: str
    remedy: str


@dataclass(frozen=True)
class Filesystem:
    """The filesystem that a path is, or will be, on."""

    path: str
    mount: str
    device: str  # its identity: paths on one filesystem share the room
    free_bytes: int
    total_inodes: int  # 0 where the filesystem counts none (btrfs)
    free_inodes: int


@dataclass(frozen=True)
class Listener:
    """A listening TCP socket."""

    address: str
    port: int
    process: str = ""  # name and pid where known
    stack: str = ""  # the stack whose container publishes it


@dataclass(frozen=True)
class Reach:
    """The answer of an address: a status, or why there was none."""

    url: str
    why: str  # what needs it
    error: str = ""


@dataclass(frozen=True)
class Host:
    """The facts that were gathered about a host."""

    os_id: str
    os_version: str
    arch: str
    python: Sequence[int]
    root: bool
    memory_bytes: int
    epoch: float
    filesystems: Sequence[Filesystem] = ()
    listeners: Sequence[Listener] = ()
    reaches: Sequence[Reach] = ()
    misfits: Sequence[Misfit] = ()
    missing: Sequence[str] = ()  # commands that the firewall of the stack needs
    shared_paths: Sequence[SharedPath] = ()


@dataclass(frozen=True)
class Needs:
    """The needs of the stack."""

    supported_os: Mapping[str, Sequence[str]]
    supported_arch: Sequence[str]
    stack: str = ""
    root: str = ""  # folder of the stack
    min_python: Sequence[int] = (3, 8)
    disk_gb: float = 10
    inodes: int = 100_000
    memory_bytes: int = 0
    ports: Sequence[Mapping[str, Any]] = field(default_factory=tuple)  # {port, address}
    controller_epoch: float = 0  # 0 = do not compare
    clock_skew: float = 60


def judge(host: Host, needs: Needs) -> list[Finding]:
    """Return every finding, not just the first; an empty list is a fit host."""
    return [
        *_system(host, needs),
        *_disk(host, needs),
        *_memory(host, needs),
        *_ports(host, needs),
        *_clock(host, needs),
        *_reach(host),
        *(Finding("data", "error", each.message, each.remedy) for each in host.misfits),
        *_firewall(host),
        *(Finding("path", "error", *each) for each in problems(host.shared_paths, needs.root)),
    ]


def _firewall(host: Host) -> Iterable[Finding]:
    if host.missing:
        yield Finding(
            "firewall",
            "error",
            f"{' and '.join(host.missing)} is missing, and stack_isolation closes the host to the"
            " containers with it",
            "apt-get install iptables, or set stack_isolation to false (docs/SECURITY.md)",
        )


def _system(host: Host, needs: Needs) -> Iterable[Finding]:
    known = "; ".join(f"{name} {', '.join(v)}" for name, v in sorted(needs.supported_os.items()))
    if host.os_version not in needs.supported_os.get(host.os_id, ()):
        yield Finding(
            "os",
            "error",
            f"the operating system is {host.os_id or 'unknown'} {host.os_version}".rstrip(),
            f"use one of {known}, or add it to preflight_supported_os if you have tried it",
        )
    if host.arch not in needs.supported_arch:
        yield Finding(
            "arch",
            "error",
            f"the architecture is {host.arch}",
            f"use a machine of {' or '.join(needs.supported_arch)}: the images are for these",
        )
    if tuple(host.python) < tuple(needs.min_python):
        yield Finding(
            "python",
            "error",
            f"ansible_python_interpreter is Python {_dotted(host.python)}",
            f"install Python {_dotted(needs.min_python)} or newer and point "
            "ansible_python_interpreter at it",
        )
    if not host.root:
        yield Finding(
            "privilege",
            "error",
            "the tasks do not run as root",
            "connect as root or as a user with sudo, and leave stack_become true",
        )


def _dotted(version: Sequence[int]) -> str:
    return ".".join(map(str, version))


def _disk(host: Host, needs: Needs) -> Iterable[Finding]:
    for paths, place in by_mount(host.filesystems):
        name = " and ".join(paths)
        if place.free_bytes < needs.disk_gb * GB:
            yield Finding(
                "disk",
                "error",
                f"{name} (filesystem {place.mount}) has {place.free_bytes / GB:.1f} GB free, "
                f"{needs.disk_gb:g} GB are needed",
                "free space ('docker system df' shows what Docker holds), enlarge the "
                "filesystem, or lower preflight_min_disk_gb",
            )
        if place.total_inodes and place.free_inodes < needs.inodes:
            yield Finding(
                "inodes",
                "error",
                f"{name} (filesystem {place.mount}) has {place.free_inodes} inodes free, "
                f"{needs.inodes} are needed",
                "remove many small files (old images, caches), or make a filesystem with more "
                "inodes (mkfs.ext4 -i), or lower preflight_min_inodes",
            )


def by_mount(filesystems: Iterable[Filesystem]) -> list[tuple[list[str], Filesystem]]:
    """Group paths that share a filesystem: its room is there once."""
    groups: dict[str, tuple[list[str], Filesystem]] = {}
    for place in filesystems:
        groups.setdefault(place.device, ([], place))[0].append(place.path)
    return list(groups.values())


def _memory(host: Host, needs: Needs) -> Iterable[Finding]:
    if needs.memory_bytes > host.memory_bytes:
        yield Finding(
            "memory",
            "error",
            f"the host has {host.memory_bytes / GB:.1f} GB of memory, the services' limits add "
            f"up to {needs.memory_bytes / GB:.1f} GB",
            "give it more memory, or lower the limits (stack_limits; memory and replicas in "
            "celery_workers), or set preflight_memory_overcommit above 1",
        )


def _ports(host: Host, needs: Needs) -> Iterable[Finding]:
    for wanted in needs.ports:
        port, address = int(wanted["port"]), str(wanted.get("address") or "0.0.0.0")  # noqa: S104
        holders = [
            listener
            for listener in host.listeners
            if listener.port == port
            and overlap(listener.address, address)
            and not (needs.stack and listener.stack == needs.stack)
        ]
        if holders:
            names = sorted({_holder(listener) for listener in holders})
            yield Finding(
                "port",
                "error",
                f"port {address}:{port} is taken by {', '.join(names)}",
                "stop that, or choose another port or address (stack_http_port, "
                "stack_https_port, stack_bind_address)",
            )


def _holder(listener: Listener) -> str:
    if listener.stack:
        return f"the stack '{listener.stack}'"
    return listener.process or f"an unknown process listening on {listener.address}"


def overlap(one: str, other: str) -> bool:
    """Return whether two sockets cannot both listen there (IPv6's any-address takes IPv4 too)."""
    first, second = _address(one), _address(other)
    if first is None or second is None:
        return True  # unknown spelling: rather a finding than a failed start
    wide = any(
        a.is_unspecified and (a.version == 6 or b.version == 4)
        for a, b in ((first, second), (second, first))
    )
    return wide or first == second


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(text.strip("[]"))
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _clock(host: Host, needs: Needs) -> Iterable[Finding]:
    if not needs.controller_epoch:
        return
    skew = host.epoch - needs.controller_epoch
    if abs(skew) > needs.clock_skew:
        yield Finding(
            "clock",
            "error",
            f"the clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} the "
            f"controller's, {needs.clock_skew:g} s are tolerated",
            "let the clock be synchronised (systemd-timesyncd or chrony; 'timedatectl' shows "
            "it): certificates, tokens and task times depend on it",
        )


def _reach(host: Host) -> Iterable[Finding]:
    for reach in host.reaches:
        if reach.error:
            yield Finding(
                "reach",
                "error",
                f"{reach.url} does not answer: {reach.error}",
                f"open the way to it (firewall, proxy, DNS, CA); {reach.why}",
            )


# --- Parsing what /proc says -------------------------------------------------------------


def listening(text: str) -> list[tuple[str, int, str]]:
    """Return (address, port, inode) of the listening sockets in a /proc/net/tcp or tcp6 table."""
    found = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A":  # TCP_LISTEN
            found.append((*socket_address(fields[1]), fields[9]))
    return found


def published(text: str) -> list[tuple[str, int]]:
    """Return (address, port) of 'docker ps' ports: '0.0.0.0:80->8080/tcp, :::80->8080/tcp'."""
    found = []
    for part in (text or "").split(", "):
        outside, arrow, inside = part.partition("->")
        if not arrow or not inside.endswith("/tcp"):
            continue
        address, _colon, ports = outside.rpartition(":")
        low, _dash, high = ports.partition("-")
        for port in range(int(low), int(high or low) + 1):
            found.append((address.strip("[]"), port))
    return found


def registry_of(reference: str) -> str:
    """Return the registry: 'registry-1.docker.io' of 'redis:8.0', 'reg:5000' of 'reg:5000/x'."""
    first, slash, _rest = reference.partition("/")
    if not slash or not ("." in first or ":" in first or first == "localhost"):
        first = "docker.io"
    return "registry-1.docker.io" if first in ("docker.io", "index.docker.io") else first
