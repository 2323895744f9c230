"""Names that no role knows, and booleans that are texts, are refused before a server is touched."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible_collections.crisper.stack.plugins.module_utils.model.variables import (
    COMMAND_LINE,
    RENAMED,
    name_problems,
    reserved_prefixes,
)
from hypothesis import given, settings
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]
MEANT = {
    "stack_http_prt": "stack_http_port",
    "stack_ap": "stack_app",
    "celery_wokers": "celery_workers",
    "celery_drain_time": "celery_drain_timeout",
    "image_cache_dir": "images_cache_dir",
    "mariadb_enable": "mariadb_enabled",
    "begin_enable": "begin_enabled",
    "release_kep": "release_keep",
}


@cache
def options() -> dict[str, dict[str, Any]]:
    """Name to option of every variable of every role."""
    found: dict[str, dict[str, Any]] = {}
    for path in (ROOT / "roles").glob("*/meta/argument_specs.yml"):
        for entry in yaml.safe_load(path.read_text())["argument_specs"].values():
            found |= entry.get("options") or {}
    return found


@cache
def prefixes() -> set[str]:
    """Beginnings of names that are reserved."""
    return reserved_prefixes([path.name for path in (ROOT / "roles").iterdir()], options())


def booleans() -> list[str]:
    """Top-level variables of type bool."""
    return sorted(name for name, option in options().items() if option["type"] == "bool")


def play(*arguments: str, playbook: str = "deploy.yml") -> tuple[int, str]:
    """Exit code and output of the checks of a deploy, one line per finding."""
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *(playbook, "--tags", "always", *arguments),
        ],
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


# --- Names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "meant"), MEANT.items())
def test_a_mistyped_name_is_told_with_the_one_that_was_meant(name, meant):
    (problem,) = name_problems({name: "vars.yml:3"}, options(), prefixes())
    assert problem.startswith(f"{name} (vars.yml:3): no role knows this variable")
    assert f"did you mean {meant}?" in problem


def test_a_helper_of_the_operator_is_told_to_take_another_prefix():
    (problem,) = name_problems({"stack_owner_team": ""}, options(), prefixes())
    assert "did you mean" not in problem
    assert "does not begin with stack_" in problem


@pytest.mark.parametrize(
    "name",
    ["vault_redis_password", "ansible_host", "__stack_seed", "team", "restore_database", "release"],
)
def test_other_names_are_the_operators(name):
    assert name_problems({name: ""}, options(), prefixes()) == []


@pytest.mark.parametrize(
    ("name", "meant"),
    {
        "relase": "release",
        "Release": "release",
        "restore_databse": "restore_database",
        "backp": "backup",
        "identiy": "identity",
        "signingkey": "signing_key",
        "foriegn": "foreign",
        "recreate_volume": "recreate_volumes",
        "stack_host": "stack_hosts",
        "down_delete_date": "down_delete_data",
    }.items(),
)
def test_a_mistyped_name_of_the_command_line_is_refused(name, meant):
    """Regression: `--tags rollback -e relase=<id>` put another release back, without a word."""
    names = {name: "CLI option '-e'"}
    (problem,) = name_problems(names, options(), prefixes(), command_line=names)
    assert problem.startswith(f"{name} (CLI option '-e'): no role knows this variable")
    assert f"did you mean {meant}?" in problem
    if "_" not in name:  # in the inventory it is the operator's
        assert name_problems(names, options(), prefixes()) == []


@pytest.mark.parametrize("name", [*sorted(COMMAND_LINE), "team", "x", "build", "data", "revision"])
def test_other_names_of_the_command_line_are_taken(name):
    assert name_problems({name: ""}, options(), prefixes(), command_line={name}) == []


def test_an_old_name_is_refused_with_the_new_one():
    for old, new in RENAMED.items():
        assert old not in options()
        assert new in options()
        (problem,) = name_problems({old: "own.yml:3"}, options(), prefixes())
        assert problem == f"{old} (own.yml:3): this variable is {new} now: rename it."


def test_the_name_of_the_fact_is_refused():
    """From the command line it would replace the fact of every run."""
    (problem,) = name_problems({"deploy": "", "deployer": ""}, options(), prefixes())
    assert problem == "deploy: this is the name of a fact of every run: choose another."


def test_no_variable_of_a_role_is_refused():
    assert name_problems(dict.fromkeys(options(), ""), options(), prefixes()) == []


@settings(deadline=None)
@given(st.text())
def test_any_name_is_one_printable_sentence(name):
    for problem in name_problems({f"stack_{name}": "x"}, options(), prefixes()):
        assert problem.isprintable()


def test_every_variable_that_playbooks_refer_to_is_known():
    playbooks = [ROOT / "deploy.yml", *(ROOT / "playbooks").glob("*.yml")]
    text = "\n".join(path.read_text() for path in playbooks)
    text += "\n".join(path.read_text() for path in (ROOT / "roles").glob("*/defaults/main.yml"))
    named = set(re.findall(r"\{\{ (\w+) \| default", text))
    assert {"stack_hosts", "restore_database"} <= named
    assert {each for each in named if each not in options()} <= COMMAND_LINE | {"inventory_dir"}
    assert name_problems(dict.fromkeys(named, ""), options(), prefixes()) == []


# --- As operators set them ---------------------------------------------------------------------


@pytest.mark.parametrize("playbook", ["deploy.yml", "playbooks/backup.yml"])
def test_all_findings_of_all_roles_are_one_list(tmp_path, playbook):
    """Regression: undefined variables, wrong types and the others came one after the other."""
    site = tmp_path / "site"
    (site / "group_vars/all").mkdir(parents=True)
    (site / "hosts.yml").write_text("stack: {hosts: {app-1: {ansible_connection: local}}}")
    local = (ROOT / "inventories/local/group_vars/all/stack.yml").read_text()
    (site / "group_vars/all/stack.yml").write_text(local)
    own = site / "group_vars/all/zz_own.yml"  # after stack.yml, which it overrides
    own.write_text(
        "---\nteam: ours\ncelery_wokers: []\nbegin_enabled: 'no'\ngate_break: x\n"
        "celery_workers:\n- name: default\n  queues: default\n  concurency: 2\n"
        'stack_bind_address: "{{ nowhere }}"\nimage_source: registy\n'
        "stack_secrets: hunter2\nverify_paths: [health]\ndocker_source: distr\n"
    )
    code, output = play(
        *("-i", str(site), "-e", "stack_http_prt=8080", "-e", "docker_live_restore=false"),
        *("-e", '{"deploy": {}}', "-e", "stack_server_names=a.example"),
        *("-e", json.dumps({"stack_http_port": 0, "stack_app": {}})),
        playbook=playbook,
    )
    assert code == 2
    assert "hunter2" not in output
    findings = [text for _, text in re.findall(r"^(\d+)\. (.*)$", output, re.MULTILINE)]
    beginnings = (
        f"celery_wokers ({own}:3): no role knows this variable: did you mean celery_workers?",
        "deploy (CLI option '-e'): this is the name of a fact",
        f"gate_break ({own}:5): this variable is begin_break now: rename it.",
        "stack_http_prt (CLI option '-e'): no role knows",
        "stack_bind_address refers to nowhere, which is not set",
        "begin_enabled is 'no': give true or false",
        "celery_workers[0].queues is 'default': give a list of texts, such as [default].",
        "celery_workers[0].concurency: celery_workers[0] has no such key: did you mean concu",
        "docker_live_restore is 'false': give true or false (on the command line as JSON:",
        "docker_source is 'distr': did you mean distro? choose auto, docker, distro, present.",
        "stack_secrets has a value of another type: give a mapping.",
        "stack_server_names is 'a.example': give a list of texts, such as [a.example].",
        "stack_http_port is 0: give a port from 1 to 65535.",
        "image_source is 'registy': choose auto, registry or local.",
        "stack_app is not set: describe the application",
        "verify_paths[0] is 'health': give a path such as /health",
    )
    for number, (finding, beginning) in enumerate(zip(findings, beginnings, strict=False)):
        assert finding.startswith(beginning), number
    assert len(findings) == len(beginnings)
    assert findings[6].endswith(f" Set in {own}:8.")
    assert findings[12].endswith(" Set in CLI option '-e'.")
    assert re.findall(r"^TASK \[(.*)\]", output, re.MULTILINE) == [
        "stack : Check the variables of all roles"
    ]


@pytest.mark.parametrize("playbook", ["deploy.yml", "playbooks/status.yml"])
def test_undefined_variables_are_named_before_anything_else(playbook):
    """Ansible's validation would end with the first one, unnamed, and show a part of the secret."""
    values = {"stack_http_port": "{{ nowhere }}"}
    values["stack_secrets"] = {"postgres_password": "hunter2 {{ nothing }}"}
    code, output = play("-e", json.dumps(values), playbook=playbook)
    assert code == 2
    tasks = re.findall(r"^TASK \[(.*)\]", output, re.MULTILINE)
    assert tasks == ["stack : Check the variables of all roles"]
    assert "1. stack_http_port refers to nowhere, which is not set: set it, or" in output
    assert "2. stack_secrets.postgres_password cannot be resolved" in output
    assert "hunter2" not in output


