"""Jinja wires, Python decides: no expression of a role or playbook is longer than two lines.

The files that have longer ones stand in `LONG` with their number. It only shrinks: a file that has
fewer must say so. `python tests/unit/test_jinja.py` prints where they are.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LINES = 2
# Keys whose values are expressions without braces.
CONDITIONS = frozenset({"changed_when", "failed_when", "that", "until", "when"})
EXPRESSION = re.compile(r"\{\{.*?\}\}|\{%.*?%\}", re.DOTALL)

# Not short yet; lower the number, or take the file out, when you have moved a decision to Python.
LONG: dict[str, int] = {
    "roles/backup/vars/main.yml": 1,
    "roles/database/vars/main.yml": 2,
    "roles/status/vars/main.yml": 2,
    "roles/verify/vars/main.yml": 2,
}


def files() -> list[Path]:
    """Return the YAML of roles and playbooks that git has or would take."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--"]
    names = subprocess.run(
        [*command, "roles/*.yml", "playbooks/*.yml", "deploy.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    return [ROOT / name for name in names if (ROOT / name).is_file()]


def scalars(node: yaml.Node | None, key: str = "") -> Iterator[tuple[str, yaml.ScalarNode]]:
    """Yield every single value with the key that it stands at, or that its list stands at."""
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from scalars(value, str(name.value))
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from scalars(item, key)
    elif isinstance(node, yaml.ScalarNode):
        yield key, node


def long_expressions(text: str) -> list[tuple[int, int]]:
    """Return line and length (in lines) of the expressions of a file that are too long."""
    found = []
    for key, node in scalars(yaml.compose(text, yaml.CSafeLoader)):
        source = text[node.start_mark.index : node.end_mark.index].rstrip()
        start = node.start_mark.line + 1
        if key in CONDITIONS:
            body = source.partition("\n")[2] if node.style in ("|", ">") else source
            matches = [(start, body)]
        else:
            matches = [
                (start + source[: m.start()].count("\n"), m[0]) for m in EXPRESSION.finditer(source)
            ]
        found += [(line, body.count("\n") + 1) for line, body in matches]
    return [(line, length) for line, length in found if length > LINES]


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_expressions_are_of_two_lines_at_most(path: Path) -> None:
    found = long_expressions(path.read_text())
    assert len(found) == LONG.get(str(path.relative_to(ROOT)), 0), (
        f"move the decision to a filter, or lower the number in LONG: lines {found}"
    )


def test_the_list_names_what_there_is() -> None:
    assert {str(path.relative_to(ROOT)) for path in files()} >= LONG.keys()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("a: >-\n  {{ 1\n     + 2 }}\nb: '{{ 1 }} {{ 2 }}'\n", []),
        ("a: >-\n  {{ 1\n     + 2\n     + 3 }}\n", [(2, 3)]),
        ("- when: >-\n    a\n    and b\n\n- when: [a, b]\n", []),
        ("- when: >-\n    a\n    and b\n    and c\n\n- x: 1\n", [(1, 3)]),
        ("- when: a\n    and b\n    and c\n", [(1, 3)]),
        ("- when:\n    - a\n    - b\n    - c\n", []),
        ("a: |-\n  {% if x %}\n  one\n  two\n  {% endif %}\n", []),
        ("a: |-\n  x\n  {% if x\n     and y\n     and z %}1{% endif %}\n", [(3, 3)]),
        ("# {{ 1\n# + 2\n# + 3 }}\na: 1\n", []),
    ],
)
def test_how_lines_of_an_expression_are_counted(text: str, found: list[tuple[int, int]]) -> None:
    assert long_expressions(text) == found


def main() -> int:
    """Print the expressions that are too long."""
    for path in files():
        for line, length in long_expressions(path.read_text()):
            print(f"{path.relative_to(ROOT)}:{line}: {length} lines")
    return 0


if __name__ == "__main__":
    sys.exit(main())
