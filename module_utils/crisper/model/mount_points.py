"""Mount points in containers of the application: those an operator may take (no I/O)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..host.shared_paths import is_below
from .option_values import normal_path
from .validators import FOLDER, quoted

# The kernel's and the engine's own.
KERNEL = ("/proc", "/sys", "/dev")
TMP = "/tmp"  # noqa: S108 - of containers
ENGINE = ("/etc/hosts", "/etc/hostname", "/etc/resolv.conf")


@dataclass(frozen=True)
class Mount:
    """A path in a container, of any type; `where` is its place, `kind` the option that has it."""

    where: str
    path: Any
    kind: str


def mount_problems(mounts: Sequence[Mount], taken: Mapping[str, str]) -> Iterator[str]:
    """Yield what is wrong with the mounts of one service, with the remedy.

    Args:
        mounts: of the operator.
        taken: folders that the stack mounts there, and what each is.
    """
    known: dict[str, str] = {}
    for mount in mounts:
        value = "missing" if mount.path is None else quoted(mount.path)
        setting = f"{mount.where} is {value}"
        if not FOLDER.matches(mount.path):
            yield f"{setting}: {FOLDER.remedy}"
            continue
        path = normal_path(mount.path)
        if path == TMP and mount.kind != "tmpfs":
            yield f"{setting}, a temporary folder in memory: choose another path."
        if path in known:
            yield f"{setting}, and so is {known[path]}: remove one of them."
        known.setdefault(path, mount.where)
        for folder in (*KERNEL, *ENGINE):
            if is_below(path, folder):
                yield f"{setting}: {folder} is the kernel's or the engine's; choose another path."
        for folder, owner in taken.items():
            if is_below(path, folder) or is_below(folder, path):
                yield (
                    f"{setting}, which would hide {folder} ({owner}): choose a path that neither"
                    " contains it nor lies in it."
                )
