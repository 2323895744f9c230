"""Static files of images: a whole tree for each release, with what others have besides."""

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
from ansible_collections.crisper.stack.plugins.module_utils.proxy.static_draft import StaticDraft
from ansible_collections.crisper.stack.plugins.module_utils.proxy.static_files import StaticFiles
from ansible_collections.crisper.stack.plugins.module_utils.proxy.upstream import Upstreams
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


def put(root: Path, release: str, members: dict[str, Any]) -> None:
    """Build the tree of a release out of an archive, unless it is there."""
    (root / "releases" / release).mkdir(parents=True, exist_ok=True)
    files = StaticFiles(root, release)
    if files.built([FOLDER]):
        files.supplement()
    else:
        draft = StaticDraft(files)
        draft.begin()
        list(draft.extract(archive(members), FOLDER))
        draft.publish([FOLDER])
    files.prune()


def switch(root: Path, release: str) -> None:
    """Have nginx send requests to a release."""
    upstreams = Upstreams(str(root / "live/nginx"), {})
    upstreams.prepare(release)
    upstreams.switch(release)


def served(root: Path, release: str) -> dict[str, bytes]:
    """Return what nginx serves while a release does."""
    folder = root / "live/static" / release
    return {
        "/" + str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def place(root: Path, release: str, name: str) -> Path:
    return root / f"live/static/{release}{FOLDER}/{name}"


def names(root: Path) -> set[str]:
    """Return what lies beside the trees."""
    return {path.name for path in (root / "live/static").iterdir()}


def etag(path: Path) -> tuple[int, int]:
    """Return what nginx makes the ETag of."""
    return int(path.stat().st_mtime), path.stat().st_size


def test_a_release_that_does_not_serve_yet_changes_nothing(tmp_path):
    """Regression: a failing release's app.css was served while the old release still ran."""
    put(tmp_path, "r1", {"staticfiles/app.css": b"old", "staticfiles/a.1.js": b"1"})
    before = served(tmp_path, "r1")
    put(tmp_path, "r2", {"staticfiles/app.css": b"new", "staticfiles/a.2.js": b"2"})
    assert served(tmp_path, "r1") == before
    assert served(tmp_path, "r2") == {
        f"{FOLDER}/app.css": b"new",
        f"{FOLDER}/a.1.js": b"1",
        f"{FOLDER}/a.2.js": b"2",
    }


def test_a_release_that_is_put_back_has_the_files_of_the_newer_one(tmp_path):
    put(tmp_path, "r1", {"staticfiles/app.css": b"old"})
    put(tmp_path, "r2", {"staticfiles/app.css": b"new", "staticfiles/a.2.js": b"2"})
    back = StaticFiles(tmp_path, "r1")
    assert back.built([FOLDER])
    assert not back.complete([FOLDER])
    put(tmp_path, "r1", {})
    assert back.complete([FOLDER])
    assert served(tmp_path, "r1") == {f"{FOLDER}/app.css": b"old", f"{FOLDER}/a.2.js": b"2"}
    assert os.path.samefile(place(tmp_path, "r1", "a.2.js"), place(tmp_path, "r2", "a.2.js"))


def test_of_files_of_other_releases_the_newest_counts(tmp_path):
    put(tmp_path, "r1", {"staticfiles/x": b"1", "staticfiles/y": b"1"})
    put(tmp_path, "r2", {"staticfiles/x": b"2"})
    put(tmp_path, "r3", {})
    assert served(tmp_path, "r3") == {f"{FOLDER}/x": b"2", f"{FOLDER}/y": b"1"}
    put(tmp_path, "r4", {"staticfiles/x": b"4"})
    put(tmp_path, "r3", {})
    assert served(tmp_path, "r3")[f"{FOLDER}/x"] == b"4"


def test_trees_go_with_their_releases_and_shared_files_stay(tmp_path):
    put(tmp_path, "r1", {"staticfiles/a.1.js": b"1", "staticfiles/base.css": b"same"})
    switch(tmp_path, "r1")
    put(tmp_path, "r2", {"staticfiles/a.2.js": b"2", "staticfiles/base.css": b"same"})
    (tmp_path / "releases/r1").rmdir()
    put(tmp_path, "r2", {})
    assert names(tmp_path) == {"r1", "r1.json", "r2", "r2.json"}, "r1 serves"
    switch(tmp_path, "r2")
    assert StaticFiles(tmp_path, "r2").stale() == ["r1", "r1.json"]
    put(tmp_path, "r2", {})
    assert names(tmp_path) == {"r2", "r2.json"}
    assert served(tmp_path, "r2") == {f"{FOLDER}/a.2.js": b"2", f"{FOLDER}/base.css": b"same"}


def test_equal_files_are_stored_once_with_their_first_time(tmp_path):
    put(tmp_path, "r1", {"staticfiles/base.css": b"old"})
    os.utime(place(tmp_path, "r1", "base.css"), (5000, 5000))
    put(tmp_path, "r2", {"staticfiles/base.css": b"old"})
    put(tmp_path, "r3", {"staticfiles/base.css": b"new"})
    first, second, third = (place(tmp_path, one, "base.css") for one in ("r1", "r2", "r3"))
    assert os.path.samefile(first, second)
    assert etag(first) == (5000, 3)
    assert etag(third) != etag(first)
    put(tmp_path, "r4", {"staticfiles/base.css": b"old"})
    assert os.path.samefile(first, place(tmp_path, "r4", "base.css"))


def test_files_that_differ_have_different_times_within_one_second_too(tmp_path):
    """nginx makes the ETag of time and size: with the image's times a browser kept the old file."""
    for number in range(1, 6):
        put(tmp_path, f"r{number}", {"staticfiles/base.css": b"%d" % number})
    times = {etag(place(tmp_path, f"r{number}", "base.css")) for number in range(1, 6)}
    assert len(times) == 5


def test_what_is_a_file_in_one_release_may_be_a_folder_in_another(tmp_path):
    put(tmp_path, "r1", {"staticfiles/x": b"file", "staticfiles/y/z": b"in a folder"})
    put(tmp_path, "r2", {"staticfiles/x/y": b"in a folder", "staticfiles/y": b"file"})
    assert served(tmp_path, "r2") == {f"{FOLDER}/x/y": b"in a folder", f"{FOLDER}/y": b"file"}
    put(tmp_path, "r3", {})
    assert served(tmp_path, "r3") == served(tmp_path, "r2")
    (tmp_path / "releases/r2").rmdir()
    put(tmp_path, "r3", {})
    assert served(tmp_path, "r3") == served(tmp_path, "r1")


@pytest.mark.parametrize("damage", ["gone", "shorter", "index", "tree"])
def test_a_tree_that_is_not_whole_is_built_again(tmp_path, damage):
    members = {"staticfiles/base.css": b"whole", "staticfiles/a.js": b"a"}
    put(tmp_path, "r1", members)
    path, folder = place(tmp_path, "r1", "base.css"), tmp_path / "live/static"
    {
        "gone": path.unlink,
        "shorter": lambda: path.write_bytes(b""),
        "index": (folder / "r1.json").unlink,
        "tree": lambda: (folder / "r1").rename(folder / ".elsewhere"),
    }[damage]()
    files = StaticFiles(tmp_path, "r1")
    assert not files.built([FOLDER])
    assert not files.own
    put(tmp_path, "r2", {})
    assert served(tmp_path, "r2") == {}, "nothing is taken from half a tree"
    put(tmp_path, "r1", members)
    assert files.complete([FOLDER])
    assert served(tmp_path, "r1") == {f"{FOLDER}/base.css": b"whole", f"{FOLDER}/a.js": b"a"}


def test_a_release_without_files_has_a_tree_too(tmp_path):
    put(tmp_path, "r1", {})
    files = StaticFiles(tmp_path, "r1")
    assert files.complete([FOLDER])
    assert not files.complete([FOLDER, "/app/other"])
    (tmp_path / "live/static/r1").rmdir()
    assert not files.built([FOLDER])


class Killed(BaseException):
    """The module ends wherever it is."""


class Acts:
    """Count acts on the file system, and end the module before one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, last: int) -> None:
        self.count, self.last = 0, last
        for name in ("mkdir", "open", "unlink", "rename", "replace", "chmod"):
            monkeypatch.setattr(Path, name, self.counted(getattr(Path, name)))
        for name in ("link", "rmdir"):
            monkeypatch.setattr(os, name, self.counted(getattr(os, name)))

    def counted(self, act: Any) -> Any:
        def wrapped(*given: Any, **more: Any) -> Any:
            if self.count == self.last:
                raise Killed
            self.count += 1
            return act(*given, **more)

        return wrapped


@pytest.mark.parametrize("back", [False, True])
def test_a_run_that_is_killed_anywhere_is_completed_by_the_next(tmp_path, monkeypatch, back):
    """Each act on the file system is the last one, in turn; `back` is a rollback."""
    ours = {"staticfiles/app.css": b"new", "staticfiles/a/b.2.js": b"2"}
    release, other = ("r1", "r2") if back else ("r2", "r1")
    wanted = {
        f"{FOLDER}/app.css": b"old" if back else b"new",
        f"{FOLDER}/a/b.2.js": b"2",
        f"{FOLDER}/c/d.1.js": b"1",
    }
    killed, ended = 0, False
    while not ended:
        root = tmp_path / str(killed)
        put(root, "r1", {"staticfiles/app.css": b"old", "staticfiles/c/d.1.js": b"1"})
        if back:
            put(root, "r2", ours)
        switch(root, other)
        before = served(root, other)
        with monkeypatch.context() as patched:
            Acts(patched, last=killed)
            try:
                put(root, release, ours)
                ended = True
            except Killed:
                killed += 1
        assert served(root, other) == before
        # Whatever counts is whole.
        assert not StaticFiles(root, release).complete([FOLDER]) or served(root, release) == wanted
        put(root, release, ours)
        assert StaticFiles(root, release).complete([FOLDER])
        assert served(root, release) == wanted
        assert names(root) == {"r1", "r1.json", "r2", "r2.json"}
    assert killed > (3 if back else 15)


def test_nginx_may_read_what_only_the_application_may(tmp_path):
    before = os.umask(0o077)
    try:
        put(tmp_path, "r1", {"staticfiles/a/b.js": b"x"})
        put(tmp_path, "r2", {"staticfiles/c.js": b"x"})
        put(tmp_path, "r1", {})
    finally:
        os.umask(before)
    found = [tmp_path / "live", *(tmp_path / "live").rglob("*")]
    assert len([path for path in found if path.is_file()]) == 6
    for path in found:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == (0o755 if path.is_dir() else 0o644), path


def test_links_are_left_out_and_hard_links_are_files(tmp_path):
    draft = StaticDraft(StaticFiles(tmp_path, "r1"))
    members = {
        "staticfiles/a": b"1",
        "staticfiles/hard": (tarfile.LNKTYPE, "staticfiles/a"),
        "staticfiles/so\033[2Kft": (tarfile.SYMTYPE, "/etc/passwd"),
    }
    draft.begin()
    assert list(draft.extract(archive(members), FOLDER)) == [f"{FOLDER}/a", f"{FOLDER}/hard"]
    draft.publish([FOLDER])
    assert draft.skipped == [f"{FOLDER}/so\\x1b[2Kft"]
    assert served(tmp_path, "r1") == {f"{FOLDER}/a": b"1", f"{FOLDER}/hard": b"1"}


def test_a_file_that_stands_twice_in_an_archive_does_not_reach_another_release(tmp_path):
    """Its first copy is a name of the other release's file by then."""
    put(tmp_path, "r1", {"staticfiles/a": b"1"})
    draft = StaticDraft(StaticFiles(tmp_path, "r2"))
    (tmp_path / "releases/r2").mkdir()
    draft.begin()
    list(draft.extract(archive({"staticfiles/a": b"1"}), FOLDER))
    list(draft.extract(archive({"staticfiles/a": b"2"}), FOLDER))
    draft.publish([FOLDER])
    assert served(tmp_path, "r1") == {f"{FOLDER}/a": b"1"}
    assert served(tmp_path, "r2") == {f"{FOLDER}/a": b"2"}


@pytest.mark.parametrize("name", ["staticfiles/../../../etc/x", "/etc/x", "../x"])
def test_no_name_leads_out_of_the_folder(tmp_path, name):
    draft = StaticDraft(StaticFiles(tmp_path / "root", "r1"))
    draft.begin()
    with pytest.raises(OSError, match="leads out of"):
        list(draft.extract(archive({name: b"x"}), FOLDER))
    assert not list(tmp_path.rglob("x"))


NAMES = st.text("abc", min_size=1, max_size=2)
TREES = st.dictionaries(st.lists(NAMES, min_size=1, max_size=3).map("/".join), st.binary())


def consistent(tree: dict[str, bytes]) -> dict[str, bytes]:
    """Return a tree in which no path is a file and a folder."""
    return {
        path: content
        for path, content in tree.items()
        if not any(other.startswith(f"{path}/") for other in tree)
    }


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(st.sampled_from(["r1", "r2", "r3"]), TREES.map(consistent), min_size=1),
    st.data(),
)
def test_a_tree_has_all_files_of_its_release_and_no_others_in_their_place(
    tmp_path_factory, trees, data
):
    root = tmp_path_factory.mktemp("root")
    steps = data.draw(st.lists(st.sampled_from(sorted(trees)), max_size=6))
    for release in steps:
        put(root, release, {f"staticfiles/{one}": text for one, text in trees[release].items()})
        own = {f"{FOLDER}/{path}": content for path, content in trees[release].items()}
        found = served(root, release)
        assert found.items() >= own.items()
        assert StaticFiles(root, release).complete([FOLDER])
        others = [trees[one] for one in set(steps) - {release}]
        for path in found.keys() - own.keys():
            assert found[path] in [one.get(path.removeprefix(f"{FOLDER}/")) for one in others]
    for release in set(steps):
        own = {f"{FOLDER}/{path}": content for path, content in trees[release].items()}
        assert served(root, release).items() >= own.items()


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


