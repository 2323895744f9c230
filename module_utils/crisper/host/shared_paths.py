"""Paths of a server that containers of the application get, and those that none may have (no I/O).

Runs on the target's Python (3.8 or newer), and on the controller.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from dataclasses import dataclass

FOLDER, FILE, DEVICE, SOCKET, OTHER = "folder", "file", "device", "socket", "other"
# Whoever may talk to an engine has the server.
SOCKETS = ("docker.sock", "containerd.sock", "podman.sock", "crio.sock", "docker.pid")
# Whoever writes there, and mostly whoever reads there, has the server.
SYSTEM = (
    *("/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/proc", "/root"),
    *("/run", "/sbin", "/sys", "/usr", "/var/lib/containerd", "/var/lib/docker", "/var/run"),
    "/var/spool/cron",
)
# What every program may know of a server.
READABLE = (
    *("/etc/ca-certificates", "/etc/localtime", "/etc/pki/ca-trust", "/etc/ssl/certs"),
    *("/etc/timezone", "/usr/local/share", "/usr/share"),
)


@dataclass(frozen=True)
class SharedPath:
    """A path of the server that a container gets, as the server has it.

    Attributes:
        place: of the variable that has it.
        path: as it stands there.
        real: without symbolic links.
        kind: of what is there; empty for nothing.
        read_only: whether the container only reads it.
    """

    place: str
    path: str
    real: str
    kind: str
    read_only: bool = False


def is_below(path: str, folder: str) -> bool:
    """Return whether a path is that folder, or lies in it."""
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")


def exposure(path: str, stack_root: str, read_only: bool) -> str:
    """Return why no container may have a path of the server; empty where it may.

    Args:
        path: absolute, without dots.
        stack_root: folder of the stack, with its secrets; empty for none.
        read_only: whether the container only reads it.
    """
    if posixpath.basename(path) in SOCKETS:
        return "with the engine's socket a container governs the server"
    if read_only and any(is_below(path, folder) for folder in READABLE):
        return ""
    if any(is_below(path, folder) for folder in READABLE):
        return "containers may only read it: set read_only: true"
    for folder in (*SYSTEM, *([stack_root] if stack_root else [])):
        if is_below(path, folder) or is_below(folder, path):
            what = "secrets of the stack lie" if folder == stack_root else "the server itself lies"
            return f"{what} in {folder}"
    return ""


def problems(paths: Iterable[SharedPath], stack_root: str) -> list[tuple[str, str]]:
    """Return what stands against the paths on this server, each with the remedy."""
    found = []
    for each in paths:
        setting = f"{each.place} is {each.path}"
        wants_device = each.path.startswith("/dev/")
        why = "" if wants_device else exposure(each.real, stack_root, each.read_only)
        if not each.kind:
            found.append(
                (
                    f"{setting}, which is not on this server",
                    "connect the device, or correct the path"
                    if wants_device
                    else "create it, for the user of the service, or correct the path",
                )
            )
        elif wants_device != (each.kind == DEVICE) or each.kind in (SOCKET, OTHER):
            wanted = "a device" if wants_device else "a folder or a file"
            found.append((f"{setting}, which is a {each.kind} there", f"give {wanted}"))
        elif why:
            found.append((f"{setting}, which leads to {each.real}: {why}", "choose another folder"))
    return found
