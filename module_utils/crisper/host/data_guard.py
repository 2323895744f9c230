"""Guard of the data of the release that serves: in this engine, and in nobody else's hands.

An engine that was restarted with another data-root, image store or user mapping knows nothing of
the stack: a deploy would create empty volumes, or start a second database on the folder of one that
still runs. Runs on the target's Python (3.8 or newer).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..database.versions import volume_name
from ..text import printable

Call = Callable[..., "tuple[int, str, str]"]

DATA_SERVICES = ("postgres", "redis", "qdrant", "mariadb")
UPLOADS = "uploads"
ESCAPED = re.compile(r"\\([0-7]{3})")
CONTAINER_ID = re.compile(r"[0-9a-f]{64}")
# ioctl_nsfs(2), linux/nsfs.h: the user namespace of another one, and the user id of who made it.
NS_GET_USERNS, NS_GET_OWNER_UID = 0xB701, 0xB704
# Programs that only hand signals on.
INITS = ("docker-init", "tini", "catatonit", "dumb-init")


@dataclass(frozen=True)
class Problem:
    """A reason why data services must not be started, and what to do."""

    message: str
    remedy: str


@dataclass(frozen=True)
class Mount:
    """A line of a process's mountinfo."""

    device: str  # major:minor
    root: str  # the folder on that file system
    target: str  # where it is mounted


@dataclass(frozen=True)
class Process:
    """A process that is in no container of this engine and has a data folder in its hands."""

    pid: int
    command: str
    volume: str
    folder: str  # as its file system has it
    container: str = ""  # short id of a container that this engine does not know


@dataclass(frozen=True)
class Found:
    """The facts that were gathered about the data."""

    release: str = ""  # id of the current release; '' = there is none
    missing: Sequence[str] = ()  # volumes with its data that this engine does not have
    data_root: str = ""
    root: str = ""  # folder of the stack
    processes: Sequence[Process] = ()
    recreate: bool = False  # database_recreate_volumes


def judge(found: Found) -> list[Problem]:
    """Return everything that stands against starting data services."""
    if not found.release:
        return []
    problems = []
    where = f" (data-root {found.data_root})" if found.data_root else ""
    # Health checks do not run in containers that an engine with another store has unmounted.
    remake = "docker compose up --detach --force-recreate --wait"
    engine = (
        "If the engine was restarted with another data-root, storage-driver, userns-remap or"
        " features.containerd-snapshotter, set that back, restart the engine, make the"
        f" containers anew (cd {found.root}/current && {remake}), and deploy again; if DOCKER_HOST"
        " or a docker context leads to another engine, set that back"
    )
    if found.missing and not found.recreate:
        names = ", ".join(found.missing)
        problems.append(
            Problem(
                f"the data of release {found.release}, which is the current one, is not in this"
                f" engine{where}: no volume {names}. Nothing was created",
                f"{engine}. If the data is really gone, deploy once with -e"
                " recreate_volumes=true, which makes these volumes anew and empty, and put"
                " a backup set back with playbooks/restore.yml (docs/BACKUP.md)",
            )
        )
    for process in found.processes:
        inside = f" of container {process.container}" if process.container else ""
        stop = "INT" if process.command.startswith("postgres") else "TERM"
        problems.append(
            Problem(
                f"the data of the volume {process.volume} is in use by a process outside this"
                f" engine{where}: pid {process.pid}{inside}, {process.command} (it has"
                f" {process.folder}). A second server on the same files destroys them",
                f"{engine}. Otherwise end the process (kill -{stop} {process.pid}), check that it"
                " has ended, and deploy again",
            )
        )
    return problems


def data_volumes(manifest: Mapping[str, Any], project: str) -> list[str]:
    """Return the names of the volumes that a release (manifest) has its data in.

    Those of beat's schedule and of bodies on their way hold nothing that is not made again.
    """
    model = manifest.get("model") or {}
    names = [name for name in model.get("data_services") or () if name in DATA_SERVICES]
    if UPLOADS in (model.get("volumes") or ()):
        names.append(UPLOADS)
    names += model.get("own_volumes") or ()
    return [volume_name(project, name) for name in names]


# --- /proc -------------------------------------------------------------------------------


def parse_mounts(text: str) -> list[Mount]:
    """Return the mounts of a ``/proc/<pid>/mountinfo``."""
    found = []
    for line in text.splitlines():
        words = line.split(" ")
        if len(words) > 5:
            found.append(Mount(words[2], _unescaped(words[3]), _unescaped(words[4])))
    return found


def _unescaped(text: str) -> str:
    return ESCAPED.sub(lambda match: chr(int(match[1], 8)), text)


