"""Static files of the application's images, as nginx serves them: one tree for each release.

Below the folder of the stack on the server:

    live/static/<release>/<path in image>   what nginx serves while the release does
    live/static/<release>.json              which of these files are the release's own

nginx reaches a tree through the link that decides where requests go (proxy.upstream), so that a
release begins to serve with its files. A tree also holds the files of the other kept releases that
the release has not: pages that were loaded before a deploy or a rollback find their own. Equal
files of several trees are one file with several names (hard links).
"""

from __future__ import annotations

import filecmp
import json
import os
import shutil
import tarfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

from ..files import make_folder
from .upstream import Upstreams

# Names that no release has: a tree that is being built, and one that it takes the place of.
DRAFT, BROKEN = ".draft", ".broken"
SUFFIX = ".json"


class StaticFiles:
    """The static files of one release, among those of the other releases of a stack.

    A tree counts when its index is there and names files of the tree only, each of its size.

    Args:
        root: folder of the stack; trees lie in ``<root>/live/static``.
        release: id of the release whose tree is asked for or built.
    """

    def __init__(self, root: Path, release: str) -> None:
        self.root, self.release = root, release
        self.folder = root / "live" / "static"
        self.tree, self.draft = self.folder / release, self.folder / DRAFT
        self.skipped: list[str] = []
        # Of a tree that is being built: path -> size.
        self.sizes: dict[str, int] = {}

    # --- What there is ---

    @property
    def own(self) -> Mapping[str, int]:
        """The release's own files, path -> size; empty when its tree does not count."""
        return self._own(self.release)

    def built(self, folders: Collection[str]) -> bool:
        """Return whether the release's own files of these folders are there."""
        index = _read(self._index(self.release))
        known = index.get("folders", ())
        return all(one in known for one in folders) and self._counts(self.release, index)

    def complete(self, folders: Collection[str]) -> bool:
        """Return whether the tree has its own files, and those of other kept releases."""
        return self.built(folders) and all(
            _is_same(self.tree, path, source) for path, source in self._additions(self.own).items()
        )

    def stale(self) -> list[str]:
        """Return what is in the folder of trees and belongs to no kept release, by name.

        The tree of the release that serves stays, whatever became of the release.
        """
        if not self.folder.is_dir():
            return []
        serving = Upstreams(str(self.root / "live" / "nginx"), {}).serving
        wanted = {self.release, serving, *self._releases()}
        return sorted(
            path.name
            for path in self.folder.iterdir()
            if path.name.removesuffix(SUFFIX) not in wanted
        )

    def _releases(self) -> list[str]:
        """Return the ids of the releases on the server, newest first: an id begins with a time."""
        try:
            found = [path.name for path in (self.root / "releases").iterdir() if path.is_dir()]
        except OSError:
            return []
        return sorted((name for name in found if not name.startswith(".")), reverse=True)

    def _index(self, release: str) -> Path:
        return self.folder / f"{release}{SUFFIX}"

    def _counts(self, release: str, index: Mapping[str, Any]) -> bool:
        tree, own = self.folder / release, index.get("own")
        if not isinstance(own, Mapping) or not tree.is_dir():
            return False
        return all(_size(_in(tree, path)) == size for path, size in own.items())

    def _own(self, release: str) -> Mapping[str, int]:
        index = _read(self._index(release))
        return index["own"] if self._counts(release, index) else {}

    def _others(self) -> Iterator[tuple[Path, Mapping[str, int]]]:
        """Yield trees and own files of the other kept releases, newest first."""
        for release in self._releases():
            if release != self.release:
                yield self.folder / release, self._own(release)

    def _additions(self, own: Collection[str]) -> dict[str, Path]:
        """Return path -> file of another release, for all that a tree has besides its own."""
        others = list(self._others())
        chosen = additions(own, [paths for _, paths in others])
        return {path: _in(others[number][0], path) for path, number in chosen.items()}

    # --- Building a tree ---

    def begin(self) -> None:
        """Begin to build the tree, with nothing that an earlier attempt has left.

        Raises:
            OSError: the folder cannot be written.
        """
        self.discard()
        make_folder(self.draft)
        self.sizes = {}
        # It knows files by name, size and time: an earlier draft may have had the same.
        filecmp.clear_cache()

    def discard(self) -> None:
        """Remove what was built and not published."""
        shutil.rmtree(self.draft, ignore_errors=True)

    def extract(self, stream: IO[bytes], folder: str) -> Iterator[str]:
        """Put the files of an archive below `folder` into the draft; yield each path in the image.

        The archive is one of ``docker cp <container>:<folder> -``: its names begin with the last
        part of `folder`. Links that lead elsewhere are skipped: they lead to nothing in a tree.

        Raises:
            OSError: a file cannot be written, or the archive breaks off.
            tarfile.TarError: it is no archive.
        """
        trees = [*(tree for tree, own in self._others() if own), self.tree]
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                path = _path_in_image(member.name, folder)
                if member.isfile():
                    self._put(path, cast(IO[bytes], archive.extractfile(member)), trees)
                elif member.islnk():  # to a file that came before
                    first = _in(self.draft, _path_in_image(member.linkname, folder))
                    with first.open("rb") as source:
                        self._put(path, source, trees)
                else:
                    if not member.isdir():
                        self.skipped.append(path)
                    continue
                yield path

    def _put(self, path: str, source: IO[bytes], trees: Collection[Path]) -> None:
        """Write one file of the draft, or give the equal one of another release one more name.

        nginx makes the ETag of size and time, in whole seconds: equal files have one time and
        different ones have two, whatever the image says. Images that are built to be reproducible
        give all their files the same time.
        """
        target = _in(self.draft, path)
        make_folder(target.parent)
        # A new file, never the old one written over: that may be another release's, too.
        target.unlink(missing_ok=True)
        with target.open("xb") as stream:
            shutil.copyfileobj(source, stream)
        found = target.stat()
        self.sizes[path] = found.st_size
        taken = []
        for other in (_in(tree, path) for tree in trees):
            if not other.is_file():
                continue
            if filecmp.cmp(target, other, shallow=False):
                target.unlink()
                os.link(other, target)
                return
            taken.append(int(other.stat().st_mtime))
        target.chmod(0o644)
        if taken and max(taken) >= int(found.st_mtime):
            os.utime(target, (max(taken) + 1, max(taken) + 1))

    def misplaced(self, locations: Collection[Mapping[str, Any]]) -> str:
        """Return what is wrong with an alias that is in the draft; empty when nothing is.

        Args:
            locations: of the model's ``front``; those with a ``source`` come out of the image, and
                the ``match`` of one file begins with ``=``.
        """
        for location in locations:
            alias, match = location.get("source"), str(location.get("match"))
            if not alias:
                continue
            is_file, path = _in(self.draft, alias).is_file(), match.removeprefix("= ")
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
        self._add(self.draft, self.sizes)
        broken = self.folder / BROKEN
        shutil.rmtree(broken, ignore_errors=True)
        if self.tree.exists():
            self.tree.rename(broken)
        self._write({"folders": sorted(folders), "own": self.sizes})
        self.draft.rename(self.tree)
        shutil.rmtree(broken, ignore_errors=True)

    def supplement(self) -> None:
        """Add the files of other kept releases to the tree, and remove those of releases gone.

        Raises:
            OSError: the folder cannot be written.
        """
        self._add(self.tree, self.own)

    def _add(self, tree: Path, own: Collection[str]) -> None:
        wanted = self._additions(own)
        for place, _, names in os.walk(tree, topdown=False):
            for name in names:
                path = "/" + str((Path(place) / name).relative_to(tree))
                if path not in own and path not in wanted:
                    _in(tree, path).unlink()
            if Path(place) != tree and not os.listdir(place):
                os.rmdir(place)
        for path, source in wanted.items():
            if _is_same(tree, path, source):
                continue
            target = _in(tree, path)
            make_folder(target.parent)
            beside = self.folder / f"{DRAFT}.link"
            beside.unlink(missing_ok=True)
            os.link(source, beside)
            beside.replace(target)

    def _write(self, index: Mapping[str, Any]) -> None:
        path = self._index(self.release)
        draft = self.folder / f"{DRAFT}{SUFFIX}"
        draft.write_text(json.dumps(index, sort_keys=True) + "\n")
        draft.chmod(0o644)
        draft.replace(path)

    def prune(self) -> None:
        """Remove the trees of releases that are not kept, and what a killed run has left.

        Raises:
            OSError: one cannot be removed.
        """
        # Indexes first: half a tree must not count.
        for name in sorted(self.stale(), key=lambda name: not name.endswith(SUFFIX)):
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()


