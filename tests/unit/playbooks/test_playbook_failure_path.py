"""What a run does when it fails: nothing without the lock, and nothing told that was not seen."""

from __future__ import annotations

import fcntl
import json
import time
from pathlib import Path

import pytest
import yaml
from harness import ROOT, Host, Site, deployed_site


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Site, Path, Path]:
    """Return a site, its state with one release, and with a second whose migration is one-way."""
    second = tmp_path_factory.mktemp("kept") / "second"
    site, first = deployed_site("one")
    site.one.change(irreversible=True)
    site.deploy(build=2).succeeded()
    site.keep(second)
    return site, first, second


@pytest.fixture
def site(kept: tuple[Site, Path, Path]) -> Site:
    """Return a site with one release."""
    kept[0].put_back(kept[1])
    kept[0].script()
    return kept[0]


@pytest.fixture
def newer(kept: tuple[Site, Path, Path]) -> Site:
    """Return a site with two releases."""
    kept[0].put_back(kept[2])
    kept[0].script()
    return kept[0]


def test_a_stack_that_runs_without_its_link_is_not_taken_for_a_first_deploy(site: Site) -> None:
    """Regression: the failed deploy removed the containers that served, as those of a first one."""
    host = site.one
    release = host.current
    (host.root / "current").unlink()
    site.script({"point": "compose_rollout:start", "do": "fail"})
    said = site.deploy(x="2")
    said.failed(f"ln -sfn {host.root}/releases/{release} {host.root}/current")
    said.said(f"What serves: no release is the current one, but containers of {release} run")
    assert host.serving == release
    assert (host.releases, host.consuming, host.lock) == ([release], [release], {})


def test_a_begin_that_fails_leaves_the_other_run_alone(site: Site) -> None:
    """Regressions: the rescue undid another run's release, and verify judged what never served."""
    host = site.one
    site.script({"point": "deploy_ledger", "do": "controller"})
    site.deploy(x="2")
    site.script()
    before, staged, journal = host.current, host.staged, host.journal
    assert staged
    with (host.root / ".busy").open("a") as acting:
        fcntl.flock(acting, fcntl.LOCK_SH)
        said = site.deploy(x="2", begin_quiet_timeout=0)
    said.failed("a process of it still acts", "This run has no lock: deploy")
    assert "undefined" not in said.text
    assert (host.staged, host.journal) == (staged, journal)
    assert "failed" not in host.manifest(staged)

    said = site.deploy("--tags", "verify")
    said.succeeded(f"Release {staged} is staged", f"This run verifies {before}, which serves")
    assert (host.staged, host.current) == (staged, before)


def test_who_lost_the_lock_acts_on_nothing_and_says_who_has_it(site: Site) -> None:
    """Regression: the failure path undid the release of the deploy that had taken the lock."""
    host = site.one
    site.script({"point": "deploy_ledger", "do": "wait"})
    running = site.start(x="2")
    host.wait_for_point()
    before, staged = host.current, host.staged
    theirs = {"run": "theirs", "who": "kim", "purpose": "deploy", "step": "start"}
    (host.root / "lock").write_text(json.dumps({**theirs, "until": time.time() + 900}))
    host.go()
    running.wait().failed(
        "lost its lock",
        "This run has no lock: deploy theirs of kim has it (step start), and this run has undone",
    )
    assert (host.lock["run"], host.staged, host.current) == ("theirs", staged, before)
    assert not host.manifest(staged).get("failed")
    assert host.journal[-1]["step"] == "stage"


def test_a_part_of_a_deploy_is_undone_like_a_whole_one(site: Site) -> None:
    """Regression: with --tags the rescue was skipped; the lock stayed, and nothing was undone."""
    before = site.one.current
    site.deploy("--tags", "release,images,docker", x="2").succeeded()
    assert site.one.staged
    site.script({"point": "compose_rollout:replace", "do": "fail", "answer": {"msg": "no room"}})
    site.deploy("--tags", "rollout", x="2").failed(
        "no room", f"What serves: release {before}, put back and verified"
    )
    host = site.one
    assert (host.serving, host.current, host.staged, host.lock) == (before, before, "", {})
    assert host.releases == host.consuming == [before]


