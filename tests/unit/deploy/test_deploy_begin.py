"""deploy_begin: what it finds of a stack, whether anything is to do, and the lock."""

from __future__ import annotations

import json
from types import SimpleNamespace

import deploy_begin
import pytest
from ansible_collections.crisper.stack.plugins.module_utils.deploy.begin import Stack
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from ansible_collections.crisper.stack.plugins.module_utils.rollout.plan import Container
from journal_runs import OWNER, acting, end_process


def owner(run: str) -> dict[str, str]:
    return {"id": run, "who": "ops", "controller": "laptop", "process": "1@2"}


@pytest.fixture
def no_docker(tmp_path) -> str:
    return str(tmp_path / "no-docker")


def test_deploy_begin_locks_a_stack_that_is_new(run_module, tmp_path, no_docker):
    seen = run_module(
        deploy_begin,
        root=str(tmp_path / "stack"),
        project="unit",
        owner=owner("first"),
        inputs="abc",
        docker_cli=no_docker,
    )
    assert (seen["unchanged"], seen["locked"], seen["held"]) == (False, True, {})
    again = run_module(
        deploy_begin,
        root=str(tmp_path / "stack"),
        project="unit",
        owner=owner("second"),
        docker_cli=no_docker,
    )
    assert (again["locked"], again["held"]["run"]) == (False, "first")
    over = run_module(
        deploy_begin,
        root=str(tmp_path / "stack"),
        project="unit",
        owner=owner("second"),
        dead="first",
        docker_cli=no_docker,
    )
    assert over["locked"]
    assert (over["unfinished"]["run"], over["unfinished"]["step"]) == ("first", "begin")


def test_deploy_begin_refuses_while_a_process_of_a_dead_run_acts(run_module, tmp_path, no_docker):
    """Regression: it ended the journal of the deploy that was cut off, which was forgotten then."""
    actor = acting(tmp_path, "first")
    asked = {"root": str(tmp_path), "project": "unit", "docker_cli": no_docker}
    try:
        seen = run_module(
            deploy_begin, owner=owner("second"), dead="first", quiet_timeout=0, **asked
        )
        assert seen["failed"]
        assert "a process of it still acts" in seen["msg"]
        assert "This run has changed nothing." in seen["msg"]
        assert Journal(tmp_path, "second").lock()["run"] == "first"
    finally:
        actor.kill()
        actor.wait()
    assert run_module(deploy_begin, owner=owner("third"), dead="first", **asked)["unfinished"]


def test_a_deploy_begin_that_fails_gives_the_lock_back(run_module, tmp_path, no_docker):
    seen = run_module(
        deploy_begin,
        root=str(tmp_path),
        project="unit",
        owner=owner("first"),
        fitness={"nonsense": True},
        docker_cli=no_docker,
    )
    assert seen["failed"]
    assert Journal(tmp_path, "x").lock() == {}


def test_a_folder_that_cannot_be_written_is_told(run_module, tmp_path, no_docker):
    (tmp_path / "file").touch()
    root = str(tmp_path / "file" / "stack")
    asked = {"project": "unit", "owner": owner("first"), "docker_cli": no_docker}
    seen = run_module(deploy_begin, root=root, **asked)
    assert seen["failed"]
    assert f"The lock of the stack in {root} cannot be written" in seen["msg"]
    assert "stack_root" in seen["msg"]


def test_a_database_that_is_behind_is_something_to_do(run_module, tmp_path, no_docker):
    (tmp_path / "current").mkdir()
    manifest = {"id": "r", "inputs": "abc", "database_behind": "/b/r.dump"}
    (tmp_path / "current" / "manifest.json").write_text(json.dumps(manifest))
    asked = {"root": str(tmp_path), "project": "unit", "owner": owner("x"), "inputs": "abc"}
    seen = run_module(deploy_begin, docker_cli=no_docker, check_mode=True, **asked)
    assert (seen["unchanged"], seen["database_behind"]) == (False, "/b/r.dump")