def additions(own: Collection[str], others: Collection[Collection[str]]) -> dict[str, int]:
    """Return which files a tree gets besides its own: path -> number of the one it comes from.

    Of a path that several have the first counts. What is a file in one and a folder in another is
    what it was first.
    """
    found: dict[str, int] = {}
    files = set(own)
    folders = {parent for path in own for parent in _parents(path)}
    for number, paths in enumerate(others):
        for path in sorted(paths):
            parents = _parents(path)
            if path in files or path in folders or not files.isdisjoint(parents):
                continue
            found[path] = number
            files.add(path)
            folders.update(parents)
    return found


def _parents(path: str) -> list[str]:
    return [str(parent) for parent in PurePosixPath(path).parents]


def _in(tree: Path, path: str) -> Path:
    return tree / path.lstrip("/")


def _is_same(tree: Path, path: str, source: Path) -> bool:
    """Return whether a path of a tree is a name of this very file."""
    try:
        return os.path.samestat(_in(tree, path).lstat(), source.lstat())
    except OSError:
        return False


def _size(path: Path) -> int:
    """Return the size of a file; -1 when it is none."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _path_in_image(name: str, folder: str) -> str:
    """Return where a member of an archive lies in the image.

    Raises:
        OSError: its name leads out of the folder.
    """
    parts = PurePosixPath(name).parts[1:]
    if ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise OSError(f"{name!r} in the archive leads out of {folder}")
    return str(PurePosixPath(folder, *parts))


def _read(path: Path) -> Mapping[str, Any]:
    """Return what an index holds; nothing of one that is not there or cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
