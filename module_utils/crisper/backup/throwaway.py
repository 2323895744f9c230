"""Options of containers that are made for one task: no network, and no more rights than needed.

What runs in them may be hostile: a restored backup is what an application has written. Python 3.9+.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..docker.exec import HARDENED

# Those of templates/docker-compose.prod.yml.j2, for containers that an older edition deployed.
USERS = {
    "postgres": "999:60902",
    "redis": "999:60903",
    "mariadb": "999:60904",
    "qdrant": "60905:60905",
}
FOLDERS = {
    "postgres": "/var/lib/postgresql/data",
    "redis": "/data",
    "mariadb": "/var/lib/mysql",
    "qdrant": "/qdrant/storage",
}
TMPFS = {
    "postgres": ("/tmp", "/var/run/postgresql"),  # noqa: S108
    "redis": ("/tmp",),  # noqa: S108
    "mariadb": ("/tmp", "/run/mysqld"),  # noqa: S108
    "qdrant": ("/tmp", "/qdrant/snapshots"),  # noqa: S108
}
TMPFS_OPTIONS = "mode=1777,size=64m,noexec,nosuid,nodev"
_USER = re.compile(r"[1-9]\d{0,9}:\d{1,10}\Z")


def service_user(service: str, record: Mapping[str, Any]) -> str:
    """Return ``uid:gid`` of the container that serves, or the template's where that is root.

    Args:
        seen: what the engine knows of the container.
    """
    user = str(record["Config"].get("User") or "")
    return user if _USER.match(user) else USERS[service]


def service_folder(service: str, record: Mapping[str, Any]) -> str:
    """Return where the container that serves has its data: another folder in PostgreSQL 18."""
    volumes = (m["Destination"] for m in record.get("Mounts") or [] if m.get("Type") == "volume")
    return next(volumes, FOLDERS[service])


def tmpfs_options(service: str, mounts: Mapping[str, str]) -> list[str]:
    """Return the options that give a service its folders in memory.

    Args:
        mounts: folder -> options, as the container that serves has them.
    """
    wanted = {**dict.fromkeys(TMPFS[service], TMPFS_OPTIONS), **mounts}
    return [piece for folder, how in wanted.items() for piece in ("--tmpfs", f"{folder}:{how}")]


def service_options(service: str, record: Mapping[str, Any]) -> list[str]:
    """Return the options of a throwaway container of a service, but for its data.

    Args:
        seen: what the engine knows of the container that serves.
    """
    host = record["HostConfig"]
    shared = host.get("ShmSize") or 0
    return [
        *HARDENED,
        *("--init", "--user", service_user(service, record), "--memory", str(host["Memory"])),
        *(("--shm-size", str(shared)) if shared else ()),
        *tmpfs_options(service, host.get("Tmpfs") or {}),
        # Nobody reads more of its log than the end.
        *("--log-driver", "json-file", "--log-opt", "max-size=10m"),
    ]
