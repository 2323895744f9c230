"""Uploaded files: a tar of their volume, and a restore that is whole or changes nothing."""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import tarfile
from typing import IO, Any

from ...docker.exec import HARDENED, Docker, started
from ..archive import Expected, copy_safely, count_members
from ..manifest import BackupError

# 1: a file changed or went away while it was read; what is in the archive is whole all the same.
DUMP_UPLOADS = (
    "tar --directory /data --exclude ./.restored --numeric-owner --create . || [ $? -eq 1 ]"
)
# Unpacked before anything is removed: an archive that breaks off changes nothing. GNU tar takes one
# that ends between two files for a whole one, so its last file is looked for. Everything is owned
# by the application's user: {owner} is its `uid`, its `uid:gid`, or empty for the folder's owner.
RESTORE_UPLOADS = """
set -e; cd /data; rm -rf .restored
trap 'rm -rf .restored' EXIT
trap 'exit 1' TERM INT HUP
mkdir .restored
owner=$(stat --format %u:%g .); wanted={owner}
case $wanted in '') ;; *:*) owner=$wanted ;; *) [ "${owner%%:*}" = "$wanted" ] || owner=$wanted:$wanted ;; esac
tar --directory .restored --no-same-owner --preserve-permissions --extract
[ -f .restored/{last} ] || { echo "the archive broke off" >&2; exit 1; }
rm .restored/{last}
chown --recursive --no-dereference "$owner" .restored; sync --file-system .restored
trap - EXIT; trap '' TERM INT HUP  # from here on the new files are the only ones
find . -mindepth 1 -maxdepth 1 ! -name .restored -exec rm -rf {} +
chown --reference=.restored .; chmod --reference=.restored .
find .restored -mindepth 1 -maxdepth 1 -exec mv --target-directory . {} +; rmdir .restored
"""  # noqa: E501
# `uid` or `uid:gid`, or nothing.
OWNER = re.compile(r"(?:\d{1,10}(?::\d{1,10})?)?\Z")


class _Counting:
    """A stream that is written into another while it is read."""

    def __init__(self, source: IO[bytes], target: IO[bytes]) -> None:
        self.source = source
        self.target = target

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        piece = self.source.read(size)
        self.target.write(piece)
        return piece


class Uploads:
    """The volume with uploaded files, reached by throwaway containers of an image that has tar.

    Args:
        labels: of those containers, ``name=value``.
    """

    def __init__(self, docker: Docker, image: str, volume: str, *labels: str) -> None:
        self.docker = docker
        self.image = image
        self.volume = volume
        self.labels = [piece for label in labels for piece in ("--label", label)]

    def _command(self, script: str, access: str) -> list[str]:
        # No log: the engine would write every byte of the archive into it. Of root's capabilities
        # those stay that files of other owners need: no device can be made.
        return [
            *(self.docker.cli, "run", "--rm", "--interactive", *HARDENED, *self.labels),
            *("--log-driver", "none", "--user", "0:0"),
            *("--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE", "--cap-add", "FOWNER"),
            *("--volume", f"{self.volume}:/data:{access}"),
            *("--entrypoint", "timeout", self.image, str(self.docker.timeout)),
            *("bash", "-o", "pipefail", "-c", script),
        ]

    def dump(self, target: IO[bytes]) -> dict[str, Any]:
        """Write the files as a tar; what is told of them was counted in it.

        Raises:
            BackupError: they were not read, or no restore would take the archive.
        """
        what, broken = "The uploaded files were not read", ""
        counted: dict[str, Any] = {}
        command = self._command(DUMP_UPLOADS, "ro")
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE}
        with started(command, **pipes) as running:
            stream = _Counting(running.stdout, target)
            try:
                judge = count_members(stream)  # type: ignore[arg-type]  # read() is all it needs
                counted = {
                    "uploads": {"files": judge.files, "bytes": judge.size},
                    "entries": judge.entries,
                }
                while stream.read(1 << 20):
                    pass
            except BackupError as error:
                raise BackupError(f"{what}: {error}") from error
            except tarfile.TarError as error:
                broken = str(error)
        self.docker.judge(what, running)
        if broken:
            raise BackupError(f"{what}: {broken}")
        return counted

    def restore(self, source: IO[bytes], expected: Expected, owner: str = "") -> dict[str, int]:
        """Replace the files by those of a tar; return how many entries were left out or changed.

        Args:
            source: the tar.
            expected: what the manifest tells of it.
            owner: uid or ``uid:gid`` of all files; empty for the owner of the folder.

        Raises:
            BackupError: the files are as they were.
        """
        if not OWNER.match(owner):
            raise BackupError(f"{owner!a} is no owner of files")  # it becomes part of a script
        what, last = "The uploaded files were not restored", f".crisper-{os.urandom(8).hex()}"
        script = RESTORE_UPLOADS.replace("{owner}", owner).replace("{last}", last)
        command, problem = self._command(script, "rw"), ""
        left_out: dict[str, int] = {}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.DEVNULL}
        with started(command, **pipes) as running:
            try:
                left_out = copy_safely(source, running.stdin, expected, last)
                running.stdin.close()
            except BrokenPipeError:
                pass  # it ended early; its exit code and its messages say why
            except BackupError as error:
                # Without its last file nothing is replaced; the script is to end by itself.
                problem = str(error)
        if problem:
            raise BackupError(f"{what}, because of their archive: {problem}")
        self.docker.judge(what, running)
        return left_out


def _uploads(docker: Docker, container: str, *labels: str) -> Uploads:
    record = docker.inspect(container)
    return Uploads(docker, record["Image"], f"{_project(record)}_uploads", *labels)


def _project(record: dict[str, Any]) -> str:
    return str(record["Config"]["Labels"]["com.docker.compose.project"])


def uploads_owner(docker: Docker, project: str) -> str:
    """Return uid or ``uid:gid`` of the application that writes uploads; empty when unknown.

    Its containers are there, though they do not run. A user by name is known to its image alone;
    the folder in the volume has its owner then, as the engine has made it.
    """
    volume = f"{project}_uploads"
    for container in docker.run(
        *("ps", "--all", "--quiet", "--no-trunc", "--filter", f"volume={volume}"),
        *("--filter", f"label=com.docker.compose.project={project}"),
    ).split():
        record = docker.inspect(container)
        writes = any(m.get("Name") == volume and m.get("RW") for m in record["Mounts"])
        user = str(record["Config"].get("User") or "")
        if writes and user and OWNER.match(user):
            return user
    return ""


def uploads_state(docker: Docker, container: str) -> dict[str, Any]:
    """Return ``{uploads: {files, bytes}}``; the image of the container has tar."""
    with open(os.devnull, "wb") as nowhere:
        return _uploads(docker, container).dump(nowhere)


def dump_uploads(docker: Docker, container: str, target: IO[bytes]) -> dict[str, Any]:
    """Write the uploaded files as a packed tar."""
    with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as packed:
        return _uploads(docker, container).dump(packed)  # type: ignore[arg-type]


def restore_uploads(
    docker: Docker, container: str, source: IO[bytes], expected: Expected, label: str
) -> dict[str, int]:
    """Replace the uploaded files; the application does not run meanwhile.

    Returns:
        How many entries were left out or changed, by what they are.
    """
    owner = uploads_owner(docker, _project(docker.inspect(container)))
    with gzip.GzipFile(fileobj=source) as plain:
        files = _uploads(docker, container, label)
        return files.restore(plain, expected, owner)  # type: ignore[arg-type]
