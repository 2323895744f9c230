"""Sentences about releases: interrupted, restored, or without a bill of materials.

Pure functions of what modules returned.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..images.sbom import SBOM
from ..text import printable
from .manifest import RELEASE_ID

# Characters of the reason why a release failed that stand in its row.
REASON_WIDTH = 160


def restored_database(irreversible: Sequence[Mapping[str, Any]]) -> str:
    """Return the end of a sentence: what a rollback that may restore the database did with it.

    Args:
        irreversible: migrations since the release that cannot be undone, the first one first.
    """
    if irreversible:
        return f"; the database was restored from {irreversible[0]['backup']}"
    return (
        "; the database was left as it is, because nothing since is recorded that cannot be undone"
    )


def resumed_note(staged: Mapping[str, Any], instead: str) -> str:
    """Return what becomes of the release of an interrupted deploy.

    Args:
        staged: what M(release) returned: ``release``, ``resumed``, ``replaced``.
        instead: what happens where it is not resumed, without a full stop.
    """
    if staged["resumed"]:
        return f"It is resumed with release {staged['release']['id']}."
    if staged["replaced"]:
        return f"Its release {staged['replaced']} is given up: {instead}."
    return f"Nothing of it is left to resume: {instead}."


def sbom_absence(manifest: Mapping[str, Any], wanted: str) -> str:
    """Return why there is no bill of materials to be fetched; empty where there is one.

    A file of the controller is named by the manifest's id: what is none is not believed.

    Args:
        manifest: of the release, as the server has it; empty where there is none.
        wanted: id of the release; empty for the one that serves.
    """
    if manifest:
        found = str(manifest.get("id"))
        if not RELEASE_ID.match(found) or wanted not in ("", found):
            which = f"release {wanted}" if wanted else "the release that serves"
            return (
                f"Nothing was fetched: the manifest of {which}, with the id"
                f" {printable(found, 60)!r}, was altered"
            )
        listed = manifest.get("sbom")
        if isinstance(listed, Mapping) and listed.get("path") == SBOM:
            return ""
        return f"Release {manifest['id']} has no bill of materials: an older edition made it"
    return f"Release {wanted} is not kept" if wanted else "No release serves"


def release_rows(releases: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a row for each kept release, newest first.

    Args:
        releases: of M(release): ``id, created, operator, revision, verified, failed, current``.
    """
    return [_release_row(release) for release in releases] or ["none"]


def _release_row(release: Mapping[str, Any]) -> str:
    state = "verified" if release["verified"] else "not verified"
    parts = [f"made {release['created']} by {release['operator']}"]
    parts += [f"revision {release['revision']}"] if release["revision"] else []
    parts.append(f"{state}, the current one" if release["current"] else state)
    row = f"{release['id']}  {printable(', '.join(parts))}"
    reason = str(release["failed"]).strip().split("\n")[0]
    return f"{row}; failed: {printable(reason, REASON_WIDTH)}" if reason else row