def test_accounts_that_had_to_wait_are_something_to_do() -> None:
    manifest = {"id": "r", "model": {"rollout": {"redis": {"kind": "stateful"}}}}
    container = Container("x", "redis-1", "redis", "r", "", "running", "healthy")
    for postponed in ("", "no connection is left"):
        stack = Stack({**manifest, "roles_postponed": postponed}, [container], [], {}, False)
        assert stack.settled == (not postponed)


def test_an_engine_that_does_not_run_is_left_to_the_role_that_starts_it(run_module, tmp_path):
    """Regression: deploy_begin failed, so that no deploy could start a stopped engine."""
    (tmp_path / "current").mkdir()
    manifest = {"id": "r", "inputs": "abc", "images": {"web": {"id": "1"}}, "docker_cli": "docker"}
    (tmp_path / "current" / "manifest.json").write_text(json.dumps(manifest))
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon' >&2\nexit 1\n")
    docker.chmod(0o755)
    asked = {"root": str(tmp_path), "project": "unit", "owner": owner("x"), "inputs": "abc"}
    seen = run_module(deploy_begin, **asked, stages={"docker": "d"}, docker_cli=str(docker))
    assert (seen["locked"], seen["unchanged"], seen["intact"]) == (True, False, False)
    assert seen["same"] == {"docker": False, "images": False}


@pytest.mark.parametrize("kind", ["stateful", "fixed"])
def test_a_certificate_that_is_due_is_something_to_do(run_module, tmp_path, tmp_path_factory, kind):
    """A release that runs from the same inputs is unchanged, unless something else is due.

    An older edition wrote `fixed` into its manifest.
    """
    (tmp_path / "current").mkdir()
    manifest = {"id": "r", "inputs": "abc", "model": {"rollout": {"web": {"kind": kind}}}}
    (tmp_path / "current" / "manifest.json").write_text(json.dumps(manifest))
    labels = {"com.docker.compose.service": "web"}
    record = {"Id": "1", "Config": {"Labels": labels}, "State": {"Status": "running"}}
    docker = tmp_path_factory.mktemp("bin") / "docker"
    docker.write_text(f"#!/bin/sh\n[ $1 = ps ] && echo 1 || echo '{json.dumps([record])}'\n")
    docker.chmod(0o755)
    asked = {"root": str(tmp_path), "project": "unit", "owner": owner("x"), "inputs": "abc"}
    asked |= {"docker_cli": str(docker), "check_mode": True}
    assert run_module(deploy_begin, **asked)["unchanged"]
    assert not run_module(deploy_begin, due=True, **asked)["unchanged"]


def test_stages_whose_inputs_are_the_same_have_nothing_to_do(run_module, tmp_path):
    (tmp_path / "current").mkdir()
    manifest = {"id": "r", "images": {"web": {"id": "sha256:1"}}, "docker_cli": "docker"}
    manifest |= {"images_inputs": "i1", "model": {"rollout": {"web": {"kind": "stateful"}}}}
    (tmp_path / "current" / "manifest.json").write_text(json.dumps(manifest))
    first = Journal(tmp_path, "first")
    first.acquire(OWNER)
    first.note("stage", host="d1")
    first.end("done")
    end_process()
    record = {"Id": "1", "Config": {"Labels": {"com.docker.compose.service": "web"}}}
    client = tmp_path / "docker"

    def same(images_there=True, **stages):
        client.write_text(
            "#!/bin/sh\ncase $1 in ps) echo 1;; "
            f"image) exit {0 if images_there else 1};; *) echo '{json.dumps([record])}';; esac\n"
        )
        client.chmod(0o755)
        asked = {"root": str(tmp_path), "project": "unit", "owner": owner("x"), "stages": stages}
        return run_module(deploy_begin, **asked, docker_cli=str(client), check_mode=True)["same"]

    assert same(docker="d1", images="i1") == {"docker": True, "images": True}
    assert same(docker="d2", images="i2") == {"docker": False, "images": False}
    assert same(docker="", images="") == {"docker": False, "images": False}
    assert not same(images_there=False, docker="d1", images="i1")["images"]
    Journal(tmp_path, "second").acquire(OWNER)
    assert same(docker="d1", images="i1") == {"docker": False, "images": True}


