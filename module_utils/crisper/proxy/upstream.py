"""The release that nginx sends requests to: a symbolic link that is read on each request.

Below nginx's live folder (``/etc/crisper`` in its container):

    serving -> upstreams/<release>
    upstreams/<release>/<service> -> <service>-<release>:<port>   a folder; its name is the address
    upstreams/<release>/<service>.probe                           how its replicas are asked
    upstreams/<release>/static -> /srv/static/<release>           its files (proxy.static_files)

nginx takes ``$realpath_root`` of ``serving/<service>`` for each request (templates/nginx), and its
``alias`` of static files leads through ``serving/static``, so that renaming ``serving`` moves all
requests from one release to another at once.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import make_folder

LINK, FOLDER = "serving", "upstreams"
# Where the container of nginx has the trees of static files, one for each release.
STATIC_TREES = "/srv/static"
# How a replica is asked where the release does not say.
PROBE: dict[str, Any] = {"path": "/", "scheme": "http", "status": [200]}


def address(service: str, release: str, port: int) -> str:
    """Return the address of a service's containers in one release, as Docker's DNS knows it."""
    return f"{service}-{release}:{port}"


def probe_line(service: str, service_plan: Mapping[str, Any]) -> str:
    """Return ``<replicas> <host> <scheme> <status,…> <path>``, as upstreams.sh reads it."""
    probe = {**PROBE, **(service_plan.get("probe") or {})}
    host = probe.get("host") or service
    statuses = ",".join(str(status) for status in probe["status"])
    return (
        f"{service_plan.get('replicas', 1)} {host} {probe['scheme']} {statuses} {probe['path']}\n"
    )


def accept_queue(table: str) -> int:
    """Return how many connections wait to be accepted, from the text of ``/proc/<pid>/net/tcp``.

    For a listening socket (state ``0A``) the second half of ``tx_queue:rx_queue`` (hexadecimal) is
    the length of its accept queue: proc(5), and sk_ack_backlog in the kernel's tcp_ipv4.c.
    """
    rows = (line.split() for line in table.splitlines()[1:])
    return sum(int(row[4].split(":")[1], 16) for row in rows if len(row) > 4 and row[3] == "0A")


def waiting_connections(pid: int) -> int:
    """Return how many connections wait in the network namespace of a process; 0 if it is gone."""
    total = 0
    for name in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            total += accept_queue(Path(f"/proc/{pid}/net/{name}").read_text())
    return total


class Upstreams:
    """The releases that nginx knows, and the one that serves.

    `folder` is nginx's live folder; `services` are those of the release with their `port`
    (services without one get no requests through nginx).
    """

    def __init__(self, folder: str, services: Mapping[str, Mapping[str, Any]]) -> None:
        self.folder = Path(folder)
        self.services = {
            name: service_plan
            for name, service_plan in services.items()
            if service_plan.get("port")
        }

    @property
    def serving(self) -> str:
        """The release that requests go to; empty when there is none."""
        try:
            return Path(os.readlink(self.folder / LINK)).name
        except OSError:
            return ""

    def prepare(self, release: str) -> None:
        """Write down where a release is; nothing is sent there yet.

        Raises:
            OSError: the folder cannot be written.
        """
        target = self.folder / FOLDER / release
        make_folder(target)
        # A path of the container: on the server the link leads nowhere.
        _link(target / "static", f"{STATIC_TREES}/{release}")
        for name, service_plan in self.services.items():
            place = address(name, release, int(service_plan["port"]))
            make_folder(target / place)
            _link(target / name, place)
            _write(target / f"{name}.probe", probe_line(name, service_plan))

    def switch(self, release: str) -> None:
        """Send all requests to a release that was prepared, from now on."""
        _link(self.folder / LINK, f"{FOLDER}/{release}")

    def leave(self) -> None:
        """Forget which release serves: one whose nginx knows no link does."""
        (self.folder / LINK).unlink(missing_ok=True)

    def prune(self) -> None:
        """Forget every release but the one that serves."""
        for folder in (self.folder / FOLDER).glob("*"):
            if folder.name != self.serving:
                shutil.rmtree(folder)


def _link(path: Path, target: str) -> None:
    """Make a symbolic link, in place of an older one, in one step."""
    beside = path.with_name(f".{path.name}.new")
    beside.unlink(missing_ok=True)
    beside.symlink_to(target)
    beside.replace(path)


def _write(path: Path, text: str) -> None:
    """Write a file that nginx's user can read, whatever the umask."""
    path.write_text(text)
    path.chmod(0o644)
