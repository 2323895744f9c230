"""Static files of images: copied whole, kept for the releases before, removed with them."""

from __future__ import annotations

import io
import os
import stat
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import static_files
from ansible.module_utils.crisper_static import StaticFiles
from hypothesis import given, settings
from hypothesis import strategies as st

FOLDER = "/app/staticfiles"
# `docker create`, `cp <container>:<folder> -` and `rm` on folders of this machine.
CLIENT = f"""#!{sys.executable}
import os, sys
here = os.path.dirname(os.path.abspath(__file__))
word = sys.argv[1]
with open(here + "/calls", "a") as calls:
    calls.write(word + "\\n")
if word == "create":
    if not os.path.isdir(here + "/" + sys.argv[-2]):
        sys.exit("No such image: " + sys.argv[-2])
    print(sys.argv[-2])
elif word == "cp":
    image, _, path = sys.argv[-2].partition(":")
    path = here + "/" + image + path
    if not os.path.exists(path):
        sys.exit("Could not find the file " + path)
    os.execvp("tar", ["tar", "-C", os.path.dirname(path), "-cf", "-", os.path.basename(path)])
"""


def archive(members: dict[str, Any]) -> io.BytesIO:
    """Return a tar archive: name -> content, or a prepared member."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in members.items():
            if isinstance(content, bytes):
                member = tarfile.TarInfo(name)
                member.size, member.mtime, member.mode = len(content), 1000, 0o600
                tar.addfile(member, io.BytesIO(content))
            else:
                member = tarfile.TarInfo(name)
                member.type, member.linkname = content
                tar.addfile(member)
    stream.seek(0)
    return stream


def put(root: Path, release: str, members: dict[str, Any]) -> list[str]:
    """Extract and keep the files of a release; return what was removed."""
    (root / "releases" / release).mkdir(parents=True, exist_ok=True)
    files = StaticFiles(root)
    paths = {path for path, _ in files.extract(archive(members), FOLDER)}
    return files.keep(release, paths)


def served(root: Path) -> dict[str, bytes]:
    """Return what nginx could serve."""
    folder = root / "live/static"
    return {
        "/" + str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_files_of_kept_releases_stay_and_those_of_others_go(tmp_path):
    put(tmp_path, "r1", {"staticfiles/a.1.js": b"1", "staticfiles/admin/base.css": b"old"})
    put(tmp_path, "r2", {"staticfiles/a.2.js": b"2", "staticfiles/admin/base.css": b"new"})
    assert served(tmp_path) == {
        f"{FOLDER}/a.1.js": b"1",
        f"{FOLDER}/a.2.js": b"2",
        f"{FOLDER}/admin/base.css": b"new",
    }
    (tmp_path / "releases/r1").rmdir()
    assert put(tmp_path, "r3", {"staticfiles/a.3.js": b"3"}) == [f"{FOLDER}/a.1.js"]
    assert set(served(tmp_path)) == {f"{FOLDER}/{one}" for one in ("a.2.js", "a.3.js")} | {
        f"{FOLDER}/admin/base.css"
    }


def test_a_release_that_is_put_back_has_its_own_files_again(tmp_path):
    put(tmp_path, "r1", {"staticfiles/base.css": b"old"})
    put(tmp_path, "r2", {"staticfiles/base.css": b"new"})
    assert not StaticFiles(tmp_path).complete("r1", [FOLDER])
    assert StaticFiles(tmp_path).complete("r2", [FOLDER])
    put(tmp_path, "r1", {"staticfiles/base.css": b"old"})
    assert served(tmp_path) == {f"{FOLDER}/base.css": b"old"}
    (tmp_path / f"live/static{FOLDER}/base.css").unlink()
    assert not StaticFiles(tmp_path).complete("r1", [FOLDER])


def test_another_content_has_another_time_whatever_the_image_says(tmp_path):
    """nginx makes the ETag of time and size: with the image's times a browser kept the old file."""
    put(tmp_path, "r1", {"staticfiles/base.css": b"old"})
    path = tmp_path / f"live/static{FOLDER}/base.css"
    first = path.stat().st_mtime_ns
    put(tmp_path, "r2", {"staticfiles/base.css": b"old"})
    assert path.stat().st_mtime_ns == first
    put(tmp_path, "r3", {"staticfiles/base.css": b"new"})
    assert path.stat().st_mtime_ns > first


def test_files_and_folders_may_change_places(tmp_path):
    put(tmp_path, "r1", {"staticfiles/x": b"file", "staticfiles/y/z": b"in a folder"})
    put(tmp_path, "r2", {"staticfiles/x/y": b"in a folder", "staticfiles/y": b"file"})
    assert served(tmp_path) == {f"{FOLDER}/x/y": b"in a folder", f"{FOLDER}/y": b"file"}


