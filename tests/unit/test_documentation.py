"""What documentation says is what the code does: modules and roles alike."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(path.stem for path in (ROOT / "library").glob("*.py"))
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir() if path.is_dir())
# Keys that both sides of an option can have, and what they are when left out.
COMPARED = {"type": "str", "elements": None, "required": False, "choices": None, "default": None}


@pytest.fixture(scope="session")
def documented() -> dict[str, Any]:
    """What ansible-doc shows of every module of the repository."""
    command = [str(Path(sys.executable).with_name("ansible-doc")), "--json", *MODULES]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def differences(documented: dict[str, Any], spec: dict[str, Any], where: str = "") -> list[str]:
    """How documented options differ from those of an argument spec, suboptions included."""
    found = []
    for name in sorted(documented.keys() | spec.keys()):
        if name not in documented or name not in spec:
            found.append(f"{where}{name}: {'not documented' if name in spec else 'no such option'}")
            continue
        doc, code = documented[name], spec[name]
        for key, usual in COMPARED.items():
            told, real = doc.get(key, usual), code.get(key, usual)
            if isinstance(told, list) and isinstance(real, (list, tuple)) and key == "choices":
                told, real = sorted(told), sorted(real)
            if told != real:
                found.append(f"{where}{name}: {key} is {real!r}, documented as {told!r}")
        # Without options in the spec, suboptions describe the values of a mapping with free keys.
        if "options" in code:
            inner = f"{where}{name}."
            found += differences(doc.get("suboptions") or {}, code.get("options") or {}, inner)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_documented_options_are_those_of_the_argument_spec(
    name: str, documented: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(name)
    seen: dict[str, Any] = {}

    def argument_spec_of(argument_spec: dict[str, Any], **_: Any) -> None:
        seen.update(argument_spec)
        raise SystemExit

    monkeypatch.setattr(module, "AnsibleModule", argument_spec_of)
    with pytest.raises(SystemExit):
        module.main()
    assert differences(documented[name]["doc"]["options"], seen) == []


def own_options(name: str) -> dict[str, Any]:
    """Return the options that a module documents itself, without those of fragments."""
    text = re.search(
        r'DOCUMENTATION = r"""\n(.*?)"""', (ROOT / f"library/{name}.py").read_text(), re.S
    )
    assert text
    return yaml.safe_load(text[1]).get("options") or {}


def test_an_option_of_three_modules_is_documented_once() -> None:
    """In plugins/doc_fragments/crisper.py."""
    where: dict[str, list[str]] = {}
    for name in MODULES:
        for option, text in own_options(name).items():
            where.setdefault(f"{option}: {json.dumps(text, sort_keys=True)}", []).append(name)
    assert {option: names for option, names in where.items() if len(names) > 2} == {}


@pytest.mark.parametrize("name", MODULES)
def test_a_module_has_an_example_of_itself_and_tells_what_it_returns(
    name: str, documented: dict[str, Any]
) -> None:
    tasks = yaml.safe_load(documented[name]["examples"])
    assert any(name in task for task in tasks)
    for key, told in (documented[name]["return"] or {}).items():
        assert told.get("description"), key
        assert told.get("type"), key


def variables(specs: dict[str, Any]) -> dict[str, Any]:
    """Options of a role."""
    return specs["variables"]["options"] or {}


def test_role_stack_alone_checks_the_variables_of_roles() -> None:
    """Ansible would check an entry point that is named like a file of tasks, before each call."""
    for role in ROLES:
        specs = yaml.safe_load((ROOT / "roles" / role / "meta/argument_specs.yml").read_text())
        assert list(specs["argument_specs"]) == ["variables"], role
        assert not (ROOT / "roles" / role / "tasks/variables.yml").exists()
    files = [ROOT / "deploy.yml", *(ROOT / "playbooks").glob("*.yml")]
    files += (ROOT / "roles").rglob("*.yml")
    assert not [path for path in files if "rolespec_validate" in path.read_text()]


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_specification_names_exactly_its_defaults(role: str) -> None:
    folder = ROOT / "roles" / role
    text = (folder / "defaults" / "main.yml").read_text()
    defaults = set(yaml.safe_load(text) or {})
    # a required variable has no default; it stands there commented, as `# name: required, ...`
    commented = set(re.findall(r"^# (\w+):", text, re.MULTILINE))
    specs = yaml.safe_load((folder / "meta" / "argument_specs.yml").read_text())["argument_specs"]
    options = variables(specs)
    required = {name for name, option in options.items() if option.get("required")}
    assert required <= commented, "required, but not named in defaults/main.yml"
    assert set(options) - required == defaults - required


@pytest.mark.parametrize("role", ROLES)
def test_a_roles_variables_carry_its_name(role: str) -> None:
    text = (ROOT / "roles" / role / "defaults" / "main.yml").read_text()
    # Names that all roles share are marked where they stand, and only in role stack.
    shared = set(re.findall(r"^(\w+):.*# noqa: var-naming\[no-role-prefix\]", text, re.MULTILINE))
    assert not shared or role == "stack"
    names = yaml.safe_load(text) or {}
    assert {name for name in names if not name.startswith(f"{role}_")} == shared


@pytest.mark.parametrize("role", ROLES)
def test_every_option_of_a_role_says_what_it_is(role: str) -> None:
    path = ROOT / "roles" / role / "meta" / "argument_specs.yml"
    specs = yaml.safe_load(path.read_text())["argument_specs"]
    for name, option in variables(specs).items():
        assert option.get("type"), f"{name} has no type: it would become a string"
        assert option.get("description"), f"{name} is not described"
