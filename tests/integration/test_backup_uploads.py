"""Uploaded files through tar and back; the scripts that run in a container run on this machine."""

from __future__ import annotations

import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.backup.archive import (
    BITS,
    LINK_OUT,
    PIPE,
    TOO_LONG,
    WHITEOUT,
    Expected,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.backends.uploads import (
    RESTORE_UPLOADS,
    Uploads,
)
from ansible_collections.crisper.stack.plugins.module_utils.backup.manifest import BackupError
from ansible_collections.crisper.stack.plugins.module_utils.docker.exec import Docker, started
from hypothesis import given, settings
from hypothesis import strategies as st

# `docker run … --volume <folder>:/data:<access> … <image> <seconds> bash … -c <script>`
CLIENT = f"""#!{sys.executable}
import os, sys
folder = next(a for a in sys.argv if ":/data:" in a).split(":")[0]
at = sys.argv.index("bash")
script = sys.argv[-1].replace("/data", folder)
os.execvp("bash", [*sys.argv[at:-1], script])
"""
SCRIPT = RESTORE_UPLOADS.replace("{owner}", "").replace("{last}", ".whole")
NAMES = st.text(
    st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=40
).filter(lambda name: name not in (".", "..", ".restored"))
FILES = st.dictionaries(NAMES, st.binary(max_size=3000), max_size=6)


@pytest.fixture(scope="module")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Docker:
    """A client that runs the scripts here."""
    client = tmp_path_factory.mktemp("client") / "docker"
    client.write_text(CLIENT)
    client.chmod(0o755)
    return Docker(str(client), timeout=60)


def uploads(docker: Docker, folder: Path) -> Uploads:
    """The files in a folder."""
    return Uploads(docker, "image", str(folder))


def seen(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Name to mode, owner and content of everything below a folder, and of itself."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        is_file = path.is_file() and not path.is_symlink()
        content = path.read_bytes() if is_file else b""
        target = os.readlink(path).encode() if path.is_symlink() else content
        found[str(path.relative_to(folder))] = (status.st_mode, status.st_uid, target)
    return found


@settings(max_examples=15, deadline=None)
@given(files=FILES, before=FILES)
def test_what_comes_back_is_what_there_was(
    docker: Docker, files: dict[str, bytes], before: dict[str, bytes]
) -> None:
    root = Path(os.environ.get("TMPDIR", "/tmp")) / f"crisper-uploads-{os.getpid()}"
    there, back = root / "there", root / "back"
    try:
        for folder, content in ((there, files), (back, before)):
            (folder / "deep/er").mkdir(parents=True)
            for name, text in content.items():
                # Names that differ only in what the file system folds are one file.
                (folder / "deep" / name).write_bytes(text)
        (there / "deep/er").chmod(0o751)
        there.chmod(0o770)
        for folder in (there, back):
            for path in (folder, *folder.rglob("*")):
                os.chown(path, 10001, 10001)
        (there / "link").symlink_to("deep/er")
        os.lchown(there / "link", 10001, 10001)
        archive = io.BytesIO()
        told = uploads(docker, there).dump(archive)
        counted = {"files": len(files), "bytes": sum(map(len, files.values()))}
        assert told == {"uploads": counted, "entries": len(files) + 4}
        archive.seek(0)
        assert uploads(docker, back).restore(archive, Expected.of(told)) == {}
        assert seen(back) == seen(there)
        assert uploads(docker, back).dump(io.BytesIO()) == told
    finally:
        shutil.rmtree(root, ignore_errors=True)


# 512: between two members, where GNU tar misses nothing.
@pytest.mark.parametrize("kept", [0, 100, 512, 5000, 20_000])
def test_an_archive_that_breaks_off_changes_nothing(
    docker: Docker, tmp_path: Path, kept: int
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.mkdir()
    back.mkdir()
    (there / "new").write_bytes(os.urandom(40_000))
    (back / "old").write_text("stays")
    archive = io.BytesIO()
    told = uploads(docker, there).dump(archive)
    half = archive.getvalue()[:kept]
    with pytest.raises(BackupError, match="The uploaded files were not restored"):
        uploads(docker, back).restore(io.BytesIO(half), Expected.of(told))
    assert [path.name for path in back.iterdir()] == ["old"]
    # Nor when the module is killed that feeds it: then nobody but the script can see it.
    with started(uploads(docker, back)._command(SCRIPT, "rw"), stdin=subprocess.PIPE) as running:
        running.stdin.write(half)
        running.stdin.close()
    assert running.returncode != 0
    assert [path.name for path in back.iterdir()] == ["old"]


def test_what_an_archive_brings_is_the_volumes_and_harmless(docker: Docker, tmp_path: Path) -> None:
    """Regression: root unpacked set-user-ID programs, devices and whatever owners there were."""
    os.chown(tmp_path, 10001, 10002)
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as writer:
        for name, kind, mode, link in (
            (".", tarfile.DIRTYPE, 0o2755, ""),
            ("shell", tarfile.REGTYPE, 0o6755, ""),
            ("pipe", tarfile.FIFOTYPE, 0o666, ""),
            ("key", tarfile.SYMTYPE, 0o777, "/opt/crisper/secrets.json"),
            ("fine", tarfile.SYMTYPE, 0o777, "shell"),
        ):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.linkname, info.uid, info.gid = kind, mode, link, 0, 42
            writer.addfile(info)
    for owner, expected in (("", (10001, 10002)), ("10001", (10001, 10002)), ("7:8", (7, 8))):
        archive.seek(0)
        left_out = uploads(docker, tmp_path).restore(archive, Expected(1, 0, 5), owner)
        assert left_out == {BITS: 2, LINK_OUT: 1, PIPE: 1}
        assert sorted(path.name for path in tmp_path.iterdir()) == ["fine", "shell"]
        for path in (tmp_path, *tmp_path.iterdir()):
            assert (path.lstat().st_uid, path.lstat().st_gid) == expected
        assert stat.S_IMODE((tmp_path / "shell").stat().st_mode) == 0o755
        os.chown(tmp_path, 10001, 10002)
    archive.seek(0)
    with pytest.raises(BackupError, match="is no owner of files"):
        uploads(docker, tmp_path).restore(archive, Expected(1, 0), "1; rm -rf /")


def test_a_full_disk_changes_nothing_and_leaves_nothing(
    docker: Docker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: what was unpacked by then stayed, and the disk stayed full."""
    there, back, tools = tmp_path / "there", tmp_path / "back", tmp_path / "tools"
    for folder in (there, back, tools):
        folder.mkdir()
    (there / "new").write_bytes(os.urandom(200_000))
    (back / "old").write_text("stays")
    archive = io.BytesIO()
    told = uploads(docker, there).dump(archive)
    archive.seek(0)
    # A limit on the size of a file stands for the disk.
    (tools / "tar").write_text('#!/bin/bash\nulimit -f 100\nexec /usr/bin/tar "$@"\n')
    (tools / "tar").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    with pytest.raises(BackupError, match="The uploaded files were not restored"):
        uploads(docker, back).restore(archive, Expected.of(told))
    assert [path.name for path in back.iterdir()] == ["old"]


def test_what_an_earlier_restore_left_is_not_in_a_set(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / ".restored").mkdir()
    (tmp_path / ".restored/half").write_text("x")
    assert uploads(docker, tmp_path).dump(io.BytesIO())["uploads"]["files"] == 0


def test_a_volume_that_cannot_be_read_is_told(docker: Docker, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"(?s)The uploaded files were not read.*No such file"):
        uploads(docker, tmp_path / "none").dump(io.BytesIO())


def dig(folder: Path, levels: int) -> None:
    """Make folders within folders, and a file in the innermost, as any process may."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("a" * 200, dir_fd=here)
        inner = os.open("a" * 200, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(os.open("f", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)


def test_what_needs_no_capability_leaves_a_backup_that_can_be_restored(
    docker: Docker, tmp_path: Path
) -> None:
    """Regression: a whiteout, or a path too long to open, made each restore of a set impossible."""
    (tmp_path / "files").mkdir()
    (tmp_path / "back").mkdir()
    (tmp_path / "files/photo.jpg").write_text("x")
    os.mknod(tmp_path / "files/whiteout", 0o600 | stat.S_IFCHR, os.makedev(0, 0))
    os.mkfifo(tmp_path / "files/pipe")
    os.link(tmp_path / "files/pipe", tmp_path / "files/same")
    dig(tmp_path / "files", 25)
    archive = io.BytesIO()
    part = uploads(docker, tmp_path / "files").dump(archive)
    archive.seek(0)
    left_out = uploads(docker, tmp_path / "back").restore(archive, Expected.of(part))
    assert (tmp_path / "back/photo.jpg").read_text() == "x"
    assert left_out == {PIPE: 2, WHITEOUT: 1, TOO_LONG: 6}  # GNU tar links no pipes
    assert not list((tmp_path / "back").glob("[sw]*"))
    shutil.rmtree(tmp_path / "files", ignore_errors=True)


def test_a_backup_that_no_restore_would_take_is_refused_when_it_is_made(
    docker: Docker, tmp_path: Path
) -> None:
    dig(tmp_path, 170)
    with pytest.raises(BackupError, match=r"not read: a path below './aaa.*remove that folder"):
        uploads(docker, tmp_path).dump(io.BytesIO())
    subprocess.run(["rm", "-rf", str(tmp_path / ("a" * 200))], check=True)
