"""A call that cannot mean what its operator wants is an error, before any server is contacted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible_collections.crisper.stack.plugins.module_utils.playbook.call import (
    LOCKED,
    TAKEN_FOR_TAGS,
    hosts_problem,
    inventory_problem,
    nearest,
    sort_by_likeness,
    tag_problem,
)

ROOT = Path(__file__).resolve().parents[3]
PLAYBOOKS = sorted(str(path.relative_to(ROOT)) for path in (ROOT / "playbooks").glob("*.yml"))
# A server that answers nothing: no call of these tests may contact one.
SITE = """
web: {hosts: {web-1: {}, web-2: {}}}
stack: {hosts: {app-1: {}}}
all: {vars: {ansible_host: 127.0.0.1, ansible_port: 1}}
"""
REFUSED = 5


@pytest.fixture
def site(tmp_path: Path) -> str:
    """An inventory with two groups."""
    path = tmp_path / "hosts.yml"
    path.write_text(SITE)
    return str(path)


def play(*arguments: str, **environment: str) -> tuple[int, str]:
    """Exit code and output of ansible-playbook in this repository."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible-playbook")), *arguments],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def test_names_are_sorted_by_likeness():
    assert sort_by_likeness("rollbck", ["a", "rollout", "rollback"])[0] == "rollback"
    assert sort_by_likeness("x", ["b", "a"]) == ["a", "b"]
    assert nearest("rollbck", ["verify", "rollback"], 0.6) == "rollback"
    assert nearest("zzz", ["verify"], 0.6) == nearest("zzz", []) == ""


def test_tags_that_exist_and_those_of_ansible_are_no_problem():
    assert tag_problem("deploy.yml", "--tags", ["plan", "all", "tagged"], {"plan"}) == ""
    assert inventory_problem([], ["inventories/local"]) == ""


def test_a_playbook_without_tags_says_so():
    assert "It has no tags" in tag_problem("down.yml", "--tags", ["x"], {"always"})


def test_a_playbook_that_is_taken_for_a_tag_is_named():
    told = tag_problem("deploy.yml", "--tags", ["status"], ["plan", "verify"])
    assert "\nstatus is a playbook: ansible-playbook playbooks/status.yml\n" in told
    for name in TAKEN_FOR_TAGS:
        assert (ROOT / f"playbooks/{name}.yml").is_file()


def test_an_inventory_without_any_group_is_described():
    problem = hosts_problem("stack", "", [], {}, ["a", "b"])
    assert "a, b has no host in 'stack'" in problem
    assert "Its groups, nearest first: none." in problem


# --- As operators call it ----------------------------------------------------------------------


@pytest.mark.parametrize("option", ["--tags", "--skip-tags"])
def test_an_unknown_tag_is_an_error_with_the_nearest_first(option, site):
    """Regression: `--tags rollbck` ended well and did nothing."""
    code, output = play("-i", site, "deploy.yml", option, "rollbck")
    assert code == REFUSED
    assert f"{option} rollbck: deploy.yml has no such tag" in output
    assert "nearest first: rollback, rollout" in output
    assert "PLAY [" not in output


@pytest.mark.parametrize(
    ("option", "tags", "said"),
    [
        ("--tags", "never", "Name the tags that you mean"),
        ("--skip-tags", "always", "Name the tags that you mean"),
        ("--skip-tags", "docker,verify", "that would skip the lock of deploy.yml too"),
        ("--skip-tags", "finish", "passed over by itself"),
    ],
)
def test_tags_that_would_take_the_safeguards_away_are_refused(option, tags, said, site):
    code, output = play("-i", site, "deploy.yml", option, tags)
    assert code == REFUSED
    assert said in output


def test_stages_without_the_lock_may_be_skipped():
    known = LOCKED | {"verify", "preflight"}
    assert tag_problem("deploy.yml", "--skip-tags", {"verify", "preflight"}, known) == ""
    assert tag_problem("backup.yml", "--skip-tags", {"finish"}, {"finish", "backup"}) == ""


@pytest.mark.parametrize("option", ["--list-tags", "--syntax-check", "--list-hosts"])
def test_what_only_lists_goes_on_working(option, site):
    assert play("-i", site, "deploy.yml", option)[0] == 0


@pytest.mark.parametrize("playbook", ["deploy.yml", *PLAYBOOKS])
def test_an_inventory_that_is_not_there_is_an_error(playbook, site):
    """Regression: a warning, "no hosts matched" and exit code 0."""
    code, output = play("-i", site, "-i", "inventories/locl", playbook)
    assert code == REFUSED
    assert "-i inventories/locl: there is no such file" in output
    assert "nearest first: inventories/local, inventories/example" in output


@pytest.mark.parametrize("playbook", ["deploy.yml", *(p for p in PLAYBOOKS if "engine" not in p)])
def test_a_play_without_hosts_is_an_error(playbook, site):
    code, output = play("-i", site, playbook, "-e", "stack_hosts=wbe")
    assert code == REFUSED
    assert "no host in 'wbe'" in output
    assert "nearest first: web (2 hosts), stack (1 host)" in output
    assert "-e stack_hosts=<group>" in output


def test_a_limit_that_leaves_no_host_is_an_error(site):
    code, output = play("-i", site, "deploy.yml", "--limit", "web-1")
    assert code == REFUSED
    assert "--limit web-1 leaves no host of 'stack'" in output
    assert "Hosts of 'stack'" in output
    assert "app-1" in output


def test_a_limit_that_no_host_has_is_ansibles_own_error(site):
    code, output = play("-i", site, "deploy.yml", "--limit", "nope")
    assert code != 0
    assert "ignoring: nope" in output


def test_other_playbooks_are_not_judged_not_even_those_that_import_ours(tmp_path, site):
    """A wrapper may add hosts, include tasks with tags, or limit one of several deploys."""
    other = tmp_path / "other.yml"
    other.write_text("[{hosts: nowhere, gather_facts: false, tasks: []}]")
    assert play("-i", site, str(other))[0] == 0
    importing = tmp_path / "importing.yml"
    importing.write_text(
        f"[{{import_playbook: {ROOT}/deploy.yml, vars: {{stack_hosts: nowhere}}}}]"
    )
    code, output = play("-i", site, str(importing), "--tags", "nope", "--skip-tags", "notest")
    assert code == 0, output


def test_a_tag_that_one_of_several_playbooks_has_is_known(site):
    code, output = play(
        *("-i", site, "deploy.yml", "playbooks/status.yml", "--tags", "requeue"),
        *("-e", "stack_hosts=nowhere"),
    )
    assert code == REFUSED
    assert "no such tag" not in output


def test_this_machine_needs_no_inventory(tmp_path):
    """`engine.yml` is for localhost, which is there without an inventory."""
    empty = tmp_path / "hosts.yml"
    empty.write_text("{}")
    code, output = play("-i", str(empty), "playbooks/engine.yml", "--list-tasks")
    assert code == 0, output
