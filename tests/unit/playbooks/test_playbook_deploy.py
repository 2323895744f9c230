"""A deploy by the real playbook: that it works, and that a failed one is undone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from harness import Site, temporary_site


@pytest.fixture(scope="module")
def deployed() -> Iterator[Site]:
    with temporary_site("one") as site:
        site.deploy().succeeded("Release", "(new; before: none)")
        yield site


def test_a_first_deploy_serves_and_gives_its_lock_back(deployed: Site) -> None:
    host = deployed.one

    assert host.serving == host.current
    assert (host.staged, host.lock) == ("", {})
    assert [entry["step"] for entry in host.journal][-1] == "end"


def test_a_deploy_that_fails_in_the_middle_is_undone(deployed: Site) -> None:
    host = deployed.one
    before = host.current
    deployed.script(
        {"point": "compose_rollout:replace", "do": "fail", "answer": {"msg": "no room"}}
    )

    deployed.deploy(x="2").failed(
        "no room", f"What serves: release {before}, put back and verified"
    )

    assert (host.serving, host.current, host.staged) == (before, before, "")
    assert host.releases == host.consuming == [before]
    assert host.lock == {}


def test_a_new_cluster_is_made_although_nothing_else_has_changed(deployed: Site) -> None:
    host = deployed.one
    before = host.current

    # The second time not even the variables are others.
    for _ in range(2):
        told = deployed.deploy(playbook="playbooks/upgrade.yml", database_rebuild="true")
        told.succeeded("PostgreSQL 17 in a new cluster: 1 tables", "and 3 rows, the same in both")
        told.said(f"{before} (unchanged)", "Changed data of PostgreSQL: moved to a new cluster")
        told.said("Lock this run had", "Page shown for the upgrade of the data")
        told.said("Visitors saw the maintenance page meanwhile; it is taken away")

    assert (host.serving, host.current, host.staged) == (before, before, "")
    assert host.lock == {}


def test_a_new_cluster_that_cannot_be_made_is_not_tried_again_by_the_rollback(
    deployed: Site,
) -> None:
    host = deployed.one
    before = host.current
    deployed.script({"point": "database_upgrade:upgraded", "do": "fail", "answer": {"msg": "full"}})

    told = deployed.deploy(playbook="playbooks/upgrade.yml", database_rebuild="true")

    told.failed("full", f"What serves: release {before}")
    told.said('The upgrade: see docs/UPGRADE.md, "What can go wrong"')
    assert (host.serving, host.current, host.lock) == (before, before, {})
    assert host.points.count("database_upgrade:upgraded") == 1


def test_what_is_left_of_an_upgrade_is_told_when_its_release_fails(deployed: Site) -> None:
    """Regression: the failure named neither the volume with the old data nor the dump."""
    host = deployed.one
    before = host.current
    deployed.script(
        {"point": "compose_rollout:replace", "do": "fail", "answer": {"msg": "no room"}}
    )

    told = deployed.deploy(playbook="playbooks/upgrade.yml", database_rebuild="true")

    told.failed("no room", f"What serves: release {before}, put back and verified")
    told.said('The upgrade: volume v, dump d; see docs/UPGRADE.md, "What can go wrong"')
    assert (host.serving, host.lock) == (before, {})


def test_a_deploy_that_changes_nothing_tells_of_the_page(deployed: Site) -> None:
    """Regression: it looked healthy while visitors saw the maintenance page."""
    (deployed.one.root / "live/nginx/maintenance.on").touch()

    told = deployed.deploy()

    told.succeeded("(unchanged: the same inputs", "visitors see the maintenance page; to take it")


def test_a_deploy_of_the_same_release_says_what_it_changed(deployed: Site) -> None:
    """Regression: the summary said "(unchanged)" alone, whatever the run had repaired."""
    host = deployed.one
    host.change(containers=[c for c in host.engine["containers"] if c["service"] != "celery-beat"])
    (host.root / "live/nginx/maintenance.on").touch()
    deployed.script({"point": "redis_refusals", "do": "fail", "answer": {"msg": "no log"}})

    told = deployed.deploy()

    told.succeeded("(unchanged)", "Changed containers of celery-beat: created (no container yet)")
    told.said("Lock this run had the deploy lock", "Page visitors see the maintenance")
    told.said("Warning The commands that Redis refused could not be read: “no log”")
    (host.root / "live/nginx/maintenance.on").unlink()


def test_database_accounts_wait_for_the_container_that_holds_all_connections() -> None:
    """Regression: each deploy failed before it came to that container."""
    with temporary_site("one") as site:
        host = site.one
        site.deploy().succeeded()
        host.change(holder=host.current)
        site.script()

        told = site.deploy(x="2").succeeded("WARNING: No connection is left: docker stop x. The")

        assert "The next run tries again" not in told.text
        assert host.points.count("database_roles") == 2
        assert host.points.index("compose_rollout:stop_old") < _last(host.points, "database_roles")
        assert host.manifest(host.current)["roles_postponed"] == ""
        # A stranger, whom no deploy stops. The next run is not done at one look.
        host.change(holder="*")
        said = "Warning No connection is left: docker stop x. The next run tries again"
        site.deploy(x="3").succeeded(said)
        assert host.manifest(host.current)["roles_postponed"]
        site.deploy(x="3").succeeded("(unchanged)", said)
        host.change(holder="")
        assert said not in site.deploy(x="3").succeeded("(unchanged)").text
        assert host.manifest(host.current)["roles_postponed"] == ""
        site.deploy(x="3").succeeded("(unchanged: the same inputs")


def _last(points: list[str], name: str) -> int:
    return len(points) - 1 - points[::-1].index(name)