def place_of(folder: str, mounts: Iterable[Mount]) -> tuple[str, str]:
    """Return (device, folder on that file system) of a folder; ('', '') if no mount holds it."""
    best: tuple[int, Mount] | None = None
    for mount in mounts:
        inside = folder == mount.target or folder.startswith(mount.target.rstrip("/") + "/")
        # Of two mounts on the same place the later one is seen.
        if inside and (best is None or len(mount.target) >= best[0]):
            best = (len(mount.target), mount)
    if best is None:
        return "", ""
    mount = best[1]
    rest = folder[len(mount.target.rstrip("/")) :].strip("/")
    return mount.device, os.path.join(mount.root, rest) if rest else mount.root


@dataclass
class Proc:
    """The processes in /proc; `path` is another folder in tests."""

    path: str = "/proc"
    own: str = field(default="", init=False)  # mount namespace of this process

    def __post_init__(self) -> None:
        """Look at this very process."""
        self.own = self.namespace("self")

    def read(self, pid: int | str, name: str) -> str:
        """Return a file of a process; '' where it has ended."""
        try:
            with open(f"{self.path}/{pid}/{name}", encoding="utf-8", errors="replace") as file:
                return file.read()
        except OSError:
            return ""

    def namespace(self, pid: int | str) -> str:
        """Return the mount namespace of a process; '' where it has ended."""
        try:
            return os.readlink(f"{self.path}/{pid}/ns/mnt")
        except OSError:
            return ""

    def pids(self) -> list[int]:
        """Return every process."""
        try:
            return sorted(int(name) for name in os.listdir(self.path) if name.isdigit())
        except OSError:
            return []

    def parent(self, pid: int) -> int:
        """Return the parent of a process; 0 where there is none."""
        match = re.search(r"^PPid:\s+(\d+)", self.read(pid, "status"), re.MULTILINE)
        return int(match[1]) if match else 0

    def command(self, pid: int) -> str:
        """Return what a process runs, as it fits into a message."""
        words = self.read(pid, "cmdline").replace("\0", " ").split()
        return printable(" ".join(words) or self.read(pid, "comm").strip(), 60)

    def is_roots(self, pid: int) -> bool:
        """Return whether root made what a process sees as mounts.

        An account may mount folders of its own by any name, in a user namespace that it made.
        """
        owner = array("I", [0])
        try:
            with open(f"{self.path}/{pid}/ns/mnt", "rb") as mounts:
                made_by = fcntl.ioctl(mounts, NS_GET_USERNS)
            try:
                fcntl.ioctl(made_by, NS_GET_OWNER_UID, owner)
            finally:
                os.close(made_by)
        except OSError:
            # It has ended, or its namespace is one above this process's own.
            return self.namespace(pid) != ""
        return owner[0] == 0

    def began_here(self, pid: int) -> bool:
        """Return whether what started a container is a process of this host's own namespace."""
        namespace = self.namespace(pid)
        for _ in range(64):
            pid = self.parent(pid)
            above = self.namespace(pid) if pid else ""
            if above != namespace or not above:
                return bool(above) and above == self.own
        return False

    def writes_below(self, pid: int, folder: str) -> bool:
        """Return whether a process has a file below a folder open for writing.

        The file itself is compared: a name may come from mounts that an account made.
        """
        try:
            handles = os.listdir(f"{self.path}/{pid}/fd")
        except OSError:
            return False
        for handle in handles:
            with contextlib.suppress(OSError):
                name = os.readlink(f"{self.path}/{pid}/fd/{handle}")
                # A link in a volume, planted by a container, may lead to an account's own file.
                if (
                    name.startswith(folder + "/")
                    and name == os.path.realpath(name)
                    and os.path.samefile(f"{self.path}/{pid}/fd/{handle}", name)
                ):
                    flags = re.search(r"flags:\s+(\d+)", self.read(pid, f"fdinfo/{handle}"))
                    if flags and int(flags[1], 8) & os.O_ACCMODE != os.O_RDONLY:
                        return True
        return False


