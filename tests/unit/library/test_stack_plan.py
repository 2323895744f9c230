"""stack_plan and the digests that decide whether anything is to be done."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import release
import stack_plan
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import (
    irreversible_after,
)

ROOT = Path(__file__).resolve().parents[3]
SPEC = importlib.util.spec_from_file_location("crisper", ROOT / "plugins/filter/crisper.py")
assert SPEC
assert SPEC.loader
filters = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(filters)

SENTINEL = "sentinel-secret-77aa"
COMPOSE = "services:\n  backend:\n    image: unit/backend:${RELEASE}\n"
SERVICES = {"redis": {"kind": "stateful"}, "backend": {"kind": "web", "replicas": 2}}


def wanted(root: Path, level: str = "info", image: str = "sha256:" + "1" * 64) -> dict:
    return {
        "root": str(root),
        "stack": "unit",
        "files": [
            {"path": "docker-compose.prod.yml", "content": COMPOSE},
            {"path": ".env", "content": "COMPOSE_FILE=docker-compose.prod.yml\n"},
        ],
        "secret_files": [{"path": ".env.prod", "content": f'PW="{SENTINEL}"\nLEVEL="{level}"\n'}],
        "images": {"backend": {"ref": "x", "id": image}},
    }


def test_on_a_host_without_docker_everything_would_be_created(run_module, tmp_path):
    plan = run_module(
        stack_plan, **wanted(tmp_path / "none"), services=SERVICES, docker_cli="/no/docker"
    )
    assert (plan["same"], plan["current"], plan["changed"]) == (False, "", False)
    assert {step["action"] for step in plan["steps"]} == {"create"}
    assert not (tmp_path / "none").exists()


@pytest.fixture
def served(run_module, tmp_path):
    """A release that serves, as the module `release` makes it."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 0\n")
    docker.chmod(0o755)
    root = tmp_path / "stack"
    run_module(release, **wanted(root), state="staged", docker_cli=str(docker))
    run_module(release, root=str(root), stack="unit", state="current", docker_cli=str(docker))
    return root, str(docker)


def test_the_plan_tells_what_differs_and_no_secret(run_module, served):
    root, docker = served
    before = sorted(root.rglob("*"))
    params = wanted(root, "debug", "")
    plan = run_module(stack_plan, **params, services=SERVICES, docker_cli=docker)
    assert plan["env_changed"] == ["~LEVEL"]
    assert plan["files_changed"] == [".env.prod"]
    assert plan["images"] == [{"name": "backend", "old": "sha256:" + "1" * 64, "new": ""}]
    assert plan["migrations"].startswith("unknown")
    told = {k: v for k, v in plan.items() if k != "invocation"}
    assert SENTINEL not in json.dumps(told)
    assert sorted(root.rglob("*")) == before


def test_the_same_release_is_told(run_module, served):
    root, docker = served
    plan = run_module(stack_plan, **wanted(root), services=SERVICES, docker_cli=docker)
    assert (plan["same"], plan["images"], plan["migrations"]) == (True, [], "none")


def test_another_migration_command_alone_is_another_release_whose_command_runs(run_module, served):
    root, docker = served
    more = {"services": SERVICES, "docker_cli": docker}
    new = {**wanted(root), "migrate": ["alembic", "upgrade", "heads"]}
    facts = {"facts": {"migrate": ["alembic", "upgrade", "head"]}}
    for expected in (True, False):
        staged = run_module(release, **wanted(root), **facts, state="staged", docker_cli=docker)
        assert staged["release"]["staged"] is expected
        assert ("migrate" in staged["facts_changed"]) is expected
        run_module(release, root=str(root), stack="unit", state="current", docker_cli=docker)
    plan = run_module(stack_plan, **new, **more)
    assert (plan["same"], plan["migrations"].split(":")[0]) == (False, "pending")
    assert "stack_app.migrate.command changed" in plan["migrations"]
    plan = run_module(stack_plan, **wanted(root), **more, migrate=facts["facts"]["migrate"])
    assert (plan["same"], plan["migrations"]) == (True, "none")