def test_an_undo_replaces_a_worker_that_answers_nonsense(site: Site) -> None:
    """Regression: a worker of the old release that somebody had taken over failed the undo."""
    host = site.one
    before = host.current
    hostile = next(each for each in host.engine["containers"] if each["pool"])
    host.change(hostile=[hostile["name"]])
    site.script({"point": "compose_rollout:replace", "do": "fail", "answer": {"msg": "no room"}})

    site.deploy(x="2").failed("no room", f"What serves: release {before}, put back and verified")

    assert hostile["id"] not in [each["id"] for each in host.engine["containers"]]
    assert (host.serving, host.current, host.lock) == (before, before, {})
    assert host.releases == host.consuming == [before]


def test_an_engine_that_died_is_told_and_the_next_run_goes_on(site: Site) -> None:
    """Regression: "as before" was told of an engine that nobody had asked."""
    host = site.one
    site.script({"point": "compose_rollout:cancel_consumers", "do": "wait"})
    running = site.start(x="2")
    host.wait_for_point()
    before, staged = host.current, host.staged
    host.change(up=False)
    host.go()
    said = running.wait().failed(
        "could not be checked: the engine does not answer", "Cannot connect to the Docker daemon"
    )
    said.said("Nothing was undone. Start the engine")
    assert "as before" not in said.text
    assert "still serves" not in said.text
    assert (host.lock, host.staged, host.current) == ({}, staged, before)
    host.change(up=True)
    site.deploy(x="2").succeeded("failed and could not be undone, after step")
    assert host.serving == host.current == staged
    assert host.releases == host.consuming == [staged]


def test_a_folder_that_cannot_be_written_is_told_before_anything(site: Site) -> None:
    said = site.deploy("-e", "stack_root=/sys/crisper").failed(
        "The lock of the stack in /sys/crisper cannot be written", "findmnt --target", "stack_root"
    )
    assert "Traceback" not in said.text
    assert said.text.count("changed nothing") >= 1


BACK = ("--tags", "rollback")


def without_redis(host: Host) -> None:
    """Let Redis restart in a loop."""
    containers = host.engine["containers"]
    for container in containers:
        if container["service"] == "redis":
            container["state"] = "restarting"
    host.change(containers=containers)


def test_a_rollback_that_had_only_stopped_starts_again(newer: Site) -> None:
    """Regression: recovery was skipped with the site down, and "nothing had been changed" told."""
    host = newer.one
    current, database = host.current, host.engine["database"]
    backup = host.manifest(current)["backup"]
    assert backup["sha256"]
    newer.script({"point": "database_dump:restored", "do": "kill"})
    newer.deploy(*BACK, restore_database=True, build=2).failed(
        f"What serves: release {current}, put back and verified",
        "The database: as before; the restore had changed nothing.",
    )
    assert (host.serving, host.current, host.lock) == (current, current, {})
    assert host.releases == host.consuming == [current]
    assert host.engine["database"] == database
    assert not host.manifest(current)["database_behind"]
    assert host.manifest(current)["backup"] == backup  # its checksum was lost here
    assert "database_migrate" not in host.points  # no migration was needed


def test_nobody_acts_while_a_restore_of_a_killed_rollback_goes_on(newer: Site) -> None:
    """Regression: the next deploy checked, migrated and switched under a restore that still ran."""
    host = newer.one
    newer.script({"point": "database_dump:restored", "do": "wait"})
    rollback = newer.start(*BACK, restore_database=True, build=2)
    host.wait_for_point(rollback)
    run, database = host.lock["run"], host.engine["database"]
    said = newer.deploy(build=2, begin_break=run, begin_quiet_timeout=0)
    said.failed("(step restore_database) is over or past its time", "a process of it still acts")
    assert (host.lock["run"], host.engine["database"]) == (run, database)
    host.go()
    rollback.wait().succeeded()