def users(
    volumes: Mapping[str, str], inside: Iterable[int], proc: Proc | None = None
) -> list[Process]:
    """Return the processes outside of this engine that have data of these volumes in their hands.

    Args:
        volumes: name -> folder on this host; empty for a volume that this engine does not have.
        inside: pids of this engine's running containers.
        proc: the processes of this host.

    Returns:
        One for each container or program, the one that began it.
    """
    proc = proc or Proc()
    ours = {proc.namespace(pid) for pid in inside} | {proc.own, ""}
    host = parse_mounts(proc.read("self", "mountinfo"))
    places = {name: place_of(os.path.realpath(f), host) for name, f in volumes.items() if f}
    known: dict[str, tuple[str, str]] = {}  # mount namespace -> (volume, folder); '' = none of them
    reported: set[str] = set()
    found = []
    for pid in proc.pids():
        space = proc.namespace(pid)
        if space == proc.own and pid != os.getpid():
            found += _writer(pid, volumes, proc)
        if space in ours or space in reported:
            continue
        if space not in known:
            mounts = parse_mounts(proc.read(pid, "mountinfo"))
            known[space] = _mounted_volume(mounts, volumes, places)
        name, folder = known[space]
        if not name or os.path.basename(proc.command(pid).split(" ")[0]) in INITS:
            continue
        exact = places.get(name, ("", ""))[1] == folder
        if (exact or proc.began_here(pid)) and proc.is_roots(pid):
            reported.add(space)
            match = CONTAINER_ID.search(proc.read(pid, "cgroup"))
            container = match[0][:12] if match else ""
            found.append(Process(pid, proc.command(pid), name, printable(folder), container))
    return found


def _writer(pid: int, volumes: Mapping[str, str], proc: Proc) -> list[Process]:
    """Return a process of this host once for each of the volumes that it writes to."""
    return [
        Process(pid, proc.command(pid), name, printable(folder))
        for name, folder in volumes.items()
        if folder and proc.writes_below(pid, os.path.realpath(folder))
    ]


def _mounted_volume(
    mounts: Sequence[Mount], volumes: Mapping[str, str], places: Mapping[str, tuple[str, str]]
) -> tuple[str, str]:
    """Return which volume's data is mounted, and its folder; ('', '') if none is.

    A volume of the same name in another data-root of this host counts, too: the engine that made it
    was moved. A service with a view of its own of the host's mounts has it where the host has it.
    """
    for mount in mounts:
        for name, folder in volumes.items():
            if folder and mount.target == os.path.realpath(folder):
                continue
            is_volume = (mount.device, mount.root) == places.get(name)
            if is_volume or mount.root.endswith(f"/volumes/{name}/_data"):
                return name, mount.root
    return "", ""


# --- Gathering ---------------------------------------------------------------------------


def check_data(
    call: Call, root: Path, project: str, recreate: bool = False, proc: Proc | None = None
) -> list[Problem]:
    """Return everything that stands against starting the data services of a stack.

    Without a current release, or an engine that answers, nothing does.

    Args:
        call: runs a Docker command; exit code, output and errors.
        root: folder of the stack.
        project: Compose project.
        recreate: whether volumes that are gone are to be made anew.
        proc: the processes of this host.
    """
    manifest = _read_json(root / "current" / "manifest.json")
    release = str(manifest.get("id", ""))
    wanted = data_volumes(manifest, project)
    if not manifest and (root / "current").is_symlink():
        # Damaged, or its folder is gone: the data is that of any release that is kept.
        release = os.path.basename(os.readlink(root / "current"))
        manifests = map(_read_json, sorted((root / "releases").glob("*/manifest.json")))
        wanted = sorted({name for each in manifests for name in data_volumes(each, project)})
    code, out, _err = call("info", "--format", "{{json .DockerRootDir}}")
    # With a format some clients end well, with no text or an empty one, when no engine answers.
    data_root = str(json.loads(out or '""')) if code == 0 else ""
    if not wanted or not data_root:
        return []
    folders = _folders(call, wanted)
    volumes = {name: folders.get(name, "") for name in wanted}
    found = Found(
        release=release,
        missing=[name for name in wanted if name not in folders],
        data_root=data_root,
        root=str(root),
        processes=users(volumes, _container_pids(call), proc),
        recreate=recreate,
    )
    return judge(found)


def _container_pids(call: Call) -> list[int]:
    """Return the first process of each running container."""
    _code, out, _err = call("ps", "--quiet", "--no-trunc")
    if not out.split():
        return []
    _code, out, _err = call("inspect", "--format", "{{.State.Pid}}", *out.split())
    return [int(word) for word in out.split() if word.isdigit()]


def _folders(call: Call, names: Sequence[str]) -> dict[str, str]:
    """Return the folders of those volumes that the engine has; '' where none is on this host."""
    form = "{{json .Name}} {{json .Mountpoint}}"
    _code, out, _err = call("volume", "inspect", "--format", form, *names)
    found = {}
    for line in out.splitlines():
        with contextlib.suppress(ValueError):
            name, folder = json.loads("[" + line.replace('" "', '", "', 1) + "]")
            found[name] = folder if os.path.isdir(folder) else ""
    return found


def _read_json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
