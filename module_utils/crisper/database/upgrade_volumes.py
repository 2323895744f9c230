"""Volumes of an upgrade of PostgreSQL's data: copied whole, compared, removed."""

from __future__ import annotations

from ..backup.manifest import BackupError
from ..backup.throwaway import TMPFS_OPTIONS
from ..docker.exec import HARDENED
from .upgrade_stack import Stack

FILES = "find . -type f ! -name upgrade-in-progress -printf '%s %P\\n' | LC_ALL=C sort | sha256sum"
COPY = (
    f"set -e; cp -a /from/. /to/; sync; cd /from; one=$({FILES}); cd /to; other=$({FILES});"
    ' [ "$one" = "$other" ] || { echo "the copy differs from its source" >&2; exit 1; }'
)
# A server that starts meanwhile finds neither a cluster nor an empty folder, and makes none.
REPLACE = (
    "set -e; touch /to/upgrade-in-progress;"
    " find /to -mindepth 1 -maxdepth 1 ! -name upgrade-in-progress -exec rm -rf {} +; "
    + COPY
    + "; rm /to/upgrade-in-progress; sync"
)


def copy_volume(stack: Stack, source: str, target: str, script: str, what: str) -> None:
    """Run a script with one volume at /from and another at /to.

    Raises:
        BackupError: it failed.
    """
    image = stack.images()["postgres"]["id"]
    # sort(1) keeps there, in a container of its own, what it has no memory for.
    room = f"/tmp:{TMPFS_OPTIONS}"  # noqa: S108
    arguments: tuple[str, ...] = ("run", "--rm", *HARDENED, "--user", "0:0", "--tmpfs", room)
    # Of root's capabilities those that files of another owner need.
    arguments += ("--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER")
    volumes = ("--volume", f"{source}:/from:ro", "--volume", f"{target}:/to")
    command = ("--label", stack.label, "--entrypoint", "sh", image, "-c", script)
    try:
        stack.docker.run(*arguments, *volumes, *command)
    except BackupError as error:
        raise BackupError(f"{what}: {error}") from error


def remove_volumes(stack: Stack, old_volume: str = "") -> None:
    """Remove what only an upgrade under way needs, and the volume with the old data.

    Args:
        old_volume: its name; empty leaves it.
    """
    for listing, removal in (
        (("ps", "--all", "--quiet"), ("rm", "--force", "--volumes")),
        (("volume", "ls", "--quiet"), ("volume", "rm", "--force")),
    ):
        found = stack.docker.run(*listing, "--filter", f"label={stack.label}").split()
        if found:
            stack.docker.run(*removal, *found)
    if old_volume:
        stack.docker.run("volume", "rm", "--force", old_volume)
