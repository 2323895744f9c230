"""The tree of a release's static files while it is built out of an image.

It is built beside the others (``live/static/.draft``) and takes its place in one step.
"""

from __future__ import annotations

import filecmp
import os
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from ..files import make_folder
from ..text import printable
from .static_files import DRAFT, StaticFiles, path_in

# Name of the tree whose place another one takes; no release has it.
BROKEN = ".broken"


class StaticDraft:
    """The files of one release on their way out of its image.

    Args:
        files: of the release; what other releases have is taken from there.
    """

    def __init__(self, files: StaticFiles) -> None:
        self.files = files
        self.folder = files.folder / DRAFT
        # Links and other members that are no files, by their paths in the image.
        self.skipped: list[str] = []
        # Path -> size.
        self.sizes: dict[str, int] = {}

    def begin(self) -> None:
        """Begin to build the tree, with nothing that an earlier attempt has left.

        Raises:
            OSError: the folder cannot be written.
        """
        self.discard()
        make_folder(self.folder)
        self.sizes = {}
        # It knows files by name, size and time: an earlier draft may have had the same.
        filecmp.clear_cache()

    def discard(self) -> None:
        """Remove what was built and not published."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def extract(self, stream: IO[bytes], folder: str) -> Iterator[str]:
        """Put the files of an archive below `folder` into the draft; yield each path in the image.

        The archive is one of ``docker cp <container>:<folder> -``: its names begin with the last
        part of `folder`. Links that lead elsewhere are skipped: they lead to nothing in a tree.

        Raises:
            OSError: a file cannot be written, or the archive breaks off.
            tarfile.TarError: it is no archive.
        """
        trees = [*(tree for tree, own in self.files.others() if own), self.files.tree]
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                path = _path_in_image(member.name, folder)
                if member.isfile():
                    self._put(path, cast(IO[bytes], archive.extractfile(member)), trees)
                elif member.islnk():  # to a file that came before
                    first = path_in(self.folder, _path_in_image(member.linkname, folder))
                    with first.open("rb") as source:
                        self._put(path, source, trees)
                else:
                    if not member.isdir():
                        self.skipped.append(printable(path))
                    continue
                yield path

    def _put(self, path: str, source: IO[bytes], trees: Collection[Path]) -> None:
        """Write one file of the draft, or give the equal one of another release one more name.

        nginx makes the ETag of size and time, in whole seconds: equal files have one time and
        different ones have two, whatever the image says. Images that are built to be reproducible
        give all their files the same time.
        """
        target = path_in(self.folder, path)
        make_folder(target.parent)
        # A new file, never the old one written over: that may be another release's, too.
        target.unlink(missing_ok=True)
        with target.open("xb") as stream:
            shutil.copyfileobj(source, stream)
        status = target.stat()
        self.sizes[path] = status.st_size
        taken = []
        for other in (path_in(tree, path) for tree in trees):
            if not other.is_file():
                continue
            if filecmp.cmp(target, other, shallow=False):
                target.unlink()
                os.link(other, target)
                return
            taken.append(int(other.stat().st_mtime))
        target.chmod(0o644)
        if taken and max(taken) >= int(status.st_mtime):
            os.utime(target, (max(taken) + 1, max(taken) + 1))

    def misplaced(self, locations: Collection[Mapping[str, Any]]) -> str:
        """Return what is wrong with an alias that is in the draft; empty when nothing is.

        Args:
            locations: of the model's ``proxy``; those with a ``source`` come out of the image, and
                the ``match`` of one file begins with ``=``.
        """
        for location in locations:
            alias, match = location.get("source"), str(location.get("match"))
            if not alias:
                continue
            is_file, path = path_in(self.folder, alias).is_file(), match.removeprefix("= ")
            if match.startswith("= ") and not is_file:
                return (
                    f"The location {path} of stack_app.locations is one file (exact: true), but its"
                    f" alias {alias} is a folder of the image: name the file, or remove exact and"
                    " end the path with '/'."
                )
            if is_file and not match.startswith("= "):
                return (
                    f"The location {path} of stack_app.locations is a folder, but its alias {alias}"
                    " is a file of the image: name its folder, or set exact: true and a path"
                    " without '/' at its end."
                )
        return ""

    def publish(self, folders: Collection[str]) -> None:
        """Make the draft, with the files of other releases, the tree of the release.

        Nothing of it counts before its last step.

        Raises:
            OSError: the folder cannot be written.
        """
        self.files.add_others(self.folder, self.sizes)
        broken = self.files.folder / BROKEN
        shutil.rmtree(broken, ignore_errors=True)
        if self.files.tree.exists():
            self.files.tree.rename(broken)
        self.files.write_index({"folders": sorted(folders), "own": self.sizes})
        self.folder.rename(self.files.tree)
        shutil.rmtree(broken, ignore_errors=True)


def _path_in_image(name: str, folder: str) -> str:
    """Return where a member of an archive lies in the image.

    Raises:
        OSError: its name leads out of the folder.
    """
    parts = PurePosixPath(name).parts[1:]
    if ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise OSError(f"{name!r} in the archive leads out of {folder}")
    return str(PurePosixPath(folder, *parts))
