"""Copy a tar of uploaded files, leaving out what an application's files have no use for.

Whoever can write where a copy of a set lies, and an application that an attacker has taken over,
decide what is in such an archive. What an application in a container can make of its own files is
left out or made harmless, so that it cannot stop a restore: links that lead out of the folder,
named pipes, whiteouts (the character device 0:0, for which Linux asks no capability), paths that
are too long to be opened by name, set-user-ID bits. What it cannot make ends the restore: other
devices, absolute names, names with `..`, files below a link, more files or bytes than the manifest
tells. A backup reads its archive by the same rules.

Names, times and the nine bits of permissions are all that is copied of a member; the owner is the
volume's. Needs nothing but Python.
"""

from __future__ import annotations

import gzip
import tarfile
import zlib
from collections import Counter
from dataclasses import dataclass
from typing import IO, Any

from .manifest import BackupError

# Folder in the volume that a restore unpacks into.
DRAFT = ".restored"
# Bytes of headers that a member may have. GNU tar writes names of any length, and a process can
# make folders within folders beyond what it could open by name: a backup ends at LONGEST_NAMES.
SLACK = 64 * 1024
LONGEST_NAMES = SLACK // 2
# Entries of an archive of an older edition, whose manifest does not tell their number.
ENTRIES = 10_000_000
LONGEST_PATH, LONGEST_NAME = 4096, 255
PERMISSIONS = 0o777
LATEST = 2**40  # seconds since 1970, beyond which no file system goes
# What was left out or changed.
PIPE = "named pipes"
LINK_OUT = "links that lead out of the folder"
LINK_TO_LINK = "hard links to symbolic links"
LINK_TO_LEFT_OUT = "hard links to what is left out"
WHITEOUT = "whiteouts (character devices 0:0)"
TOO_LONG = "paths of more than 4,096 bytes"
BITS = "set-user-ID, set-group-ID or sticky bits"


@dataclass(frozen=True)
class Expected:
    """The numbers that the manifest of a set tells of its archive."""

    files: int
    size: int
    entries: int = ENTRIES

    @classmethod
    def of(cls, part: dict[str, Any]) -> Expected:
        """Return what the part `uploads` of a manifest tells."""
        entries = part.get("entries")
        uploads = part["uploads"]
        if not isinstance(entries, int) or isinstance(entries, bool) or entries < 0:
            entries = ENTRIES
        return cls(uploads["files"], uploads["bytes"], entries)


# What a backup expects, before there is a manifest.
ANYTHING = Expected(2**63, 2**63, 2**63)


class _Bounded:
    """A stream that ends in an error when more than `remaining` is read: headers are in memory."""

    def __init__(self, source: IO[bytes]) -> None:
        self.source = source
        self.remaining = SLACK

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        piece = self.source.read(size if size >= 0 else SLACK)
        self.remaining -= len(piece)
        if self.remaining < 0:
            raise BackupError("it holds more than its entries tell")
        return piece

    def read_to_end(self) -> None:
        """Read what is behind the last entry, which is SLACK bytes at most."""
        self.remaining = SLACK
        while self.read(SLACK):
            pass


class _LeftOutError(Exception):
    """A member that is not written; the argument is what it is."""


class Judge:
    """Decide what becomes of each member of one archive."""

    def __init__(self, expected: Expected) -> None:
        self.expected = expected
        self.files = self.size = self.entries = 0
        self.links: set[str] = set()
        self.absent: set[str] = set()
        self.left_out: Counter[str] = Counter()

    def member(self, found: tarfile.TarInfo) -> tarfile.TarInfo | None:
        """Return what is written in the place of a member; None for nothing.

        Raises:
            BackupError: no application can have made this.
        """
        self.count(found)
        try:
            return self.safe(found)
        except _LeftOutError as error:
            self.left_out[str(error)] += 1
            return None

    def safe(self, found: tarfile.TarInfo) -> tarfile.TarInfo:
        """Return a member without what is dangerous.

        Raises:
            BackupError: no application can have made this.
            _LeftOutError: it has no business among uploaded files.
        """
        name = self.path(found.name)
        if name == "." and not found.isdir():
            raise BackupError(f"the name {found.name[:100]!a} is none of a file")
        safe = tarfile.TarInfo(name)
        safe.mtime = int(min(max(found.mtime, 0), LATEST))
        safe.mode = found.mode & PERMISSIONS
        self.left_out[BITS] += bool(found.mode & 0o7000) and not found.issym()
        if found.isfile():
            safe.size = found.size
        elif found.isdir():
            safe.type = tarfile.DIRTYPE
        elif found.issym():
            safe.type, safe.linkname = tarfile.SYMTYPE, self.symbolic(name, found.linkname)
        elif found.islnk():
            safe.type, safe.linkname = tarfile.LNKTYPE, self.hard(name, found.linkname)
        else:
            self.absent.add(name)
            raise _LeftOutError(special(found))
        return safe

    def symbolic(self, name: str, target: str) -> str:
        """Return the target of a symbolic link that stays inside."""
        # Also one that is left out: nothing may be written through its name.
        self.links.add(name)
        if not leads_inside(name, target):
            raise _LeftOutError(LINK_OUT)
        return target

    def hard(self, name: str, linkname: str) -> str:
        """Return the target of a hard link to a file that is written."""
        target = self.path(linkname)
        if target in self.links:
            # Elsewhere the same target leads somewhere else.
            self.links.add(name)
            raise _LeftOutError(LINK_TO_LINK)
        if target in self.absent:
            self.absent.add(name)
            raise _LeftOutError(LINK_TO_LEFT_OUT)
        return target

    def count(self, found: tarfile.TarInfo) -> None:
        """Raise when there is more than the manifest tells."""
        self.entries += 1
        if found.isfile() or found.islnk():
            self.files += 1
            self.size += found.size
        if found.size < 0 or found.issparse():
            raise BackupError(f"{found.name[:100]!a} is not as large as it says")
        for what, so_far, limit in (
            ("files", self.files, self.expected.files),
            ("bytes", self.size, self.expected.size),
            ("entries", self.entries, self.expected.entries),
        ):
            if so_far > limit:
                raise BackupError(f"it holds more than the {limit} {what} that the manifest tells")

    def path(self, text: str) -> str:
        """Return a name as it is below the folder, without `./`.

        Raises:
            BackupError: it leads somewhere else, or nowhere.
            _LeftOutError: no program could open it by this name.
        """
        pieces = [piece for piece in text.split("/") if piece not in ("", ".")]
        quoted = f"{text[:100]!a}"
        if text.startswith("/") or ".." in pieces:
            raise BackupError(f"the name {quoted} leads out of the folder")
        raw = [piece.encode("utf-8", "surrogateescape") for piece in pieces]
        if any(len(each) > LONGEST_NAME for each in raw):
            raise BackupError(f"the name {quoted}… is too long")
        if pieces[:1] == [DRAFT]:
            raise BackupError(f"the name {quoted} is one that a restore uses itself")
        for depth in range(1, len(pieces)):
            if "/".join(pieces[:depth]) in self.links:
                raise BackupError(f"the name {quoted} leads through a link")
        if len(b"/".join(raw)) > LONGEST_PATH:
            raise _LeftOutError(TOO_LONG)
        return "/".join(pieces) or "."

    def end(self) -> None:
        """Raise when there is less than the manifest tells."""
        actual, expected = (self.files, self.size), (self.expected.files, self.expected.size)
        if actual != expected:
            raise BackupError(
                f"it holds {actual[0]} files with {actual[1]} bytes, and the manifest tells"
                f" {expected[0]} with {expected[1]}"
            )


