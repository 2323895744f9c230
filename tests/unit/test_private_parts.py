"""What plugins and modules use of Ansible that Ansible does not promise."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.plugins.action import ActionBase
from ansible.plugins.callback import CallbackBase
from ansible.plugins.lookup import LookupBase

ROOT = Path(__file__).resolve().parents[2]

# What Ansible's base classes hand to those that extend them, as its developer guide shows.
PROTECTED = {
    "_connection",
    "_display",
    "_execute_module",
    "_loader",
    "_low_level_execute_command",
    "_supports_check_mode",
    "_task",
    "_templar",
    "_VALID_ARGS",
}
# Each has its figure or its reason in docs/BENCHMARKS.md, "Ansible's private parts".
ALLOWED = {
    ("plugins/callback/crisper_payloads.py", "ansiballz_cache"),
    ("module_utils/crisper/playbook/origin.py", "ansible._internal._datatag._tags"),
    ("plugins/lookup/crisper_findings.py", "_inventory"),
    ("plugins/lookup/crisper_findings.py", "_nonpersistent_fact_cache"),
    ("plugins/lookup/crisper_findings.py", "_variable_manager"),
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def find_private_parts(source: str) -> Iterator[str]:
    """Yield private attributes of others, private modules, and Ansible's folder of payloads."""
    tree = ast.parse(source)
    own = {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            of_self = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            if not (of_self and node.attr in PROTECTED | own):
                yield node.attr
        elif isinstance(node, ast.ImportFrom) and node.module:
            if any(is_private(part) for part in node.module.split(".")):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (a.name for a in node.names if any(map(is_private, a.name.split("."))))
        elif isinstance(node, ast.Call) and ast.unparse(node.func) == "getattr":
            name = node.args[1]
            if isinstance(name, ast.Constant) and is_private(str(name.value)):
                yield str(name.value)
        elif isinstance(node, ast.Constant) and node.value == "ansiballz_cache":
            yield node.value


def test_only_listed_private_parts_of_ansible_are_used() -> None:
    found = {
        (str(path.relative_to(ROOT)), name)
        for folder in ("plugins", "library", "module_utils/crisper/playbook")
        for path in (ROOT / folder).rglob("*.py")
        for name in find_private_parts(path.read_text())
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("play._loader.load('x')", "_loader"),
        ("getattr(task, '_role', None)", "_role"),
        ("self._is_pipelining_enabled('new')", "_is_pipelining_enabled"),
        ("from ansible._internal import x", "ansible._internal"),
        ("import ansible._internal._x", "ansible._internal._x"),
    ],
)
def test_a_private_part_is_seen(source: str, name: str) -> None:
    assert list(find_private_parts(source)) == [name]


def test_the_base_classes_have_what_they_hand_over() -> None:
    known: set[str] = set()
    for base in (ActionBase, CallbackBase, LookupBase):
        known |= set(dir(base)) | set(base.__init__.__code__.co_names)
    assert known >= PROTECTED
