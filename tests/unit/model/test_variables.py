"""Names that no role knows, and booleans that are texts, are refused before a server is touched."""

from __future__ import annotations

import json
import math
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
    CONVERTED,
    RENAMED,
    key_problems,
    kind_problems,
    name_problems,
    reserved_prefixes,
)
from hypothesis import given
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
    assert name_problems(dict.fromkeys(named, ""), options(), prefixes()) == []


# --- Booleans ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", booleans())
@pytest.mark.parametrize("value", ["false", "no", "", 0, 1, None, [True]])
def test_every_boolean_of_every_role_refuses_all_else(name, value):
    """Regression: `-e begin_enabled=false` was taken for true."""
    problems = kind_problems({name: value}, options())
    if name in CONVERTED:
        assert problems == []
        return
    assert len(problems) == 1
    assert problems[0].startswith(f"{name} is {value!r}: give true or false")
    assert f'"{name}": {"false" if value in ("false", "no", 0) else "true"}' in problems[0]


def test_booleans_are_taken_and_those_within_mappings_and_lists_are_judged():
    assert kind_problems(dict.fromkeys(booleans(), True), options()) == []
    inner = {"on": {"type": "bool"}, "name": {"type": "str"}}
    specs = {
        "x_map": {"type": "dict", "options": inner},
        "x_list": {"type": "list", "elements": "dict", "options": inner},
        "x_flags": {"type": "list", "elements": "bool"},
    }
    values = {"x_map": {"on": "no"}, "x_list": [{"on": False}, {"on": "x"}], "x_flags": [True, "y"]}
    told = [problem.partition(" is ")[0] for problem in kind_problems(values, specs)]
    assert told == ["x_flags[1]", "x_list[1].on", "x_map.on"]


def test_numbers_within_lists_are_numbers():
    """Regression: the engine does not start with an address pool of the size "24"."""
    pools = {"docker_address_pools": [{"base": "10.200.0.0/16", "size": "24"}]}
    (problem,) = kind_problems(pools, options())
    assert problem == "docker_address_pools[0].size is '24': give a number, without quotes."
    assert (
        kind_problems({"verify_canary_timeout": "4", "verify_closed_ports": [1]}, options()) == []
    )


def test_booleans_that_are_converted_are_so_wherever_they_are_used():
    for name in CONVERTED:
        uses = [
            line
            for path in (ROOT / "roles").glob("*/tasks/*.yml")
            for line in path.read_text().splitlines()
            if re.search(rf"\b{name}\b", line) and f"{name}=" not in line
        ]
        assert uses
        assert all(f"{name} | bool" in line for line in uses), uses


# --- As operators set them ---------------------------------------------------------------------


def test_all_findings_are_one_step_with_the_others(tmp_path):
    site = tmp_path / "site"
    (site / "group_vars/all").mkdir(parents=True)
    (site / "hosts.yml").write_text("stack: {hosts: {app-1: {ansible_connection: local}}}")
    local = (ROOT / "inventories/local/group_vars/all/stack.yml").read_text()
    (site / "group_vars/all/stack.yml").write_text(local)
    own = site / "group_vars/all/own.yml"
    own.write_text("---\nteam: ours\ncelery_wokers: []\nbegin_enabled: 'no'\ngate_break: x\n")
    code, output = play(
        *("-i", str(site), "-e", "stack_http_prt=8080", "-e", "docker_live_restore=false"),
        *("-e", '{"deploy": {}}'),
        *("-e", json.dumps({"stack_http_port": 0, "stack_app": {}})),
    )
    assert code == 2
    findings = dict(re.findall(r"^(\d+)\. (.*)$", output, re.MULTILINE))
    told = list(findings.values())
    assert told[0].startswith(f"celery_wokers ({own}:3): no role knows this variable")
    assert told[1].startswith("deploy (CLI option '-e'): this is the name of a fact")
    assert told[2] == f"gate_break ({own}:5): this variable is begin_break now: rename it."
    assert told[3].startswith("stack_http_prt (CLI option '-e'): no role knows")
    assert told[4].startswith("begin_enabled is 'no'")
    assert told[5].startswith("docker_live_restore is 'false'")
    assert any(finding.startswith("stack_http_port is 0") for finding in told)
    assert output.count("TASK [stack : Model | Check the stack's variables]") == 1


@pytest.mark.parametrize("playbook", ["deploy.yml", "playbooks/status.yml"])
def test_undefined_variables_are_named_before_anything_else(playbook):
    """Ansible's validation would end with the first one, unnamed, and show a part of the secret."""
    values = {"stack_http_port": "{{ nowhere }}"}
    values["stack_secrets"] = {"postgres_password": "hunter2 {{ nothing }}"}
    code, output = play("-e", json.dumps(values), playbook=playbook)
    assert code == 2
    tasks = re.findall(r"^TASK \[(.*)\]", output, re.MULTILINE)
    assert tasks == ["stack : Check for undefined variables"]
    assert "1. stack_http_port refers to nowhere, which is not set: set it, or" in output
    assert "2. stack_secrets.postgres_password cannot be resolved" in output
    assert "hunter2" not in output


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


def test_numbers_that_are_texts_are_compared_as_numbers():
    """Regression: '30' >= '397' compares texts, and '30' >= 397 is an error of Python's."""
    text = (ROOT / "roles/tls/tasks/check.yml").read_text()
    assert "tls_renew_days | int >= tls_days | int" in text


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"stack_app": {"enviroment": {}}},
            "stack_app.enviroment: stack_app has no such key: did you mean environment?",
        ),
        (
            {"celery_workers": [{}, {"concurency": 2}]},
            "celery_workers[1].concurency: celery_workers[1]"
            " has no such key: did you mean concurrency? It has concurrency, cpus, memory, name",
        ),
        ({"stack_app": {"web": {"zzz": 1}}}, "stack_app.web has no such key: remove it."),
    ],
)
def test_a_key_that_there_is_not_is_one_sentence_with_the_nearest(values, said):
    """Regression: 13 KB with the whole specification, and no "did you mean"."""
    (problem,) = key_problems(values, options())
    assert said in problem


def test_keys_of_ones_own_are_no_problem():
    own = {"stack_app": {"environment": {"ANY": 1}, "secret_environment": {"X": "y"}}}
    assert key_problems(own | {"stack_secrets": {"mine": "x"}, "image_refs": {}}, options()) == []


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ({"web": True}, "stack_app.web is True: give a mapping."),
        ({"web": b"x"}, "stack_app.web is b'x': give a mapping."),
        ({"web": "port=8000"}, "stack_app.web is 'port=8000': give a mapping."),
        ({"locations": 16}, "stack_app.locations is 16: give a list of mappings."),
        ({"locations": b"x"}, "stack_app.locations is b'x': give a list of mappings."),
        ({"locations": [None]}, "stack_app.locations[0] is None: give a mapping."),
        (
            {"locations": [{"rate_limit": 1}]},
            "stack_app.locations[0].rate_limit is 1: give a mapping.",
        ),
        ({"web": {"replicas": math.inf}}, "stack_app.web.replicas is inf: give a whole number."),
        ([], "stack_app is []: give a mapping."),
    ],
)
def test_what_is_no_mapping_is_told_by_its_place(value: Any, problem: str) -> None:
    """Regression: Ansible's validation ended with "argument of type 'bool' is not iterable"."""
    assert key_problems({"stack_app": value}, options()) == [problem]


def test_what_is_unset_or_json_text_has_no_shape() -> None:
    assert key_problems({"stack_app": {"frontend": None, "locations": []}}, options()) == []
    assert key_problems({"stack_app": '{"name": "a"}'}, options()) == []
