"""Static files of the application's images, as nginx serves them from one folder of the server.

Files of all kept releases lie in one tree, which mirrors the paths in the image. A page that was
loaded before a deploy still finds its files with hashed names; of a name that both releases have,
the last one that was put there counts.
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

from ansible.module_utils.crisper_files import make_folder

# Beside the folders of files: no location leads there.
DRAFT = ".draft"
INDEX = "static.json"


class StaticFiles:
    """The files of a stack's releases.

    Args:
        root: folder of the stack; files lie in ``<root>/live/static``, what is known of them in
            ``<root>/live/static.json``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / "live" / "static"
        self.index = root / "live" / INDEX
        known = _read(self.index)
        # Whose files were put there last, and the paths of each release.
        self.serving = str(known.get("serving", ""))
        self.releases: dict[str, list[str]] = known.get("releases", {})
        self.skipped: list[str] = []

    def complete(self, release: str, folders: Collection[str]) -> bool:
        """Return whether all files of a release are there, and no later ones took their place."""
        paths = self.releases.get(release, [])
        covered = all(any(_inside(path, one) for path in paths) for one in folders)
        there = all((self.folder / path.lstrip("/")).is_file() for path in paths)
        return self.serving == release and bool(paths) and covered and there

    def extract(self, stream: IO[bytes], folder: str) -> Iterator[tuple[str, bool]]:
        """Put the files of an archive below `folder`; yield each path and whether it changed.

        The archive is one of ``docker cp <container>:<folder> -``: its names begin with the last
        part of `folder`. Links that lead elsewhere are skipped: nginx follows none.

        Raises:
            OSError: a file cannot be written, or the archive breaks off.
            tarfile.TarError: it is no archive.
        """
        with tarfile.open(fileobj=stream, mode="r|") as archive:
            for member in archive:
                path = _path_in_image(member.name, folder)
                if member.isfile():
                    source = cast(IO[bytes], archive.extractfile(member))
                    yield path, self._put(path, source)
                elif member.islnk():  # to a file that came before
                    with self._target(_path_in_image(member.linkname, folder)).open("rb") as first:
                        yield path, self._put(path, first)
                elif not member.isdir():
                    self.skipped.append(path)

    def _target(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def _put(self, path: str, source: IO[bytes]) -> bool:
        """Write one file in one act; return whether it is another one than before.

        Its time is that of the copy: nginx makes the ETag of time and size, and images built to be
        reproducible give all their files one time.
        """
        target, draft = self._target(path), self.folder / DRAFT
        make_folder(self.folder)
        with draft.open("wb") as stream:
            shutil.copyfileobj(source, stream)
        if target.is_file() and filecmp.cmp(draft, target, shallow=False):
            draft.unlink()
            return False
        draft.chmod(0o644)
        # What was a file in another release may be a folder in this one, and the other way round.
        for parent in target.parents:
            if parent == self.folder:
                break
            if parent.is_file():
                parent.unlink()
        if target.is_dir():
            shutil.rmtree(target)
        make_folder(target.parent)
        draft.replace(target)
        return True

    def keep(self, release: str, paths: Collection[str]) -> list[str]:
        """Note the paths of a release as those that count; remove those of no kept release.

        Returns:
            The paths that were removed.
        """
        kept = {
            name: listed
            for name, listed in self.releases.items()
            if (self.root / "releases" / name).is_dir()
        }
        self.releases = kept | {release: sorted(paths)}
        self.serving = release
        make_folder(self.folder)
        self._write()
        wanted = {path for listed in self.releases.values() for path in listed}
        removed = []
        for place, _, names in os.walk(self.folder, topdown=False):
            for name in names:
                path = "/" + str((Path(place) / name).relative_to(self.folder))
                if path not in wanted:
                    self._target(path).unlink()
                    removed.append(path)
            if Path(place) != self.folder and not os.listdir(place):
                os.rmdir(place)
        return sorted(removed)

    def _write(self) -> None:
        draft = self.index.with_name(f".{INDEX}")
        text = json.dumps({"serving": self.serving, "releases": self.releases}, sort_keys=True)
        draft.write_text(text + "\n")
        draft.chmod(0o644)
        draft.replace(self.index)


def _path_in_image(name: str, folder: str) -> str:
    """Return where a member of an archive lies in the image.

    Raises:
        OSError: its name leads out of the folder.
    """
    parts = PurePosixPath(name).parts[1:]
    if ".." in PurePosixPath(name).parts or name.startswith("/"):
        raise OSError(f"{name!r} in the archive leads out of {folder}")
    return str(PurePosixPath(folder, *parts))


def _inside(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def _read(path: Path) -> Mapping[str, Any]:
    """Return what an index holds; nothing of one that is not there or cannot be read."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, Mapping) else {}