def special(found: tarfile.TarInfo) -> str:
    """Return what a member is that is neither a file, a folder nor a link.

    Raises:
        BackupError: no process without capabilities can make it.
    """
    if found.isfifo():
        return PIPE
    if found.ischr() and not found.devmajor and not found.devminor:
        return WHITEOUT
    raise BackupError(f"it holds {found.name[:100]!a}, a device or something unknown")


def leads_inside(name: str, target: str) -> bool:
    """Return whether a symbolic link stays in its folder whatever other links there are.

    Behind a name no `..` may come: the name may be a link itself, and `..` then leads elsewhere.
    """
    pieces = [piece for piece in target.split("/") if piece not in ("", ".")]
    ups = 0
    while ups < len(pieces) and pieces[ups] == "..":
        ups += 1
    inside = not target.startswith("/") and ".." not in pieces[ups:]
    return inside and bool(target) and ups <= name.count("/") and pieces[ups:][:1] != [DRAFT]


def count_members(stream: IO[bytes]) -> Judge:
    """Read a tar that is being made; return its numbers, and what a restore will leave out.

    Raises:
        BackupError: a restore would refuse it.
        tarfile.TarError: it is no tar.
    """
    judge = Judge(ANYTHING)
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for found in archive:
            archive.members = []  # type: ignore[attr-defined]  # else each stays in memory
            if len(found.name.encode("utf-8", "surrogateescape")) > LONGEST_NAMES:
                raise BackupError(
                    f"a path below {found.name[:100]!a} has more than {LONGEST_NAMES} bytes, which"
                    " no restore could make: remove that folder from the volume"
                )
            judge.member(found)
    return judge


def _copy_member(
    archive: tarfile.TarFile, found: tarfile.TarInfo, copy: tarfile.TarFile, judge: Judge
) -> None:
    safe = judge.member(found)
    if safe is not None:
        copy.addfile(safe, archive.extractfile(found) if safe.isfile() else None)
    # Otherwise every member stays in memory until the end. The types of tarfile lack this list.
    archive.members = []  # type: ignore[attr-defined]
    copy.members = []  # type: ignore[attr-defined]


def copy_safely(
    source: IO[bytes], target: IO[bytes], expected: Expected, last: str = ""
) -> dict[str, int]:
    """Copy a tar, without what has no business in it.

    Args:
        source: the archive.
        target: where the other one goes. It has no end when this raises.
        expected: what it has to hold.
        last: name of an empty file that is written behind everything else: whoever finds it
            unpacked knows that nothing is missing.

    Returns:
        How many entries were left out or changed, by what they are.

    Raises:
        BackupError: the archive is damaged, or nothing that a backup has made.
    """
    stream, judge = _Bounded(source), Judge(expected)
    try:
        with (
            tarfile.open(fileobj=stream, mode="r|") as archive,  # type: ignore[call-overload]
            tarfile.open(fileobj=target, mode="w|", format=tarfile.GNU_FORMAT) as copy,
        ):
            for found in archive:
                stream.remaining = max(0, found.size) + SLACK
                _copy_member(archive, found, copy, judge)
            judge.end()
            stream.read_to_end()
            if last:
                copy.addfile(tarfile.TarInfo(last))
    except (
        *(tarfile.TarError, EOFError, ValueError, OverflowError),
        *(zlib.error, gzip.BadGzipFile),
    ) as error:
        raise BackupError(f"it cannot be read: {error}") from error
    except BackupError as error:
        raise BackupError(f"{error}. No backup of this project makes such an archive") from error
    return {what: count for what, count in sorted(judge.left_out.items()) if count}
