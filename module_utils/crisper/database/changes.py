"""Decisions of role database: what of the data services and the schema has changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

SECRETS = ("secrets/", ".env.qdrant")


def data_services_unchanged(deploy: Mapping[str, Any], services: Collection[str]) -> bool:
    """Return whether the data services that run are complete, healthy and the release's.

    Args:
        deploy: the fact of the run.
        services: names of the data services.
    """
    release = deploy["release"]
    differs = release["differs"]
    return bool(
        deploy["state"]["intact"]
        and release["id"]
        and "data" not in differs["facts"]
        and not any(name.startswith(SECRETS) for name in differs["secrets"])
        and not set(differs["images"]) & set(services)
    )


def migration_wanted(deploy: Mapping[str, Any], release: Mapping[str, Any], behind: bool) -> bool:
    """Return whether the migration of `release` has to run.

    The same image with the same command has nothing to do in the same database.

    Args:
        deploy: the fact of the run.
        release: the release in question; only a staged one is migrated.
        behind: whether the database is older than the release that serves.
    """
    differs = deploy["release"]["differs"]
    unchanged = (
        deploy["release"]["before"]
        and "backend" not in differs["images"]
        and "migrate" not in differs["facts"]
        and not any("DATABASE_URL" in name for name in differs["env"])
    )
    return bool(behind or (release.get("staged") and not unchanged))
