"""The documents say what the code does: tables, commands and links."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from entry_sites import site
from rendering import specification

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("inventories/*/*.md")])
TEXT = "\n".join(page.read_text() for page in PAGES)


def test_the_variable_tables_are_those_of_the_roles():
    done = subprocess.run([sys.executable, ROOT / "scripts/docs", "--check"], check=False)
    assert done.returncode == 0, "run scripts/docs"


def test_every_make_target_named_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", TEXT, re.MULTILINE))
    assert {name for pair in named for name in pair if name} <= targets


def test_every_tag_named_exists():
    playbooks = [ROOT / "deploy.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]
    plays = [play for path in playbooks for play in yaml.safe_load(path.read_text())]
    tags: set[str] = set()

    def collect(tasks: list) -> None:
        for task in tasks:
            tags.update(task.get("tags", []))
            collect(task.get("block", []))

    for play in plays:
        collect(play.get("tasks", []))
    named = set(re.findall(r"--tags[ =]([a-z_]+)", TEXT))
    assert named
    assert named <= tags


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_relative_link_resolves(page):
    links = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text())
    missing = [link for link in links if not (page.parent / link).exists()]
    assert missing == []


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings have on the web."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    words = [re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings]
    return {each.replace(" ", "-") for each in words}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_to_a_heading_finds_it(page):
    """Regression: a section that a page linked to had been lost in a merge."""
    links = re.findall(r"\]\((?!https?:)([^)#]*)#([^)]+)\)", page.read_text())
    targets = [(page.parent / name if name else page, anchor) for name, anchor in links]
    missing = [
        f"{target.name}#{anchor}"
        for target, anchor in targets
        if target.suffix == ".md" and anchor not in anchors(target)
    ]
    assert missing == []


RECIPES = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/ENTRY.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.split("\n")[0])
def test_every_recipe_of_the_entry_point_is_fit(recipe):
    values = yaml.safe_load(recipe)
    assert validate(site(app=values.pop("stack_app", {}), **values)) == []
    assert not values.keys() - specification().keys()
