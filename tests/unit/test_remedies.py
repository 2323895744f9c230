"""Every command that a message names exists: its playbook, its tags and its variables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("module_utils", "roles", "library", "plugins")
PLAYBOOK = re.compile(r"(?:playbooks/[\w-]+|\bdeploy)\.yml")
TAG = re.compile(r"--(?:skip-)?tags ([a-z_]+)")
# The value of `-e` that is given as `name=value`.
VARIABLE = re.compile(r"(?<![\w-])-e ([a-z_]+)=")
# In examples of a text about -e itself.
EXAMPLES = {"name", "x"}
# Tags of Ansible, which messages refuse.
SPECIAL = {"never", "always"}


def texts() -> Iterator[tuple[Path, str]]:
    """Files whose messages operators read, without the breaks of a string over several lines."""
    for folder in FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in (".py", ".yml", ".j2") and path.is_file():
                yield path, re.sub(r'"\s+f?"', "", path.read_text())


@cache
def playbooks() -> str:
    """The text of all playbooks."""
    paths = [ROOT / "deploy.yml", *(ROOT / "playbooks").glob("*.yml")]
    return "\n".join(path.read_text() for path in paths)


@cache
def tags() -> set[str]:
    """All tags of all playbooks."""
    listed = re.findall(r"tags: (?:&\w+ )?\[([\w, ]+)\]", playbooks())
    return {tag for one in listed for tag in one.split(", ")}


@cache
def variables() -> set[str]:
    """Variables of roles, and those that roles' defaults and playbooks refer to."""
    names: set[str] = set()
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        specs = yaml.safe_load(path.read_text())["argument_specs"]
        names |= {name for entry in specs.values() for name in entry["options"]}
    defaults = [path.read_text() for path in (ROOT / "roles").glob("*/defaults/main.yml")]
    return names | set(re.findall(r"\b(\w+) \| default", "\n".join([playbooks(), *defaults])))


def missing(pattern: re.Pattern[str], known: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}: {found}"
        for path, text in texts()
        for found in pattern.findall(text)
        if found not in known
    ]


def test_every_playbook_that_is_named_exists() -> None:
    known = {"deploy.yml", *(f"playbooks/{path.name}" for path in (ROOT / "playbooks").glob("*"))}
    assert missing(PLAYBOOK, known) == []


def test_every_tag_that_is_named_exists() -> None:
    assert {"rollback", "requeue", "maintenance_off", "drill"} <= tags()
    assert missing(TAG, tags() | SPECIAL) == []


def test_every_variable_that_is_named_exists() -> None:
    assert {"restore_database", "release", "stack_hosts"} <= variables()
    assert missing(VARIABLE, variables() | EXAMPLES) == []


@pytest.mark.parametrize(
    ("pattern", "text"),
    [(PLAYBOOK, "playbooks/gone.yml"), (TAG, "--tags gone"), (VARIABLE, "-e gone=1")],
)
def test_a_name_that_does_not_exist_is_found(pattern: re.Pattern[str], text: str) -> None:
    assert "gone" in pattern.findall(text)[0]
