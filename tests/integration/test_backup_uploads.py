"""Uploaded files through tar and back; the scripts that run in a container run on this machine."""

from __future__ import annotations

import io
import os
import shutil
import sys
from pathlib import Path

import pytest
from ansible.module_utils.crisper_backup import BackupError
from ansible.module_utils.crisper_backup_data import Docker, Uploads
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
        os.chown(there / "deep", 10001, 10001)
        there.chmod(0o770)
        (there / "link").symlink_to("deep/er")
        archive = io.BytesIO()
        told = uploads(docker, there).dump(archive)
        assert told == {"uploads": {"files": len(files), "bytes": sum(map(len, files.values()))}}
        archive.seek(0)
        uploads(docker, back).restore(archive)
        assert seen(back) == seen(there)
        assert uploads(docker, back).dump(io.BytesIO()) == told
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.mark.parametrize("kept", [0, 100, 5000, 20_000])
def test_an_archive_that_breaks_off_changes_nothing(
    docker: Docker, tmp_path: Path, kept: int
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    there.mkdir()
    back.mkdir()
    (there / "new").write_bytes(os.urandom(40_000))
    (back / "old").write_text("stays")
    archive = io.BytesIO()
    uploads(docker, there).dump(archive)
    with pytest.raises(BackupError, match="The uploaded files were not restored"):
        uploads(docker, back).restore(io.BytesIO(archive.getvalue()[:kept]))
    assert (back / "old").read_text() == "stays"


def test_what_an_earlier_restore_left_is_not_in_a_set(docker: Docker, tmp_path: Path) -> None:
    (tmp_path / ".restored").mkdir()
    (tmp_path / ".restored/half").write_text("x")
    assert uploads(docker, tmp_path).dump(io.BytesIO())["uploads"]["files"] == 0


def test_a_volume_that_cannot_be_read_is_told(docker: Docker, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match=r"The uploaded files were not read.*No such file"):
        uploads(docker, tmp_path / "none").dump(io.BytesIO())