def test_nginx_may_read_what_only_the_application_may(tmp_path):
    before = os.umask(0o077)
    try:
        put(tmp_path, "r1", {"staticfiles/a/b.js": b"x"})
    finally:
        os.umask(before)
    path = tmp_path / f"live/static{FOLDER}/a/b.js"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o755 for one in path.parents[:4])


def test_links_are_left_out_and_hard_links_are_files(tmp_path):
    files = StaticFiles(tmp_path)
    members = {
        "staticfiles/a": b"1",
        "staticfiles/hard": (tarfile.LNKTYPE, "staticfiles/a"),
        "staticfiles/soft": (tarfile.SYMTYPE, "/etc/passwd"),
    }
    found = dict(files.extract(archive(members), FOLDER))
    assert found == {f"{FOLDER}/a": True, f"{FOLDER}/hard": True}
    assert files.skipped == [f"{FOLDER}/soft"]
    assert served(tmp_path)[f"{FOLDER}/hard"] == b"1"


@pytest.mark.parametrize("name", ["staticfiles/../../../etc/x", "/etc/x", "../x"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    with pytest.raises(OSError, match="leads out of"):
        list(StaticFiles(tmp_path / "root").extract(archive({name: b"x"}), FOLDER))
    assert not list(tmp_path.rglob("x"))


NAMES = st.text("abc", min_size=1, max_size=2)
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary())


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(["r1", "r2", "r3"]), TREES), max_size=5))
def test_all_files_of_the_last_release_are_served_whatever_came_before(tmp_path_factory, steps):
    root = tmp_path_factory.mktemp("root")
    for release, tree in steps:
        # No path is a file and a folder within one release.
        tree = {
            path: content
            for path, content in tree.items()
            if not any(other.startswith(f"{path}/") for other in tree)
        }
        put(root, release, {f"staticfiles/{path}": content for path, content in tree.items()})
        wanted = {f"{FOLDER}/{path}": content for path, content in tree.items()}
        assert served(root).items() >= wanted.items()
        assert not (root / "live/static/.draft").exists()


# --- The module --------------------------------------------------------------------------------


@pytest.fixture
def client(tmp_path: Path) -> Path:
    """A stand-in for the Docker client, with images as folders beside it."""
    path = tmp_path / "client/docker"
    path.parent.mkdir()
    path.write_text(CLIENT)
    path.chmod(0o755)
    return path


def arguments(client: Path, release: str, folders: list[str]) -> dict[str, Any]:
    root = client.parents[1] / "root"
    (root / "releases" / release).mkdir(parents=True, exist_ok=True)
    return {
        "root": str(root),
        "release": release,
        "image": f"image-{release}",
        "folders": folders,
        "docker_cli": str(client),
    }


def image(client: Path, release: str, files: dict[str, str]) -> None:
    for path, content in files.items():
        place = client.parent / f"image-{release}{path}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(content)


def test_the_module_copies_once_and_again_after_a_rollback(run_module, client):
    image(client, "r1", {f"{FOLDER}/a.js": "1", "/app/robots.txt": "no"})
    image(client, "r2", {f"{FOLDER}/a.js": "2", "/app/robots.txt": "no"})
    first = arguments(client, "r1", [FOLDER, "/app/robots.txt"])
    assert run_module(static_files, check_mode=True, **first)["changed"] is True
    assert not (client.parent / "calls").exists()
    done = run_module(static_files, **first)
    assert (done["changed"], done["files"], done["removed"]) == (True, 2, [])
    assert (client.parent / "calls").read_text().split() == ["create", "cp", "cp", "rm"]
    assert run_module(static_files, **first)["changed"] is False
    assert (client.parent / "calls").read_text().split() == ["create", "cp", "cp", "rm"]
    root = Path(first["root"])
    assert run_module(static_files, **arguments(client, "r2", first["folders"]))["changed"] is True
    assert served(root)[f"{FOLDER}/a.js"] == b"2"
    assert run_module(static_files, **first)["changed"] is True
    assert served(root) == {f"{FOLDER}/a.js": b"1", "/app/robots.txt": b"no"}


def test_a_folder_that_the_image_has_not_is_named_with_a_remedy(run_module, client):
    image(client, "r1", {"/app/x": "1"})
    failed = run_module(static_files, **arguments(client, "r1", ["/app/public"]))
    assert failed["failed"] is True
    assert "/app/public cannot be copied out of image-r1: Could not find the file" in failed["msg"]
    assert "run collectstatic" in failed["msg"]
    assert (client.parent / "calls").read_text().split()[-1] == "rm"


def test_an_image_that_is_not_there_is_named(run_module, client):
    failed = run_module(static_files, **arguments(client, "r9", [FOLDER]))
    assert "No such image: image-r9" in failed["msg"]