@pytest.mark.parametrize(
    ("code", "told"), [(1, "pending"), (0, "none"), (127, "unknown: stack_app.migrate.check_comm")]
)
def test_a_check_that_cannot_run_says_nothing_about_migrations(
    run_module, served, tmp_path, code, told
):
    root, _docker = served
    docker = tmp_path / "docker"
    docker.write_text(f'#!/bin/sh\ncase "$*" in *" run "*) exit {code};; esac\n')
    more = {"services": SERVICES, "docker_cli": str(docker), "check_command": ["alembik"]}
    plan = run_module(stack_plan, **wanted(root, "debug"), **more)
    assert plan["migrations"].startswith(told)


def test_a_check_reads_files_of_the_planned_release(run_module, served):
    """The folder of the release is not there yet: the check would not start, and say "pending"."""
    root, _docker = served
    docker = root.parent / "docker"
    mount = f'source: "{root}/releases/${{RELEASE}}/files/backend/0"'
    params = wanted(root, "debug")
    params["files"][0]["content"] = f"{COMPOSE}    volumes: [{{{mount}, target: /a}}]\n"
    params["secret_files"].append({"path": "files/backend/0", "content": SENTINEL, "owner": 4711})
    # What is mounted must be there, the user's alone.
    docker.write_text(
        '#!/bin/sh\ncase "$*" in *" run "*)\n'
        r"""file=$(sed -n 's/.*source: "\([^"]*\)".*/\1/p' docker-compose.prod.yml)"""
        "\n"
        '[ "$(stat -c %u:%a "$file")" = 4711:600 ];; esac\n'
    )
    more = {"services": SERVICES, "docker_cli": str(docker), "check_command": ["check"]}
    plan = run_module(stack_plan, **params, **more)
    assert plan["migrations"] == "none"
    assert "files/backend/0" in plan["files_changed"]
    assert SENTINEL not in json.dumps(plan)


@pytest.mark.parametrize(
    ("existing", "told"),
    [
        ("unit_data", "unknown: the networks unit_egress are yet to be made"),
        ("unit_data unit_egress", "pending"),
    ],
)
def test_a_plan_makes_no_network_that_the_firewall_does_not_know(
    run_module, served, tmp_path, existing, told
):
    """Regression: over an older edition's stack the check ran on a network without rules."""
    root, _docker = served
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\necho "$*" >>{tmp_path}/log\n'
        f'case "$*" in "network ls "*) echo {existing};; *" run "*) exit 1;; esac\n'
    )
    more = {"services": SERVICES, "docker_cli": str(docker), "check_command": ["check"]}
    changed = wanted(root, "debug")
    changed["files"][0]["content"] += (
        "    networks: [data, egress]\nnetworks: {data: {internal: true}, egress: {}, edge: {}}\n"
    )
    plan = run_module(stack_plan, **changed, **more)
    assert plan["migrations"].startswith(told)
    assert (" run " in (tmp_path / "log").read_text()) is (told == "pending")


def test_what_is_in_no_file_of_the_release_is_renewed_in_its_manifest(run_module, served):
    root, docker = served
    facts = {"inputs": "2", "model": {"hooks": {"after_rollback": []}}}
    given = {"root": str(root), "stack": "unit", "state": "current", "docker_cli": docker}
    assert not run_module(release, **given, facts=facts)["changed"]
    manifest = json.loads((root / "current/manifest.json").read_text())
    assert {name: manifest[name] for name in facts} == facts


@pytest.fixture
def repository(tmp_path) -> Path:
    for name in filters.CODE:
        path = tmp_path / "repository" / name
        if "." in name:
            path.write_text("x")
        else:
            (path / "sub").mkdir(parents=True)
            (path / "sub" / "file.yml").write_text("x")
    context = tmp_path / "app"
    context.mkdir()
    (context / "Dockerfile").write_text("FROM x\n")
    return tmp_path / "repository"


