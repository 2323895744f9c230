"""Versions of the data services, asked of what runs."""

from __future__ import annotations

from ...docker.exec import Docker
from .qdrant import Qdrant

VERSIONS = {
    "postgres": "postgres --version | grep -o '[0-9][0-9.]*' | sed -n 1p",
    "mariadb": "mariadbd --version | grep -o '[0-9.]*-MariaDB'",
    "redis": "redis-server --version | grep -o 'v=[0-9.]*'",
}


def service_version(docker: Docker, service: str, container: str) -> str:
    """Return the version of the service that runs in a container, as it tells it.

    Raises:
        BackupError: it does not answer.
    """
    if service == "uploads":
        return "1"  # of the archive's form
    if service == "qdrant":
        return str(Qdrant(docker, container).ask("GET", "/")["version"])
    command = docker.inside(container, VERSIONS[service])
    return docker.text(f"The version of {service} could not be read", command).removeprefix("v=")
