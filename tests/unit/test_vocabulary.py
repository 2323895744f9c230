"""The language of the project: names, docstrings and task names that a stranger recognises.

`python tests/unit/test_vocabulary.py` names the files and roles that break it; with the name of a
file or role it prints what is wrong there.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]


def words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A name must say what it holds: "the lock holder", not "held".
PARTICIPLES = words(
    "asked fit fits gave given gone heard held kept left look met said same seen shown told"
)
# Names of the language of before, by whole name.
FORMER = {
    "Begun": "BackgroundCommand",
    "Book": "DrainTracker",
    "Held": "the noun of what is held",
    "Kept": "ReleaseStore",
    "Room": "ControlClient",
    "Watch": "EventWatcher",
    "find_problems": "validate",
}
# What a function's docstring begins with: "Return …". A property may begin with a noun.
VERBS = words(
    """
    Acknowledge Acquire Add Answer Append Apply Archive Ask Back Become Begin Bring Build Cancel
    Capture Change Check Choose Clean Close Collect Compare Complete Compute Confirm Connect Consume
    Copy Count Create Debug Decide Declare Delete Deploy Describe Detect Diagnose Digest Discard Do
    Drain Drill Drop Dump Empty End Ensure Exchange Exit Extract Fail Feed Fetch Fill Find Fit
    Follow Force Forget Format Gather Get Give Group Guard Hand Handle Hash Have Hold Ignore Import
    Include Init Insert Install Join Judge Keep Kill Lay Leave Let Limit Link List Load Lock Log
    Look Make Map Mark Match Measure Merge Migrate Move Name Note Open Parse Patch Pin Ping Point
    Pop Prepare Print Probe Promote Provide Prune Publish Pull Push Put Queue Quote Raise Read Reap
    Receive Record Recreate Redact Refresh Refuse Register Release Reload Remember Remove Rename
    Render Renew Repair Repeat Replace Report Requeue Reset Resolve Restart Restore Resume Retain
    Retire Retry Return Revert Roll Run Save Scan Send Separate Serve Set Show Shut Sign Skip Sort
    Split Stage Start Stop Store Strip Supplement Switch Sync Tag Take Tell Test Trim Try Undo
    Unpack Update Upgrade Use Validate Verify Wait Warn Watch Word Wrap Write Yield
    """
)
# What no docstring begins with: no subject and no verb, or a subject that is nobody.
RIDDLES = words(
    """
    All And As At Does Done Everybody Everyone Everything Had Has He Here How If In Is It Its No
    Nobody Nothing Of One Others She Since Somebody Someone Something That Their There These They
    This Those Until We What When Where Whether Which While Who Whoever Whom Whose Why
    """
)
# Tasks say what they do. Other than for a function, nothing is "told" or "looked at".
NO_TASK_VERBS = frozenset({"Have", "Lay", "Let", "Look", "Tell"})
TASK_WORDS = range(3, 9)
# A file of tasks is named by what they do, not by the state that calls for them.
NO_TASK_FILES = words("again aside cut failed free kinds known prove proved restored unhealthy")

PYTHON = ("module_utils", "library", "plugins", "app/crisper-worker/src", "scripts")


def tracked(*patterns: str) -> list[Path]:
    """Return the files of the repository that git has or would take, by patterns of git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.splitlines() if (ROOT / name).is_file()]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Python ------------------------------------------------------------------------------------------


def name_problem(name: str) -> str:
    bare = name.strip("_")
    if bare in FORMER:
        return f"{name}: write {FORMER[bare]}"
    if bare in PARTICIPLES:
        return f"{name}: a bare participle; write the noun of what it holds"
    return ""


