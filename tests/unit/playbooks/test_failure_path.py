"""What a run does when it fails: nothing without the lock, and nothing told that was not seen."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Host, Site, temporary_site


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path, Path]]:
    """Return a site, its state with one release, and with a second whose migration is one-way."""
    folder = tmp_path_factory.mktemp("kept")
    with temporary_site("one") as site:
        site.deploy().succeeded()
        site.keep(folder / "first")
        site.one.change(irreversible=True)
        site.deploy(build=2).succeeded()
        site.keep(folder / "second")
        yield site, folder / "first", folder / "second"


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


def cut_off(site: Site, point: str, **variables: object) -> None:
    """Kill the controller of a deploy at a point."""
    site.script({"point": point, "do": "controller"})
    site.deploy(**variables)
    site.script()


def test_a_gate_that_fails_leaves_the_other_run_alone(site: Site) -> None:
    """Regression: `gate_seen` was undefined, and the rescue undid another run's release."""
    cut_off(site, "compose_rollout:leave", x="2")
    host = site.one
    staged, journal = host.staged, host.journal
    assert staged
    with (host.root / ".busy").open("a") as acting:
        fcntl.flock(acting, fcntl.LOCK_SH)
        said = site.deploy(x="2", gate_quiet_timeout=0)
    said.failed("a process of it still acts", "This run has no lock: deploy")
    assert "undefined" not in said.text
    assert (host.staged, host.journal) == (staged, journal)
    assert "failed" not in host.manifest(staged)

    site.deploy(x="2").succeeded("was cut off in step")
    assert host.serving == host.current == staged


def test_a_lock_past_its_time_is_not_taken_from_a_process_that_acts(site: Site) -> None:
    site.script({"point": "compose_rollout:swap", "do": "wait"})
    first = site.start(x="2")
    site.one.wait_for_point()
    lock = site.one.root / "lock"
    lock.write_text(json.dumps({**json.loads(lock.read_text()), "until": 0}))
    second = site.deploy(x="3", gate_quiet_timeout=0)
    second.failed("a process of it still acts", f"deploy {site.one.lock['run']}")
    site.one.go()
    first.wait().succeeded()
    assert site.one.serving == site.one.current


def test_who_lost_the_lock_acts_on_nothing_and_says_who_has_it(site: Site) -> None:
    """Regression: the failure path undid the release of the deploy that had taken the lock."""
    host = site.one
    site.script({"point": "command:migrate", "do": "wait"})
    first = site.start(build=2)
    host.wait_for_point()
    before = host.current
    site.script({"point": "compose_rollout:swap", "do": "wait"})
    second = site.start(build=2, x="3", gate_break=host.lock["run"], gate_quiet_timeout=0)
    # The first one's migration holds no lock of the journal; it goes on when the second has staged.
    host.wait_for_point()
    run, staged = host.lock["run"], host.staged
    assert staged != before
    host.go()
    first.wait().failed("lost its lock", f"This run has no lock: deploy {run}")
    second.wait().succeeded()
    assert host.serving == host.current == staged
    assert not host.manifest(staged).get("failed")


def test_a_part_of_a_deploy_is_undone_like_a_whole_one(site: Site) -> None:
    """Regression: with --tags the rescue was skipped; the lock stayed, and nothing was undone."""
    before = site.one.current
    site.deploy("--tags", "release,images,docker", x="2").succeeded()
    assert site.one.staged
    site.script({"point": "compose_rollout:swap", "do": "fail", "answer": {"msg": "no room"}})
    site.deploy("--tags", "rollout", x="2").failed(
        "no room", f"What serves: release {before}, put back and proved"
    )
    host = site.one
    assert (host.serving, host.current, host.staged, host.lock) == (before, before, "", {})
    assert host.releases == host.consuming == [before]


