"""Backups are in files, classes and functions that one can take in: rule 5 of the house."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
FOLDER = ROOT / "module_utils/crisper/backup"
FILES = [*sorted(FOLDER.rglob("*.py")), FOLDER.parent / "docker/exec.py"]
# Lines, with the docstring.
MOST_OF_FILE, MOST_OF_CLASS, MOST_OF_FUNCTION = 400, 200, 40


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_of_the_backups_is_short_and_so_is_what_it_holds(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= MOST_OF_FILE
    limits = {ast.ClassDef: MOST_OF_CLASS, ast.FunctionDef: MOST_OF_FUNCTION}
    long = {
        node.name: lines
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
        and (lines := (node.end_lineno or 0) - node.lineno + 1) > limits[type(node)]
    }
    assert long == {}