def names_of(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield functions, classes, parameters and variables with their lines.

    Not the keys of a TypedDict: they are those of JSON, whose readers are elsewhere.
    """
    keys = {
        id(field.target)
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
        and any(isinstance(base, ast.Name) and base.id == "TypedDict" for base in node.bases)
        for field in node.body
        if isinstance(field, ast.AnnAssign)
    }
    for node in ast.walk(tree):
        if id(node) in keys:
            continue
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield 0, node.asname


def first_word(docstring: str) -> str:
    return re.split(r"[\s,.:;]", docstring, maxsplit=1)[0]


def is_property(node: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    return any("property" in ast.unparse(decorator) for decorator in node.decorator_list)


def docstring_problems(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        text = ast.get_docstring(node)
        if not text:
            continue
        line, word = getattr(node, "lineno", 1), first_word(text)
        acts = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not is_property(node)
        if acts and word not in VERBS:
            yield f"{line}: docstring begins with {word!r}, which is no verb of VERBS"
        elif word in RIDDLES:
            yield f"{line}: docstring begins with {word!r}: begin with a noun or a verb"


def python_problems(source: str) -> list[str]:
    """Return what is wrong with the words of a Python file, a line each."""
    tree = ast.parse(source)
    found = {f"{line}: {problem}" for line, n in names_of(tree) if (problem := name_problem(n))}
    return sorted(found | set(docstring_problems(tree)), key=lambda text: int(text.split(":")[0]))


def python_files() -> list[Path]:
    scripts = {p for p in tracked("scripts") if not p.suffix}
    return [
        p
        for p in tracked(*PYTHON)
        if p.suffix == ".py" or (p in scripts and "python" in p.open().readline())
    ]


@pytest.mark.parametrize("path", python_files(), ids=named)
def test_the_words_of_a_python_file(path):
    problems = python_problems(path.read_text())
    if (problem := name_problem(path.stem)) and path.suffix:
        problems.append(f"0: file {problem}")
    assert problems == []


# Tasks -------------------------------------------------------------------------------------------


def task_problem(name: str) -> str:
    """Return what is wrong with the name of a task, without the prefix of its file."""
    text = re.sub(r"\{\{.*?\}\}", "X", name).split(" | ", 1)[-1]
    words = text.split()
    if not words or words[0].strip(",") not in VERBS - NO_TASK_VERBS:
        return f"{name!r} begins with no verb of VERBS"
    if len(words) not in TASK_WORDS:
        return f"{name!r} has {len(words)} words: {TASK_WORDS[0]} to {TASK_WORDS[-1]}"
    return ""


def task_names(tasks: Any) -> Iterator[str]:
    for task in tasks or []:
        if "name" in task:
            yield str(task["name"])
        for key in ("block", "rescue", "always", "pre_tasks", "tasks", "post_tasks", "handlers"):
            yield from task_names(task.get(key))


def is_task_file(path: Path) -> bool:
    return path.suffix == ".yml" and path.parent.name in ("tasks", "handlers", "playbooks")


def names_in(path: Path) -> list[str]:
    return list(task_names(yaml.load(path.read_text(), yaml.CSafeLoader)))


def task_files() -> dict[str, list[Path]]:
    """Return the files with tasks, by role; those of playbooks by ``playbooks``."""
    groups: dict[str, list[Path]] = {}
    for path in tracked("roles", "playbooks", "deploy.yml"):
        if path.name == "deploy.yml" or is_task_file(path):
            parts = path.relative_to(ROOT).parts
            groups.setdefault(parts[1] if parts[0] == "roles" else "playbooks", []).append(path)
    return groups


def role_problems(files: list[Path]) -> list[str]:
    return [
        f"{named(path)}: {problem}"
        for path in files
        for name in names_in(path)
        if (problem := task_problem(name))
    ]


@pytest.mark.parametrize("role", sorted(task_files()))
def test_the_names_of_tasks(role):
    assert role_problems(task_files()[role]) == []


def scenario_files() -> list[Path]:
    """Return the playbooks and task files of the molecule scenarios."""
    return [p for p in tracked("molecule") if p.suffix == ".yml" and p.name != "molecule.yml"]


def test_the_names_in_scenarios():
    """`Converge` is what Molecule calls that play itself."""
    tasks = {p: yaml.load(p.read_text(), yaml.CSafeLoader) for p in scenario_files()}
    found = [
        f"{named(path)}: {problem}"
        for path, content in tasks.items()
        if isinstance(content, list)
        for name in task_names(content)
        if name != "Converge" and (problem := task_problem(name))
    ]
    assert found == []


def file_problem(stem: str) -> str:
    """Return what is wrong with the name of a file of tasks."""
    bad = sorted(set(stem.split("_")) & (NO_TASK_FILES | PARTICIPLES))
    return f"{stem}.yml: name it by what its tasks do, not {', '.join(bad)}" if bad else ""


def test_the_files_of_tasks():
    files = [path for group in task_files().values() for path in group]
    assert len(files) > 60
    assert [text for path in files if (text := file_problem(path.stem))] == []
    assert file_problem("cut_off")
    assert file_problem("same")


def examples_in(source: str) -> list[str]:
    """Return the names of the tasks in EXAMPLES of a module or plugin."""
    texts = [
        ast.literal_eval(node.value)
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "EXAMPLES"
    ]
    return [name for text in texts for name in task_names(yaml.load(text, yaml.CSafeLoader))]


def test_the_names_in_examples():
    names = {p: examples_in(p.read_text()) for p in tracked("library/*.py", "plugins/*.py")}
    assert sum(map(len, names.values())) >= 30
    found = [
        f"{named(path)}: {problem}"
        for path, each in names.items()
        for name in each
        if (problem := task_problem(name))
    ]
    assert found == []


# The judges themselves ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "Stop the old workers",
        "Migrate | Dump the database",
        "Remove the containers of {{ stack_name | default('x y z') }}",
    ],
)
def test_a_name_of_a_task_that_is_taken(name):
    assert task_problem(name) == ""


@pytest.mark.parametrize(
    "name",
    [
        "It is told",
        "Timer | It is gone",
        "What was seen is known",
        "Tell what happened",
        "Build images",
        "Write the digests of all of the images into the inventory",
    ],
)
def test_a_name_of_a_task_that_is_refused(name):
    assert task_problem(name)


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("def told():\n    pass", "1: told"),
        ("def f(seen):\n    pass", "1: seen"),
        ("async def _look():\n    pass", "1: _look"),
        ("class Room:\n    pass", "1: Room: write ControlClient"),
        ("held = 1", "1: held"),
        ("for left in ():\n    pass", "1: left"),
        ("self.kept = 1", "1: kept"),
        ("class A:\n    given: int = 1", "2: given"),
        ("from a import b as shown", "0: shown"),
        ('def f():\n    """What there is."""', "1: docstring"),
        ('def f():\n    """Number of things."""', "1: docstring"),
        ('"""Whether it is."""', "1: docstring"),
        ('class A:\n    """What there is."""', "1: docstring"),
    ],
)
def test_words_that_are_refused(source, problem):
    assert [text.startswith(problem) for text in python_problems(source)] == [True]


@pytest.mark.parametrize(
    "source",
    [
        'def f(params):\n    """Return; raise."""\n    seen_at = 1',
        'class A:\n    """A lease."""\n    @property\n    def f(self):\n        """The name."""',
        'class A:\n    @functools.cached_property\n    def f(self):\n        """The name."""',
        "def f(values):\n    return values.given or other.seen",
        "class A(TypedDict):\n    shown: str",
    ],
)
def test_words_that_are_taken(source):
    assert python_problems(source) == []


def main(arguments: list[str]) -> int:
    """Print what breaks the rules, or what is wrong with what is named."""
    files = {named(p): p for p in python_files()}
    roles = task_files()
    for name in arguments:
        found = python_problems(files[name].read_text()) if name in files else []
        print("\n".join(f"{name}:{text}" for text in found or role_problems(roles.get(name, []))))
    if not arguments:
        print(*(n for n, p in sorted(files.items()) if python_problems(p.read_text())), sep="\n")
        print()
        print(*(name for name in sorted(roles) if role_problems(roles[name])), sep="\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