def test_the_module_copies_once_and_only_links_after_a_rollback(run_module, client):
    image(client, "r1", {f"{FOLDER}/a.1.js": "1", "/app/robots.txt": "no"})
    image(client, "r2", {f"{FOLDER}/a.2.js": "2", "/app/robots.txt": "no"})
    first = arguments(client, "r1", [FOLDER, "/app/robots.txt"])
    assert run_module(static_files, check_mode=True, **first)["changed"] is True
    assert not (client.parent / "calls").exists()
    done = run_module(static_files, **first)
    assert (done["changed"], done["files"], done["removed"]) == (True, 2, [])
    assert (client.parent / "calls").read_text().split() == ["create", "cp", "cp", "rm"]
    assert run_module(static_files, **first)["changed"] is False
    root = Path(first["root"])
    assert run_module(static_files, **arguments(client, "r2", first["folders"]))["changed"] is True
    assert served(root, "r2")[f"{FOLDER}/a.2.js"] == b"2"
    assert (client.parent / "calls").read_text().split() == ["create", "cp", "cp", "rm"] * 2
    # The image is not needed for links to files that are there.
    assert run_module(static_files, check_mode=True, **first)["changed"] is True
    assert run_module(static_files, **first)["changed"] is True
    assert run_module(static_files, **first)["changed"] is False
    assert (client.parent / "calls").read_text().split() == ["create", "cp", "cp", "rm"] * 2
    assert served(root, "r1") == {
        f"{FOLDER}/a.1.js": b"1",
        f"{FOLDER}/a.2.js": b"2",
        "/app/robots.txt": b"no",
    }


