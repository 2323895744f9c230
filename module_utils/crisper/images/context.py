"""A build context as data: which files it has, and one digest of all that decides its image."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import stat
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pathspec

# Version of what write_archive makes of the same files; images of another one are built again.
ARCHIVE = 3
# Times of files lie in the seventeen years from here on (2004): nothing in an image is of tomorrow.
FIRST_TIME, TIMES = 2**30, 2**29


class ContextError(Exception):
    """The context cannot be used; the message says why and what to do."""


@dataclass(frozen=True)
class Entry:
    """A file or symbolic link of a context, its path relative and with slashes."""

    path: str
    executable: bool
    link: str | None
    sha256: str


def ignore_rules(lines: Iterable[str]) -> pathspec.PathSpec[Any]:
    """Make a .dockerignore matcher: gitignore's globs, but anchored at the context's root."""
    rules = []
    for raw in lines:
        line = raw.strip()
        if not line or raw.startswith("#"):
            continue
        negated = line.startswith("!")
        pattern = os.path.normpath(line[1:].strip() if negated else line).lstrip("/")
        if pattern not in ("", "."):
            sign = "!" if negated else ""
            # A pattern that fits a folder holds for all below it.
            rules += [f"{sign}/{pattern}", f"{sign}/{pattern}/**"]
    try:
        return pathspec.PathSpec.from_lines("gitignore", rules)
    except ValueError as error:
        raise ContextError(
            f"the .dockerignore has a pattern that cannot be read: {error}"
        ) from error


def read_ignore(root: Path, dockerfile: str) -> pathspec.PathSpec[Any]:
    """Read ``<dockerfile>.dockerignore``, else ``.dockerignore``, as BuildKit does."""
    for name in (f"{dockerfile}.dockerignore", ".dockerignore"):
        try:
            return ignore_rules((root / name).read_text(encoding="utf-8-sig").splitlines())
        except FileNotFoundError:
            continue
    return ignore_rules([])


def hash_file(path: Path) -> str:
    """Hash one file, in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while piece := stream.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def scan(root: Path, dockerfile: str = "Dockerfile") -> list[Entry]:
    """List the files that a build of this context would see, sorted by path."""
    if not root.is_dir():
        raise ContextError(f"build context {root} is not a folder on the controller")
    if not (root / dockerfile).is_file():
        raise ContextError(f"build context {root} has no {dockerfile}: set build.dockerfile")
    ignored = read_ignore(root, dockerfile)
    entries = []
    for folder, folders, files in os.walk(root):
        folders.sort()
        # A link to a folder is among the folders, and is not walked into.
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in files + links:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if relative != dockerfile and ignored.match_file(relative):
                continue
            entry = read_entry(path, relative)
            if entry is not None:
                entries.append(entry)
    return sorted(entries, key=lambda entry: entry.path)


def read_entry(path: Path, relative: str) -> Entry | None:
    """Describe one path; sockets, pipes and devices are no part of a context."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        link = os.readlink(path)
        return Entry(relative, False, link, hashlib.sha256(link.encode()).hexdigest())
    if stat.S_ISREG(mode):
        return Entry(relative, bool(mode & 0o111), None, hash_file(path))
    return None


def digest(entries: Iterable[Entry], dockerfile: str, args: Mapping[str, Any]) -> str:
    """Digest contents, executable bits, the Dockerfile's name and the build arguments.

    Owners, times and the other permission bits are left out: they differ between two checkouts
    of the same revision.
    """
    whole = {
        "archive": ARCHIVE,
        "args": {name: str(value) for name, value in args.items()},
        "dockerfile": dockerfile,
        "files": [[e.path, e.executable, e.link is not None, e.sha256] for e in entries],
    }
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()


def folders(entries: Iterable[Entry]) -> list[str]:
    """Return every folder of a context, the context itself (``.``) and parents first."""
    parents = {parent.as_posix() for e in entries for parent in PurePosixPath(e.path).parents}
    return sorted(parents | {"."})


def time_of(sha256: str) -> int:
    """Return the modification time of a file in an archive, seconds since 1970, by its content.

    BuildKit transfers a file again when its path, size or time differs from the last build in that
    folder: with one time for all, a change of the same size ("1" to "2") was not in the image.
    Servers of static files make their ETag of size and time.
    """
    return FIRST_TIME + int(sha256[:16], 16) % TIMES


def write_archive(root: Path, entries: Iterable[Entry], target: IO[bytes]) -> None:
    """Write the files as tar.gz; the same files give the same bytes.

    Folders are members too: those that tar makes by itself get the umask of who unpacks, and an
    image whose folders are for root alone does not start.
    """
    entries = list(entries)
    with (
        gzip.GzipFile(fileobj=target, mode="wb", mtime=0, filename="", compresslevel=6) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for folder in folders(entries):
            member = tarfile.TarInfo(folder)
            member.type, member.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(member)
        for entry in entries:
            member = tarfile.TarInfo(entry.path)
            member.mtime = time_of(entry.sha256)
            member.mode = 0o755 if entry.executable else 0o644
            if entry.link is not None:
                member.type, member.linkname, member.mode = tarfile.SYMTYPE, entry.link, 0o777
                archive.addfile(member)
                continue
            with (root / entry.path).open("rb") as stream:
                member.size = os.fstat(stream.fileno()).st_size
                archive.addfile(member, stream)