def test_whatever_decides_a_release_changes_the_digest_of_its_inputs(repository, tmp_path):
    contexts = [{"context": str(tmp_path / "app")}]
    of_the_host: set[str] = set()

    def digest(values: dict, bundle: str = "") -> str:
        stages = {"all": values, "docker": {}}
        digests = filters.inputs_digests(stages, str(repository), contexts, bundle, ["docker"])
        of_the_host.add(digests["docker"])
        return digests["all"]

    base = digest({"stack_name": "a"})
    assert digest({"stack_name": "a"}) == base
    seen = {base, digest({"stack_name": "b"}), digest({"stack_name": "a", "x": 1})}
    (repository / "roles/sub/file.yml").write_text("y")
    seen.add(digest({"stack_name": "a"}))
    (tmp_path / "app/new.py").write_text("")
    seen.add(digest({"stack_name": "a"}))
    (tmp_path / "app/new.py").chmod(0o755)
    seen.add(digest({"stack_name": "a"}))
    bundle = tmp_path / "ca.pem"
    for text in ("one", "two"):
        bundle.write_text(text)
        seen.add(digest({"stack_name": "a"}, str(bundle)))
    assert len(seen) == 8
    assert len(of_the_host) == 2, "only this repository's own code is something to a host"


def test_a_colleagues_checkout_in_another_folder_has_the_same_inputs(repository, tmp_path):
    """The example's build contexts are paths below its inventory."""

    def digest(folder: Path, outside: str = "") -> str:
        build = {"context": f"{folder}/inventories/production/../../app{outside}"}
        # As lookup crisper_given hands values over: JSON in JSON.
        values = {"all": {"stack_app": json.dumps({"build": build})}}
        return filters.inputs_digests(values, f"{folder}/roles/..", [])["all"]

    other = tmp_path / "a colleague's" / "crisper"
    shutil.copytree(repository, other)
    assert digest(other) == digest(repository)
    assert digest(other, "2") != digest(repository)


def test_services_are_compared_without_what_others_are_like():
    text = "services: {redis: {image: r1}, backend: {image: b1}}\nvolumes: {redis: {}}\n"
    base = filters.services_digest(text, ["redis"])
    assert filters.services_digest(text.replace("b1", "b2"), ["redis"]) == base
    assert filters.services_digest(text.replace("r1", "r2"), ["redis"]) != base


def test_a_volume_of_another_service_is_nothing_to_the_data():
    """Regression: with a new volume of web the data services were looked through for 40 s."""
    text = "services: {redis: {volumes: ['redis:/data']}}\nvolumes: {redis: {}%s}\n"
    base = filters.services_digest(text % "", ["redis"])
    assert filters.services_digest(text % ", models: {}", ["redis"]) == base
    own = (text % "").replace("redis: {}}", "redis: {labels: {a: b}}}")
    assert filters.services_digest(own, ["redis"]) != base


def test_irreversible_migrations_after_a_release_block_the_way_back():
    cut_off = {"state": "failed", "uncertain": True}
    manifests = [
        {"id": "3", "irreversible": True, "backup": {"path": "/b/3.dump"}},
        {"id": "1", "irreversible": True, "backup": {"path": "/b/1.dump"}},
        {"id": "2", "irreversible": False, "migration": {"state": "done"}},
        {"id": "4", "irreversible": True, "failed": "later", "backup": {}},
        {"id": "5", "irreversible": True, "migration": cut_off},
    ]
    assert irreversible_after(manifests, "1") == [
        {"id": "3", "backup": "/b/3.dump", "dump": {"path": "/b/3.dump"}, "unknown": False},
        {"id": "4", "backup": "", "dump": {}, "unknown": False},
        {"id": "5", "backup": "", "dump": {}, "unknown": True},
    ]


def test_a_database_image_that_cannot_open_the_data_is_refused(run_module, tmp_path):
    (tmp_path / "PG_VERSION").write_text("17\n")
    docker = tmp_path / "docker"
    docker.write_text(
        f'#!/bin/sh\ncase "$1 $*" in volume*) echo \'"{tmp_path}"\';; image*) exit 1;; esac\n'
    )
    docker.chmod(0o755)
    more = {"services": SERVICES, "docker_cli": str(docker)}
    params = wanted(tmp_path / "none")
    for reference, refused in (("postgres:18", True), ("postgres:17.6", False)):
        params["images"]["postgres"] = {"ref": reference, "id": ""}
        plan = run_module(stack_plan, **params, **more)
        assert bool(plan["refusals"]) is refused
    params["images"]["postgres"] = {"ref": "postgres:18", "id": ""}
    (told,) = run_module(stack_plan, **params, **more)["refusals"]
    assert "playbooks/upgrade.yml" in told