def test_another_image_under_the_same_tag_is_something_to_do(run_module, tmp_path, engine):
    """Regression: a new image behind an unchanged reference was noticed with no tag or switch."""
    reference = "registry.example.com/shop/backend:latest"
    (tmp_path / "current").mkdir()
    images = {"backend": {"ref": reference, "id": "sha256:1"}}
    manifest = {"id": "r", "inputs": "abc", "images": images, "images_inputs": "i1"}
    manifest |= {"model": {"rollout": {"web": {"kind": "stateful"}}}}
    (tmp_path / "current" / "manifest.json").write_text(json.dumps(manifest))
    labels = {"com.docker.compose.service": "web"}
    record = {"Id": "1", "Config": {"Labels": labels}, "State": {"Status": "running"}}
    image = {"id": "sha256:1", "labels": None}
    image["digests"] = ["registry.example.com/shop/backend@sha256:aa"]
    client = engine.folder / "docker"
    client.write_text(
        "#!/bin/sh\n"
        f"case $1 in ps) echo 1;; image) [ \"$5\" = sha256:1 ] && echo '{json.dumps(image)}';;"
        f" *) echo '{json.dumps([record])}';; esac\n"
    )
    client.chmod(0o755)
    asked = {"root": str(tmp_path), "project": "unit", "owner": owner("x"), "inputs": "abc"}
    asked |= {"docker_cli": str(client), "check_mode": True, "stages": {"images": "i1"}}
    asked |= {"docker_socket": engine.socket_path, "references": [reference]}

    engine.has[reference] = (200, {"Descriptor": {"digest": "sha256:aa"}})
    seen = run_module(deploy_begin, **asked)
    assert (seen["unchanged"], seen["moved"]) == (True, {})
    assert engine.asked == [reference]

    engine.has[reference] = (200, {"Descriptor": {"digest": "sha256:bb"}})
    seen = run_module(deploy_begin, **asked)
    assert (seen["unchanged"], seen["moved"]) == (False, {reference: "sha256:bb"})
    assert not seen["same"]["images"]

    engine.has[reference] = (403, {"message": "denied: requested access"})
    seen = run_module(deploy_begin, **asked)
    assert (seen["unchanged"], seen["moved"]) == (True, {})
    assert seen["unanswered"] == {reference: "denied: requested access"}

    engine.asked.clear()
    assert run_module(deploy_begin, **asked | {"references": []})["unchanged"]
    assert not run_module(deploy_begin, **asked | {"stages": {"images": "i2"}})["same"]["images"]
    assert engine.asked == []


def test_in_check_mode_deploy_begin_only_looks(run_module, tmp_path, no_docker):
    seen = run_module(
        deploy_begin,
        check_mode=True,
        root=str(tmp_path / "stack"),
        project="unit",
        owner=owner("first"),
        docker_cli=no_docker,
    )
    assert not seen["locked"]
    assert not (tmp_path / "stack").exists()


@pytest.mark.parametrize("rules", [False, True])
def test_a_firewall_that_is_gone_is_something_to_do(tmp_path, rules):
    """An unchanged deploy looks at the rules that the last one left."""
    (tmp_path / "firewall").mkdir()
    rule = "-A CRISPER-unit -i br-1 -j DROP"
    (tmp_path / "firewall/rules.v4").write_text(f"*mangle\n{rule}\nCOMMIT\n")
    jumps = "-A PREROUTING -j CRISPER-unit\n-A OUTPUT -j CRISPER-LOCAL-unit"
    said = f"{jumps}\n{rule}" if rules else "-P PREROUTING ACCEPT"
    module = SimpleNamespace(
        params={"project": "unit"},
        get_bin_path=lambda name: name,
        run_command=lambda command: (0, said, ""),
    )
    assert deploy_begin.host_closed(module, tmp_path) is rules
    (tmp_path / "firewall/rules.v4").unlink()
    assert deploy_begin.host_closed(module, tmp_path), "nothing was closed"