def test_verify_judges_what_serves_and_tells_what_is_staged(site: Site) -> None:
    """Regression: after a deploy that was cut off it judged a release that never served."""
    before = site.one.current
    cut_off(site, "compose_rollout:start", x="2")
    staged = site.one.staged
    site.one.change(containers=[c for c in site.one.engine["containers"] if c["release"] != staged])
    said = site.deploy("--tags", "verify").succeeded(f"Release {staged} is staged and not proved")
    assert f"Judged is {before}, which serves" in said.text
    assert (site.one.staged, site.one.current) == (staged, before)


def test_a_rollback_gives_a_staged_release_up(newer: Site) -> None:
    host = newer.one
    current = host.current
    first = min(p.name for p in (host.root / "releases").iterdir())
    newer.deploy(build=2, x="3").succeeded()  # nothing irreversible since `current`
    cut_off(newer, "compose_rollout:start", build=2, x="4")
    staged = host.staged
    newer.deploy("--tags", "rollback", release=current).succeeded()
    assert (host.current, host.serving, host.staged) == (current, current, "")
    assert f"release {current} was put back" in host.manifest(staged)["failed"]
    newer.deploy("--tags", "rollback", release=staged).failed(
        f"Release {staged} cannot be put back", "never proved to work", "Kept:", first
    )


def test_an_engine_that_died_is_told_and_the_next_run_goes_on(site: Site) -> None:
    """Regression: "as before" was told of an engine that nobody had asked."""
    host = site.one
    site.script({"point": "compose_rollout:leave", "do": "wait"})
    running = site.start(x="2")
    host.wait_for_point()
    before, staged = host.current, host.staged
    host.change(up=False)
    host.go()
    said = running.wait().failed(
        "could not look: the engine does not answer", "Cannot connect to the Docker daemon"
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


def first_release(host: Host) -> str:
    """Return the older one."""
    return min(path.name for path in (host.root / "releases").iterdir())


BACK = ("--tags", "rollback")


@pytest.mark.parametrize(
    ("rule", "database"),
    [
        ({"point": "docker_compose_v2:stopped", "do": "fail"}, "as before; the restore had"),
        ({"point": "database_dump:restored", "do": "fail"}, "as before; the restore had"),
        ({"point": "database_dump:restored", "do": "kill"}, "as before; the restore had"),
        ({"point": "database_dump:after", "do": "fail"}, "The migrations of the release that"),
        ({"point": "compose_rollout:swap", "do": "fail"}, "The migrations of the release that"),
        ({"point": "front_probe", "do": "fail"}, "The migrations of the release that"),
    ],
)
def test_a_rollback_with_its_database_that_fails_is_undone(
    newer: Site, rule: dict[str, str], database: str
) -> None:
    """Regression: recovery was skipped with the site down, and "nothing had been changed" told."""
    host = newer.one
    current, before = host.current, host.engine["database"]
    assert len(before) == 2
    newer.script(rule)
    newer.deploy(*BACK, restore_database=True, build=2).failed(
        f"What serves: release {current}, put back and proved",
        f"The database: {database}" if database.startswith("as") else database,
    )
    assert (host.serving, host.current, host.lock) == (current, current, {})
    assert host.releases == host.consuming == [current]
    # The newer release never runs on the older database.
    assert host.engine["database"] == before
    assert not host.manifest(current)["database_behind"]
    newer.script()
    # What it needs to go back later is still known.
    newer.deploy(*BACK, restore_database=True, build=2).succeeded()
    assert host.current == first_release(host)
    assert host.engine["database"] == before[:1]
    assert host.serving == host.current


def test_a_newer_release_waits_for_its_migrations_behind_the_page(newer: Site) -> None:
    """Regression: newer code was put back on the older database without a word."""
    host = newer.one
    current, before = host.current, host.engine["database"]
    newer.script(
        {"point": "compose_rollout:swap", "do": "fail"},
        {"point": "command:migrate", "do": "fail", "times": 2},
    )
    newer.deploy(*BACK, restore_database=True, build=2).failed(
        f"release {current} was to be put back, and that failed too",
        "The migrations of the release that served are missing in it",
        "The maintenance page stays",
        f"--tags rollback -e release={first_release(host)} -e restore_database=true",
    )
    assert (host.serving, host.current, host.lock) == ("page", current, {})
    assert host.manifest(current)["database_behind"]
    newer.script()
    newer.deploy(build=2).succeeded("failed and could not be undone")
    newer.deploy("--tags", "maintenance_off").succeeded()
    assert host.serving == current
    assert host.engine["database"] == before
    assert not host.manifest(current)["database_behind"]


def test_a_rollback_goes_on_where_redis_cannot_be_read(newer: Site) -> None:
    """Regression: a rollback refused when Redis did not run, the one moment it is needed for."""
    host = newer.one
    newer.deploy(build=2, x="3").succeeded()
    before = host.releases
    containers = host.engine["containers"]
    for container in containers:
        if container["service"] == "redis":
            container["state"] = "restarting"
    host.change(containers=containers)
    answer = {"problem": "broker_unreachable", "msg": "no connection to redis"}
    newer.script({"point": "celery_skew", "do": "fail", "answer": answer, "times": 9})
    newer.deploy(*BACK).succeeded("What waits in the queues could not be compared")
    assert host.points.count("celery_skew") == 1  # when the data services were up
    assert host.serving == host.current
    assert host.releases != before


def test_a_deploy_reads_a_redis_that_ran_in_a_loop_when_it_runs(site: Site) -> None:
    answer = {"problem": "broker_unreachable", "msg": "no connection to redis"}
    site.script({"point": "celery_skew", "do": "fail", "answer": answer})
    site.deploy(x="2").succeeded("It is tried again when the data services run")
    assert site.one.points.count("celery_skew") == 2
    before = site.one.current
    site.script({"point": "celery_skew", "do": "fail", "answer": answer, "times": 2})
    site.deploy(x="3").failed("no connection to redis", f"release {before}")
    assert site.one.serving == before


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Site, Path]]:
    """Return three hosts with a release."""
    folder = tmp_path_factory.mktemp("three") / "first"
    with temporary_site("one", "two", "three") as site:
        site.deploy().succeeded()
        site.keep(folder)
        yield site, folder


