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

import json
import os
import shutil
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from ..files import make_folder
from .upstream import Upstreams

# Name of a tree that is being built (proxy.static_draft); no release has it.
DRAFT = ".draft"
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
        self.tree = self.folder / release

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
        return all(_size(path_in(tree, path)) == size for path, size in own.items())

    def _own(self, release: str) -> Mapping[str, int]:
        index = _read(self._index(release))
        return index["own"] if self._counts(release, index) else {}

    def others(self) -> Iterator[tuple[Path, Mapping[str, int]]]:
        """Yield trees and own files of the other kept releases, newest first."""
        for release in self._releases():
            if release != self.release:
                yield self.folder / release, self._own(release)

    def _additions(self, own: Collection[str]) -> dict[str, Path]:
        """Return path -> file of another release, for all that a tree has besides its own."""
        others = list(self.others())
        chosen = additions(own, [paths for _, paths in others])
        return {path: path_in(others[number][0], path) for path, number in chosen.items()}

    def supplement(self) -> None:
        """Add the files of other kept releases to the tree, and remove those of releases gone.

        Raises:
            OSError: the folder cannot be written.
        """
        self.add_others(self.tree, self.own)

    def add_others(self, tree: Path, own: Collection[str]) -> None:
        """Give a tree with these own files those of other releases, and no others.

        Raises:
            OSError: the folder cannot be written.
        """
        wanted = self._additions(own)
        for place, _, names in os.walk(tree, topdown=False):
            for name in names:
                path = "/" + str((Path(place) / name).relative_to(tree))
                if path not in own and path not in wanted:
                    path_in(tree, path).unlink()
            if Path(place) != tree and not os.listdir(place):
                os.rmdir(place)
        for path, source in wanted.items():
            if _is_same(tree, path, source):
                continue
            target = path_in(tree, path)
            make_folder(target.parent)
            beside = self.folder / f"{DRAFT}.link"
            beside.unlink(missing_ok=True)
            os.link(source, beside)
            beside.replace(target)

    def write_index(self, index: Mapping[str, Any]) -> None:
        """Write down which files are the release's own.

        Raises:
            OSError: the folder cannot be written.
        """
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


def path_in(tree: Path, path: str) -> Path:
    """Return where a tree has a path of the image."""
    return tree / path.lstrip("/")


def _is_same(tree: Path, path: str, source: Path) -> bool:
    """Return whether a path of a tree is a name of this very file."""
    try:
        return os.path.samestat(path_in(tree, path).lstat(), source.lstat())
    except OSError:
        return False


def _size(path: Path) -> int:
    """Return the size of a file; -1 when it is none."""
    try:
        return path.stat().st_size if path.is_file() else -1
    except OSError:
        return -1


def _read(path: Path) -> Mapping[str, Any]:
    """Return what an index holds; nothing of one that is not there or cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