def test_a_rollback_that_had_restored_migrates_again(newer: Site) -> None:
    """Regression: newer code was put back on the older database without a word.

    The rollback that follows works, although Redis restarts in a loop and cannot be read.
    """
    host = newer.one
    current, database = host.current, host.engine["database"]
    newer.script({"point": "compose_rollout:replace", "do": "fail"})
    newer.deploy(*BACK, restore_database=True, build=2).failed(
        f"What serves: release {current}, put back and verified",
        "The database: restored from",
        "The migrations of the release that served are applied again",
    )
    assert (host.serving, host.current, host.lock) == (current, current, {})
    assert host.engine["database"] == database
    assert not host.manifest(current)["database_behind"]

    without_redis(host)
    answer = {"problem": "broker_unreachable", "msg": "no connection to redis"}
    newer.script({"point": "celery_skew", "do": "fail", "answer": answer, "times": 9})
    said = newer.deploy(*BACK, restore_database=True, build=2)
    said.succeeded("The queued tasks could not be compared")
    said.said("visitors saw the maintenance page meanwhile")
    assert host.points.count("celery_skew") == 1  # when the data services were up
    older = min(path.name for path in (host.root / "releases").iterdir())
    assert (host.serving, host.current, host.releases) == (older, older, [older])
    assert host.engine["database"] == database[:1]


def test_a_newer_release_waits_for_its_migrations_behind_the_page(newer: Site) -> None:
    host = newer.one
    current, database = host.current, host.engine["database"]
    older = min(path.name for path in (host.root / "releases").iterdir())
    newer.script(
        {"point": "compose_rollout:replace", "do": "fail"},
        {"point": "command:migrate", "do": "fail", "times": 2},
    )
    newer.deploy(*BACK, restore_database=True, build=2).failed(
        f"release {current} was to be put back, and that failed too",
        "The migrations of the release that served are missing in it",
        "The maintenance page stays",
        f"--tags rollback -e release={older} -e restore_database=true",
    )
    assert (host.serving, host.current, host.lock) == ("page", current, {})
    assert host.manifest(current)["database_behind"]
    newer.script()
    newer.deploy(build=2).succeeded("failed and could not be undone", "maintenance_off")
    assert set(host.engine["database"]) == set(database)
    assert not host.manifest(current)["database_behind"]


def test_a_deploy_reads_a_redis_that_ran_in_a_loop_when_it_runs(site: Site) -> None:
    answer = {"problem": "broker_unreachable", "msg": "no connection to redis"}
    containers = site.one.engine["containers"]
    for container in containers:
        if container["service"] == "redis":
            container["health"] = "unhealthy"  # and runs, between two ends
    site.one.change(containers=containers)
    site.script({"point": "celery_skew", "do": "fail", "answer": answer})
    site.deploy(x="2").succeeded("This run compares them again when the data services run")
    assert site.one.points.count("celery_skew") == 2
    assert site.one.serving == site.one.current


@pytest.fixture
def three() -> Site:
    """Return three hosts with a release."""
    return deployed_site("one", "two", "three")[0]


def test_where_one_host_fails_in_role_begin_none_is_touched(three: Site) -> None:
    site = three
    site.script({"point": "deploy_begin:after", "do": "unreachable", "host": "two"})
    site.deploy(x="2").failed("This run has changed nothing")
    for name in ("one", "three"):
        host = site.hosts[name]
        assert host.lock == {}
        assert host.serving == host.current
        assert [e["step"] for e in host.journal][-2:] == ["begin", "end"]
        assert "compose_rollout" not in host.points


def test_a_host_that_cannot_be_put_back_keeps_no_other_from_it(three: Site) -> None:
    site = three
    before = {name: host.current for name, host in site.hosts.items()}
    site.script(
        {"point": "compose_rollout:replace", "do": "fail", "host": "three"},
        {"point": "docker_compose_v2:present", "do": "fail", "host": "two"},
    )
    site.deploy(x="2").failed("that failed too")
    for name in ("one", "three"):
        host = site.hosts[name]
        assert (host.serving, host.current, host.staged) == (before[name], before[name], "")
        assert host.releases == host.consuming == [before[name]]
    assert site.two.lock == {}
    assert site.two.journal[-1]["open"]


