"""The guard of the workers: whether they are started by it, and what a release has of it.

The guard is the package app/crisper-worker. Each release has its own in the folder ``guard``, which
is mounted into the containers of workers and beat. Their image needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from .validators import as_mapping

# In the repository, in a release, and in a container.
SOURCES = "app/crisper-worker/src"
FOLDER = "guard"
MOUNT = "/opt/crisper-guard"


def is_guarded(celery: Mapping[str, Any]) -> bool:
    """Return whether the workers of stack_app.celery are started by the guard."""
    return celery.get("guard", True) is not False


def program(celery: Mapping[str, Any]) -> list[str]:
    """Return the beginning of the commands of workers and beat.

    A folder is run, no module: an image may have a PYTHONPATH of its own, which would be lost.
    """
    return ["python", MOUNT] if is_guarded(celery) else ["celery"]


def health_check(celery: Mapping[str, Any]) -> str:
    """Return how the health of a worker is checked: by its ``heartbeat``, or by a ``ping``."""
    return str(celery.get("health") or ("heartbeat" if is_guarded(celery) else "ping"))


def guard_files(repository: str) -> list[dict[str, str]]:
    """Return the files of the guard as those of a release: ``path`` and ``content``.

    Args:
        repository: path of this repository on the controller.
    """
    root = Path(repository) / SOURCES
    paths = {path.relative_to(root).as_posix(): path for path in sorted(root.rglob("*.py"))}
    return [
        {"path": f"{FOLDER}/{name}", "content": path.read_text("utf-8")}
        for name, path in paths.items()
    ]


def validate(values: Mapping[str, Any]) -> Iterator[str]:
    """Yield what stack_app.celery asks for that nobody can see without the guard."""
    celery = as_mapping(as_mapping(values.get("stack_app")).get("celery"))
    if not is_guarded(celery) and celery.get("health") == "heartbeat":
        yield (
            "stack_app.celery.health is 'heartbeat', and stack_app.celery.guard is false: the guard"
            " writes the heartbeat. Leave guard out, or set health: ping."
        )
