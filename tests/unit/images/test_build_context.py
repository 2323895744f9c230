"""build_context: what is in a context, what its digest depends on, and its archive."""

from __future__ import annotations

import io
import json
import os
import tarfile
from pathlib import Path
from typing import Any

import build_context
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.crisper.stack.plugins.module_utils.images import context
from hypothesis import given
from hypothesis import strategies as st


def make(root: Path, files: dict[str, str]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


def paths(root: Path, dockerfile: str = "Dockerfile") -> list[str]:
    return [entry.path for entry in context.scan(root, dockerfile)]


def digest(root: Path, args: dict[str, Any] | None = None, dockerfile: str = "Dockerfile") -> str:
    return context.digest(context.scan(root, dockerfile), dockerfile, args or {})


FILES = {
    "Dockerfile": "FROM x",
    "a.py": "a",
    "deep/a.py": "a",
    "deep/er/b.txt": "b",
    "node_modules/x.js": "x",
    "deep/node_modules/y.js": "y",
    ".git/config": "c",
}


@pytest.mark.parametrize(
    ("rules", "gone"),
    [
        ("", set()),
        ("# comment\n\n   \n", set()),
        ("node_modules", {"node_modules/x.js"}),  # anchored, unlike in .gitignore
        ("/node_modules/", {"node_modules/x.js"}),
        ("**/node_modules", {"node_modules/x.js", "deep/node_modules/y.js"}),
        ("*.py", {"a.py"}),
        ("**/*.py", {"a.py", "deep/a.py"}),
        ("deep/*", {"deep/a.py", "deep/er/b.txt", "deep/node_modules/y.js"}),
        ("deep\n!deep/er", {"deep/a.py", "deep/node_modules/y.js"}),  # a child comes back
        ("!a.py\n*.py", {"a.py"}),  # the last match decides
        ("./deep/../a.py", {"a.py"}),
        (".", set()),
        ("*", {name for name in FILES if name != "Dockerfile"} | {".dockerignore"}),
        ("Dockerfile\n.dockerignore", {".dockerignore"}),  # a build needs its Dockerfile
        (".git", {".git/config"}),
    ],
)
def test_dockerignore_means_what_docker_says(tmp_path: Path, rules: str, gone: set[str]) -> None:
    make(tmp_path, FILES | {".dockerignore": rules})
    assert set(paths(tmp_path)) == set(FILES) - gone | ({".dockerignore"} - gone)


def test_a_dockerfile_has_its_own_ignore_file(tmp_path: Path) -> None:
    make(tmp_path, {"web.Dockerfile": "", "a": "", "b": "", ".dockerignore": "a"})
    make(tmp_path, {"web.Dockerfile.dockerignore": "b\n*.dockerignore"})
    assert paths(tmp_path, "web.Dockerfile") == ["a", "web.Dockerfile"]


def test_the_digest_depends_on_what_decides_the_image(tmp_path: Path) -> None:
    make(tmp_path, {"Dockerfile": "FROM x", "run": "1", ".dockerignore": "log"})
    os.symlink("run", tmp_path / "link")
    seen = {digest(tmp_path)}

    def changed() -> bool:
        before = len(seen)
        seen.add(digest(tmp_path))
        return len(seen) > before

    make(tmp_path, {"run": "2"})
    assert changed()
    (tmp_path / "run").chmod(0o755)
    assert changed()
    (tmp_path / "run").rename(tmp_path / "ran")
    assert changed()
    (tmp_path / "link").unlink()
    os.symlink("ran", tmp_path / "link")
    assert changed()
    assert digest(tmp_path, {"A": "1"}) not in seen
    assert digest(tmp_path, {"A": 1}) == digest(tmp_path, {"A": "1"})
    make(tmp_path, {"log": "ignored"})
    os.utime(tmp_path / "ran", (1, 1))
    (tmp_path / "Dockerfile").chmod(0o600)
    (tmp_path / "empty").mkdir()
    os.mkfifo(tmp_path / "pipe")
    assert not changed()


def test_the_archive_is_the_context_and_always_the_same_bytes(tmp_path: Path) -> None:
    make(tmp_path, FILES | {".dockerignore": ".git"})
    (tmp_path / "a.py").chmod(0o755)
    os.symlink("a.py", tmp_path / "link")
    archives = []
    for _ in range(2):
        target = io.BytesIO()
        context.write_archive(tmp_path, context.scan(tmp_path), target)
        archives.append(target.getvalue())
        os.utime(tmp_path / "a.py", (5, 5))
    assert archives[0] == archives[1]
    with tarfile.open(fileobj=io.BytesIO(archives[0])) as archive:
        members = archive.getmembers()
        assert [m.name for m in members if not m.isdir()] == paths(tmp_path)
        assert archive.getmember("a.py").mode == 0o755
        assert archive.getmember("link").linkname == "a.py"
        assert {(m.uid, m.gid) for m in archive.getmembers()} == {(0, 0)}
        assert {m.mtime for m in archive.getmembers() if m.isdir()} == {0}


def test_a_file_has_a_time_by_its_content(tmp_path: Path) -> None:
    """Regression: a change of the same size was not built, because BuildKit compares the times."""
    times = []
    for version in ("1", "2", "1"):
        make(tmp_path, {"version": version})
        target = io.BytesIO()
        entries = [entry for entry in context.scan(tmp_path, "version") if entry.path == "version"]
        context.write_archive(tmp_path, entries, target)
        target.seek(0)
        with tarfile.open(fileobj=target) as archive:
            times.append(archive.getmember("version").mtime)
    assert times[0] == times[2] != times[1]
    assert all(2**30 <= time < 2**30 + 2**29 for time in times)


names = st.text(st.sampled_from("ab.*!#/ [\\"), max_size=8)


@given(rules=st.lists(names, max_size=6), path=names)
def test_any_rules_can_be_read(rules: list[str], path: str) -> None:
    try:
        spec = context.ignore_rules(rules)
    except context.ContextError as error:
        assert "cannot be read" in str(error)  # noqa: PT017 - which rules are bad is not the point
    else:
        assert spec.match_file(path) in (True, False)


def run(capsys: pytest.CaptureFixture[str], **arguments: Any) -> dict[str, Any]:
    with patch_module_args(arguments), pytest.raises(SystemExit):
        build_context.main()
    return dict(json.loads(capsys.readouterr().out))


def test_the_module_writes_only_what_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = make(tmp_path / "app", {"Dockerfile": "FROM x", "a": "b"})
    target = tmp_path / "app.tar.gz"
    looked = run(capsys, contexts={"app": {"path": str(root)}})
    assert looked["changed"] is False
    assert looked["contexts"]["app"] == {"digest": digest(root), "files": 2}
    wanted = {"app": {"path": str(root), "archive": str(target)}}
    assert run(capsys, contexts=wanted, _ansible_check_mode=True)["changed"] is True
    assert not target.exists()
    assert run(capsys, contexts=wanted)["changed"] is True
    with tarfile.open(target) as archive:
        assert archive.getnames() == [".", "Dockerfile", "a"]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"path": "nowhere"}, "nowhere is not a folder"),
        ({"path": "."}, "has no Dockerfile"),
        ({}, "needs path"),
        ("app", "needs path"),
        ({"path": ".", "file": "x"}, "contexts.app.file is unknown"),
    ],
)
def test_what_is_wrong_is_said(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: Any,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    failed = run(capsys, contexts={"app": given})
    assert failed["failed"] is True
    assert words in failed["msg"]