def test_a_restore_that_had_only_stopped_starts_again(site: Site) -> None:
    """Regression: the page stayed, although nothing had been overwritten."""
    host = site.one
    current = host.current
    # Regression: after a rollback the release was compared with the inventory, and the page stayed.
    pools = yaml.safe_load((ROOT / "inventories/example/group_vars/all/stack.yml").read_text())
    pools["celery_workers"][0]["replicas"] = 2
    restore = {"playbook": "playbooks/restore.yml", "restore_confirmed": True}
    restore |= {"celery_workers": pools["celery_workers"]}
    site.script({"point": "docker_compose_v2:stopped", "do": "fail"})
    site.deploy(**restore).failed("nothing was overwritten", f"release {current}, started again")
    assert (host.serving, host.lock) == (current, {})
    # PostgreSQL, the first part, is one transaction; the module looks whether it was replaced.
    answer = {"msg": "No space left on device", "untouched": True}
    site.script({"point": "backup_set:restored", "do": "fail", "answer": answer})
    site.deploy(**restore).failed("No space left", f"release {current}, started again")
    assert (host.serving, host.lock) == (current, {})
    site.script({"point": "backup_set:restored", "do": "fail"})
    site.deploy(**restore).failed("The maintenance page stays", "run this restore again")
    assert (host.serving, host.lock, host.journal[-1]["open"]) == ("page", {}, True)
    # Regression: the data was said to be of two moments, though all of it had been restored.
    site.script({"point": "docker_compose_v2:present", "do": "fail"})
    site.deploy(**restore).failed("All data is that of the set", "The maintenance page stays")


@pytest.mark.parametrize(
    ("playbook", "bad"),
    [
        ("playbooks/restore.yml", {"verify_closed_ports": "none"}),
        ("playbooks/restore.yml", {"database_wait_timeout": "long"}),
        ("playbooks/down.yml", {"begin_quiet_timeout": "long", "down_delete_data": "true"}),
    ],
)
def test_no_playbook_acts_with_a_bad_variable(
    site: Site, playbook: str, bad: dict[str, str]
) -> None:
    """Regression: a restore named a bad variable of role verify when the data was overwritten."""
    before = site.one.engine
    site.script()

    told = site.deploy(playbook=playbook, restore_confirmed=True, **bad)

    told.failed("Check the variables of all roles", next(iter(bad)))
    assert site.one.engine == before
    assert not {"deploy_begin", "backup_set", "docker_compose_v2"} & {*site.one.points}


def test_data_of_two_moments_is_not_deployed_on(site: Site) -> None:
    """Regression: the deploy after a restore that was cut off started on half of its data."""
    host = site.one
    mark = host.root / "restoring.json"
    parts = {"postgres": "restored", "qdrant": "begun", "redis": "untouched"}
    mark.write_text(json.dumps({"set": "20261101t030000z", "parts": parts}))
    before = host.current, host.serving
    site.deploy(x="2").failed(
        "restore of the backup set 20261101t030000z did not get to its end",
        "postgres: restored; qdrant: begun and not known to be whole; redis: as before",
        "playbooks/restore.yml -e backup=20261101t030000z",
        "This run has changed nothing",
    )
    assert (host.current, host.serving, host.lock, host.staged) == (*before, {}, "")
    mark.unlink()
    site.deploy(x="2").succeeded()


def test_a_stack_is_not_taken_down_under_a_deploy(site: Site) -> None:
    host = site.one
    lock = host.root / "lock"
    theirs = {"run": "theirs", "who": "kim", "controller": "far", "process": "1@1"}
    theirs |= {"purpose": "deploy", "since": "now", "step": "start", "until": time.time() + 900}
    lock.write_text(json.dumps(theirs))
    down = {"playbook": "playbooks/down.yml", "down_delete_data": "no"}
    site.deploy(**down).failed("Deploy theirs of kim", "This run has changed nothing")
    assert (host.serving, host.lock["run"]) == (host.current, "theirs")
    lock.unlink()
    site.deploy(**down).succeeded()
    assert (host.engine["containers"], host.lock) == ([], {})
