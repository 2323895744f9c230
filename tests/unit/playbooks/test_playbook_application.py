"""What an application says of its queues decides what its pools consume, or stops the deploy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from harness import ROOT, deployed_site


def pools_without_queues() -> list[dict[str, Any]]:
    """The first pool of the example, which leaves its queues to the application."""
    text = (ROOT / "inventories/example/group_vars/all/stack.yml").read_text()
    first = yaml.safe_load(text)["celery_workers"][0]
    return [{key: value for key, value in first.items() if key != "queues"}]


def says(**facts: Any) -> dict[str, Any]:
    """A rule with what the application says."""
    return {"point": "celery_application:facts", "do": "fail", "times": 9, "answer": facts}


def test_a_queue_without_a_pool_stops_the_deploy_before_anything_is_changed() -> None:
    site, _ = deployed_site("one")
    before, points = site.one.current, len(site.one.points)
    route = {"queue": "mail", "kind": "task_routes", "name": "mail.*"}
    site.script(says(routes=[route]))

    told = site.deploy(x="2")
    told.failed("1. Queue mail: the application's task_routes sends mail.* to it, and no pool")
    told.said("Add mail to the queues of a pool", "celery_external_queues")

    assert (site.one.current, site.one.staged, site.one.lock) == (before, "", {})
    reached = site.one.points[points:]
    assert not [p for p in reached if p.startswith(("compose_rollout:", "database_migrate"))]
    # Where somebody else consumes it, the deploy goes on.
    site.deploy(x="2", celery_external_queues=["mail"]).succeeded()
    site.script()


def test_a_pool_without_queues_consumes_what_the_application_names() -> None:
    site, _ = deployed_site("one")
    site.script(says(consumed=["jobs", "mail"], unknown=["of task books.close (KeyError)"]))

    told = site.deploy(celery_workers=pools_without_queues(), celery_external_queues=["default"])

    told.succeeded("Warning Routes that depend on the arguments of a call were not compared")
    model = site.one.manifest(site.one.current)["model"]
    assert model["queues"] == model["pools"][0]["queues"] == ["jobs", "mail"]
    folder = site.one.root / "releases" / site.one.current
    assert "--queues=jobs,mail" in (folder / "docker-compose.prod.yml").read_text()
    site.script()


def test_another_content_of_a_file_is_another_release(tmp_path: Path) -> None:
    """The inventory names a file of the controller: it is the same, and the file is not."""
    site, _ = deployed_site("one")
    source = tmp_path / "settings.yml"
    source.write_text("level: info\n")
    app = site.application("web", files=[{"path": "/etc/shop.yml", "source": str(source)}])

    site.deploy(stack_app=app).succeeded()
    first = site.one.current
    written = site.one.root / "releases" / first / "files/backend/0"
    assert (written.read_text(), written.stat().st_mode & 0o777) == ("level: info\n", 0o600)
    site.deploy(stack_app=app).succeeded("(unchanged: the same inputs")
    assert site.one.current == first

    source.write_text("level: debug\n")
    site.deploy(stack_app=app).succeeded()
    assert site.one.current != first
    source.unlink()
    site.deploy(stack_app=app).failed(f"files[0].source is '{source}': no such file on the")


def test_a_folder_that_the_server_lacks_stops_the_deploy_before_anything_is_done(
    tmp_path: Path,
) -> None:
    site, _ = deployed_site("one")
    before, points = site.one.current, len(site.one.points)
    app = site.application("web", volumes=[{"host": str(tmp_path / "gone"), "path": "/media"}])
    site.deploy(stack_app=app).failed(
        f"path: stack_app.web.volumes[0].host is {tmp_path}/gone, which is not on this server",
        "create it, for the user of the service",
    )
    assert site.one.current == before
    assert not [p for p in site.one.points[points:] if p.startswith("compose_rollout:")]
