"""Where code lies, and how it is imported: one mechanism (docs/CONTRIBUTING.md)."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = ROOT / "module_utils/crisper"
OURS = "ansible_collections.crisper.stack.plugins.module_utils"
FILES = sorted(PACKAGE.rglob("*.py"))


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the repository that git has or would take, by patterns of git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def test_the_collection_is_the_package():
    link = ROOT / "collections/ansible_collections/crisper/stack/plugins/module_utils"
    assert link.is_symlink()
    assert link.resolve() == PACKAGE
    assert [p.name for p in (ROOT / "module_utils").iterdir() if p.name != "__pycache__"] == [
        "crisper"
    ]


def test_no_file_patches_a_path_of_ansible():
    trick = "module_utils.__" + "path__"
    assert [str(p) for p in tracked("*.py", "scripts/*") if trick in p.read_text()] == []


@pytest.mark.parametrize("folder", sorted({p.parent for p in FILES}), ids=lambda p: p.name)
def test_a_folder_of_the_package_brings_no_code_of_its_own(folder):
    """Ansible packs it with every module that imports from the folder."""
    body = ast.parse((folder / "__init__.py").read_text()).body
    assert len(body) == 1
    assert ast.get_docstring(ast.Module(body, []))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_files_of_the_package_import_each_other_relatively(path):
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            folder = path.parents[node.level - 1]
            target = folder.joinpath(*(node.module or "").split("."))
            names = [target / f"{alias.name}.py" for alias in node.names]
            assert target.with_suffix(".py").is_file() or all(n.is_file() for n in names), (
                ast.unparse(node)
            )
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [getattr(node, "module", None) or "", *(alias.name for alias in node.names)]
            assert not any(
                name.startswith((OURS, "ansible.module_utils.crisper", "crisper")) for name in names
            )


def test_modules_plugins_and_tests_use_one_name():
    """Two names would make two classes of one: what is raised as one is not caught as the other."""
    other = re.compile(r"^\s*(?:from|import) (?:ansible\.module_utils\.crisper|crisper\b)", re.M)
    found = [p for p in tracked("library", "plugins", "tests", "molecule") if p.suffix == ".py"]
    assert len(found) > 100
    assert [str(p) for p in found if other.search(p.read_text())] == []


def copied(role: str, path: str, pattern: str) -> set[str]:
    """Return the files of the package that a role copies to a server."""
    text = re.sub(r"# .*", "#", (ROOT / "roles" / role / path).read_text())
    return set(re.findall(r"[\w/]+", re.search(pattern, text, re.DOTALL)[1]))


@pytest.mark.parametrize(
    ("names", "module"),
    [
        (
            copied("backup", "vars/main.yml", r"__backup_modules:\n((?:  (?:- \S+|#[^\n]*)\n)+)"),
            "crisper.backup.timer",
        ),
        (copied("tls", "tasks/acme.yml", r"loop:\n((?: +- \S+\n)+)"), "crisper.proxy.tls_hook"),
    ],
    ids=["backup timer", "hook for ACME clients"],
)
def test_what_a_role_copies_to_a_server_imports_nothing_else(tmp_path, names, module):
    """Without Ansible and without the rest of the package."""
    for name in names:
        target = tmp_path / "crisper" / f"{name}.py"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text((PACKAGE / f"{name}.py").read_text())
    program = (
        f"import sys, {module}; print(*sorted(m for m in sys.modules if m.startswith('ansible')))"
    )
    done = subprocess.run(
        ["python3", "-c", program],
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(tmp_path),
            "PYTHONDONTWRITEBYTECODE": "1",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (0, ""), done.stderr


# Sizes ---------------------------------------------------------------------------------------

MOST_LINES = {"file": 400, "class": 200, "function": 40}
KINDS = {
    ast.ClassDef: "class",
    ast.FunctionDef: "function",
    ast.AsyncFunctionDef: "function",
}


def lines_of(source: str) -> Iterator[tuple[str, str, int]]:
    """Yield kind, name and number of lines of a file, and of what is defined in it."""
    yield "file", "", source.count("\n")
    for node in ast.walk(ast.parse(source)):
        if kind := KINDS.get(type(node)):
            yield kind, node.name, node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("folder", ["module_utils", "library", "plugins", "app/crisper-worker/src"])
def test_what_is_read_at_once_is_short(folder):
    paths = sorted((ROOT / folder).rglob("*.py"))
    long = [
        f"{path.relative_to(ROOT)} {kind} {name}: {lines} lines, at most {MOST_LINES[kind]}"
        for path in paths
        for kind, name, lines in lines_of(path.read_text())
        if lines > MOST_LINES[kind]
    ]
    assert paths
    assert long == []


def test_lines_are_counted():
    source = "class A:\n    def f(self):\n        return 1\n"
    assert list(lines_of(source)) == [("file", "", 3), ("class", "A", 3), ("function", "f", 2)]