def test_the_module_tells_whose_files_it_removed(run_module, client):
    for release in ("r1", "r2"):
        image(client, release, {f"{FOLDER}/a.js": release})
        assert run_module(static_files, **arguments(client, release, [FOLDER]))["removed"] == []
    root = client.parents[1] / "root"
    (root / "releases/r1").rmdir()
    (root / "live/static/.draft").mkdir()  # of a run that was killed
    last = arguments(client, "r2", [FOLDER])
    would = run_module(static_files, check_mode=True, **last)
    assert (would["changed"], would["removed"]) == (True, ["r1"])
    done = run_module(static_files, **last)
    assert (done["changed"], done["removed"]) == (True, ["r1"])
    assert names(root) == {"r2", "r2.json"}
    assert run_module(static_files, **last)["changed"] is False


def test_a_folder_that_cannot_be_written_is_named(run_module, client):
    image(client, "r1", {f"{FOLDER}/a.js": "1"})
    given = arguments(client, "r1", [FOLDER])
    (Path(given["root"]) / "live").write_text("a file")
    failed = run_module(static_files, **given)
    assert "static files of release r1 cannot be put into" in failed["msg"]
    assert "run the deploy again" in failed["msg"]


def test_a_folder_that_the_image_has_not_is_named_with_a_remedy(run_module, client):
    image(client, "r1", {"/app/x": "1"})
    failed = run_module(static_files, **arguments(client, "r1", ["/app/public"]))
    assert failed["failed"] is True
    assert "/app/public cannot be copied out of image-r1: “Could not find the file" in failed["msg"]
    assert "run collectstatic" in failed["msg"]
    assert (client.parent / "calls").read_text().split()[-1] == "rm"
    assert names(client.parents[1] / "root") == set()


def test_an_image_that_is_not_there_is_named(run_module, client):
    failed = run_module(static_files, **arguments(client, "r9", [FOLDER]))
    assert "No such image: image-r9" in failed["msg"]


@pytest.mark.parametrize(
    ("match", "alias", "said"),
    [
        ("= /robots.txt", "/app", "/robots.txt of stack_app.locations is one file"),
        ("= /robots.txt", "/app/empty", "its alias /app/empty is a folder of the image"),
        ("/static/", "/app/robots.txt", "its alias /app/robots.txt is a file of the image"),
        ("= /robots.txt", "/app/robots.txt", ""),
        ("/static/", "/app", ""),
    ],
)
def test_an_alias_of_the_other_kind_is_named(run_module, client, match, alias, said):
    """Regression: nginx answered 301 or 404 for all of the location, and the deploy ended well."""
    image(client, "r1", {"/app/robots.txt": "no"})
    location = {"match": match, "source": alias}
    given = arguments(client, "r1", ["/app"]) | {"locations": [{"source": ""}, location]}
    answer = run_module(static_files, **given)
    assert bool(answer.get("failed")) is bool(said), answer
    assert said in answer.get("msg", "")
    assert names(client.parents[1] / "root") == (set() if said else {"r1", "r1.json"})