@pytest.mark.parametrize("tags", ["rollback", "always"])
def test_a_mistyped_release_ends_a_rollback_before_it_begins(tags):
    code, output = play("--tags", tags, "-e", "relase=20260101T000000Z-abc")
    assert code == 2
    assert "1. relase (CLI option '-e'): no role knows this variable" in output
    assert "did you mean release?" in output
    assert re.findall(r"^TASK \[(.*)\]", output, re.MULTILINE) == [
        "stack : Check the variables of all roles"
    ]


def test_documented_texts_of_the_command_line_are_taken():
    code, output = play(
        *("-e", "restore_database=true", "-e", "images_cache_save=false"),
        *(
            "-e",
            "restore_confirmed=true",
            "-e",
            "stack_become=false",
            "-e",
            "verify_canary_timeout=4",
        ),
        *("-e", "release_keep=3", "-e", "down_delete_data=no"),
    )
    assert code == 0, output


def test_facts_and_variables_of_plays_do_not_count(tmp_path):
    playbook = tmp_path / "play.yml"
    playbook.write_text(
        yaml.safe_dump(
            [
                {
                    "hosts": "stack",
                    "gather_facts": False,
                    "vars": {"verify_play": "x"},
                    "tasks": [
                        {"ansible.builtin.set_fact": {"verify_before": 1}},
                        {"ansible.builtin.debug": {"msg": "x"}, "register": "verify_seen"},
                        {"ansible.builtin.import_role": {"name": "stack"}},
                    ],
                }
            ]
        )
    )
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", str(ROOT / "inventories/local"), str(playbook)),
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_numbers_of_the_command_line_are_numbers_to_the_timer_of_backups(tmp_path):
    """Regression: `-e backup_keep=3` failed each night, as max(1, "3") in the timer's process."""
    playbook = tmp_path / "play.yml"
    role = ROOT / "roles/backup"
    settings = "{{ __backup_settings | combine({'root': '/x', 'project': 'x'}) | to_json }}"
    tasks = [
        {"ansible.builtin.include_vars": str(role / "vars/main.yml")},
        {"ansible.builtin.copy": {"content": settings, "dest": f"{tmp_path}/backup.json"}},
    ]
    play = {"hosts": "all", "gather_facts": False, "tasks": tasks}
    play["vars"] = {"deploy": {"docker_cli": "docker"}}
    play["vars_files"] = [str(role / "defaults/main.yml")]
    playbook.write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [
            str(Path(sys.executable).with_name("ansible-playbook")),
            *("-i", "localhost,", "-c", "local", str(playbook)),
            *("-e", "backup_keep=3", "-e", "backup_keep_days=1.5", "-e", "backup_timeout=60"),
            *("-e", "stack_root=/x", "-e", "stack_name=x"),
            *("-e", f"ansible_python_interpreter={sys.executable}"),
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    written = json.loads((tmp_path / "backup.json").read_text())
    assert (written["keep"], written["keep_days"], written["timeout"]) == (3, 1.5, 60)