@pytest.mark.parametrize(
    "rule",
    [
        {"point": "stack_gate", "do": "fail", "host": "two"},
        {"point": "stack_gate:after", "do": "unreachable", "host": "two"},
        {"point": "stack_gate", "do": "unreachable", "host": "two"},
    ],
)
def test_where_one_host_fails_in_the_gate_none_is_touched(
    three: tuple[Site, Path], rule: dict[str, str]
) -> None:
    site, folder = three
    site.put_back(folder)
    site.script(rule)
    site.deploy(x="2").failed("This run has changed nothing")
    for name in ("one", "three"):
        host = site.hosts[name]
        assert host.lock == {}
        assert host.serving == host.current
        assert [e["step"] for e in host.journal][-2:] == ["begin", "end"]
        assert "compose_rollout" not in host.points
    site.script()
    site.deploy(x="2").succeeded()


def test_a_host_that_cannot_be_put_back_keeps_no_other_from_it(three: tuple[Site, Path]) -> None:
    site, folder = three
    site.put_back(folder)
    before = site.one.current
    site.script(
        {"point": "compose_rollout:swap", "do": "fail", "host": "three"},
        {"point": "front_probe", "do": "fail", "host": "two"},
        {"point": "docker_compose_v2:present", "do": "fail", "host": "two"},
    )
    site.deploy(x="2").failed("that failed too")
    for name in ("one", "three"):
        host = site.hosts[name]
        assert (host.serving, host.current, host.staged) == (before, before, "")
        assert host.releases == host.consuming == [before]
    assert site.two.lock == {}
    site.script()
    site.deploy().succeeded()
    assert site.two.releases == site.two.consuming == [before]
