"""Folders and files get explicit modes: under a umask of 077, as hardened servers have it."""

from __future__ import annotations

import os
import stat
import subprocess

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.files import make_folder
from ansible_collections.crisper.stack.plugins.module_utils.images.context import (
    scan,
    write_archive,
)


@pytest.fixture(autouse=True, params=[0o077, 0o022, 0o000])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_a_folder_and_its_parents_get_the_mode(tmp_path):
    make_folder(tmp_path / "a/b/c", 0o700)
    modes = [mode(tmp_path / part) for part in ("a", "a/b", "a/b/c")]
    assert modes == [0o755, 0o755, 0o700]


def test_an_inherited_group_stays(tmp_path):
    (tmp_path / "group").mkdir()
    (tmp_path / "group").chmod(0o2775)
    make_folder(tmp_path / "group/new", 0o755)
    assert mode(tmp_path / "group/new") == 0o2755


def test_folders_that_are_there_keep_their_mode(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own").chmod(0o711)
    make_folder(tmp_path / "own/new", 0o750)
    make_folder(tmp_path / "own", 0o700)
    assert mode(tmp_path / "own") == 0o711
    assert mode(tmp_path / "own/new") == 0o750


def test_a_file_in_its_place_is_an_error(tmp_path):
    (tmp_path / "a").touch()
    with pytest.raises(OSError, match=r"a"):
        make_folder(tmp_path / "a", 0o755)


def test_a_build_context_that_tar_unpacks_has_folders_for_everybody(tmp_path):
    source, target, archive = (tmp_path / name for name in ("source", "target", "context.tar.gz"))
    make_folder(source / "app/api", 0o700)
    make_folder(target)
    for path in ("Dockerfile", "app/main.py", "app/api/__init__.py"):
        (source / path).touch(0o600)
    with archive.open("wb") as stream:
        write_archive(source, scan(source), stream)
    subprocess.run(["tar", "-xpzf", str(archive)], cwd=target, check=True)
    assert [mode(target / name) for name in ("app", "app/api")] == [0o755, 0o755]
    assert mode(target / "app/api/__init__.py") == 0o644
