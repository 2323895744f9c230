"""After a rollback the inventory is newer than what serves, which is verified by its own model."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from harness import ROOT, Site, deployed_site

RESTORE = "playbooks/restore.yml"


def newer_workers() -> list[dict[str, Any]]:
    """The workers of the example, with one process more in the first pool and a pool more."""
    text = (ROOT / "inventories/example/group_vars/all/stack.yml").read_text()
    workers = yaml.safe_load(text)["celery_workers"]
    first = {**workers[0], "concurrency": workers[0]["concurrency"] + 1}
    return [first, *workers[1:], {**workers[0], "name": "reports", "queues": ["reports"]}]


@pytest.fixture(scope="module")
def rolled_back() -> Site:
    """Return a site whose deploy of other workers was taken back."""
    site, _ = deployed_site("one")
    before = site.one.current
    site.deploy(celery_workers=newer_workers()).succeeded()
    site.deploy("--tags", "rollback", celery_workers=newer_workers()).succeeded()
    assert site.one.current == before
    return site


def warning(site: Site) -> str:
    """What is said once of the inventory."""
    return (
        f"Warning The inventory wants something else than release {site.one.current}, which"
        " serves: pool default: concurrency 3 instead of 2; pool reports is new. The release is"
        " verified as it was deployed. To apply the inventory: ansible-playbook deploy.yml"
    )


def test_verify_compares_what_serves_with_its_own_model(rolled_back: Site) -> None:
    """Regression: it found two processes where the inventory has three, and a pool missing."""
    run = rolled_back.deploy("--tags", "verify", celery_workers=newer_workers())
    run.succeeded(warning(rolled_back))
    assert run.text.count("The inventory wants something else") == 1
    assert "The inventory wants" not in rolled_back.deploy("--tags", "verify").succeeded().text


def test_findings_come_with_what_the_inventory_has_not_applied(rolled_back: Site) -> None:
    containers = rolled_back.one.engine["containers"]
    pools = [each for each in containers if each["pool"]]
    pools[0]["concurrency"] = 9
    rolled_back.one.change(containers=containers)
    run = rolled_back.deploy("--tags", "verify", celery_workers=newer_workers())
    run.failed("1 finding(s)", "runs 9 processes", warning(rolled_back).partition(" ")[2])
    pools[0]["concurrency"] = 2
    rolled_back.one.change(containers=containers)


def test_a_restore_verifies_what_serves_by_its_own_model(rolled_back: Site) -> None:
    """Regression: all data was restored, and the site stayed down behind the page."""
    host = rolled_back.one
    before = host.current
    run = rolled_back.deploy(
        playbook=RESTORE, restore_confirmed=True, celery_workers=newer_workers()
    )
    run.succeeded("Restored", warning(rolled_back))
    assert (host.serving, host.current, host.lock) == (before, before, {})


def test_a_restore_whose_application_is_not_verified_says_that_all_data_is(
    rolled_back: Site,
) -> None:
    """Regression: it told of data of two moments, and named a file that there was not."""
    host = rolled_back.one
    containers = host.engine["containers"]
    next(each for each in containers if each["pool"])["concurrency"] = 9
    host.change(containers=containers)
    run = rolled_back.deploy(playbook=RESTORE, restore_confirmed=True)
    run.failed("All data is that of the set", "maintenance page stays", "--tags maintenance_off")
    assert "two moments" not in run.text
    assert host.serving == "page"


def test_the_status_says_why_nothing_is_taken_and_what_is_not_applied(rolled_back: Site) -> None:
    """Regression: with a key of a wrong type every worker was shown as healthy and idle."""
    rolled_back.one.change(wrong_key="the key 'unacked_lease' in Redis is a string")
    run = rolled_back.deploy(playbook="playbooks/status.yml", celery_workers=newer_workers())
    run.succeeded(warning(rolled_back), "Warning Workers may take no task: the key 'unacked_lease'")


def test_a_rollout_alone_compares_the_release_with_its_own_model() -> None:
    """Regression: what the release had, and the inventory not, was judged by the inventory."""
    site, _ = deployed_site("one")
    before = site.one.current
    site.deploy("--tags", "docker,images,release", celery_workers=newer_workers()).succeeded()
    staged = site.one.staged
    site.deploy("--tags", "rollout").succeeded()
    assert site.one.serving == staged != before
    containers = site.one.engine["containers"]
    pools = {each["pool"]: each["concurrency"] for each in containers if each["pool"]}
    assert pools["default"] == 3
    assert "reports" in pools
