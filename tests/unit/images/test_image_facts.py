"""image_facts: what a Docker client says about many images, by the names asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import image_facts
import pytest
from ansible.module_utils.testing import patch_module_args

# As the client of Docker 26.1 and 28.2 answers.
CLIENT = """#!/bin/sh
for reference; do :; done
case $reference in
    docker.io/library/redis:8.0)
        echo '{"id": "sha256:c7cd", "labels": {"crisper.platform": "redis"}}' ;;
    pulled:1)
        echo '{"id": "sha256:1d", "labels": null, "digests": ["pulled@sha256:aa"]}' ;;
    nginx:1.26)
        echo '{"id": "sha256:2e", "labels": {"crisper.platform": "nginx"}, "digests": []}' ;;
    plain:1) echo '{"id": "sha256:be98", "labels": null}' ;;
    down:1)
        echo 'Cannot connect to the Docker daemon at unix:///var/run/docker.sock.' >&2; exit 1 ;;
    *) echo "Error response from daemon: No such image: $reference" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def client(tmp_path: Path) -> str:
    path = tmp_path / "docker"
    path.write_text(CLIENT)
    path.chmod(0o755)
    return str(path)


def run(capsys: pytest.CaptureFixture[str], cli: str, *references: str, **options: Any) -> Any:
    arguments = {"references": list(references), "docker_cli": cli, **options}
    with patch_module_args(arguments), pytest.raises(SystemExit):
        image_facts.main()
    return json.loads(capsys.readouterr().out)


def test_images_are_found_by_the_names_asked_for(
    client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = run(capsys, client, "plain:1", "docker.io/library/redis:8.0", "gone:1")
    assert answer["changed"] is False
    assert answer["images"] == {
        "docker.io/library/redis:8.0": {
            "ref": "docker.io/library/redis:8.0",
            "id": "sha256:c7cd",
            "labels": {"crisper.platform": "redis"},
            "moved": "",
        },
        "plain:1": {"ref": "plain:1", "id": "sha256:be98", "labels": {}, "moved": ""},
    }


def test_an_engine_that_is_down_is_no_missing_image(
    client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    answer = run(capsys, client, "plain:1", "down:1")
    assert answer["failed"] is True
    assert "Cannot connect to the Docker daemon" in answer["msg"]


def test_without_docker_only_check_mode_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert "run the docker role" in run(capsys, "/nowhere/docker", "plain:1")["msg"]
    assert run(capsys, "/nowhere/docker", "plain:1", _ansible_check_mode=True)["images"] == {}


def test_an_image_with_another_digest_than_the_inventory_says_is_another_one(
    client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither its registry nor another one is asked: there is no socket to ask through."""

    def moved(reference: str, digest: str) -> str:
        more = {"digests": {reference: digest}, "registry": "pulled", "docker_socket": "/nowhere"}
        answer = run(capsys, client, reference, **more)
        assert answer["unanswered"] == {}
        return answer["images"][reference]["moved"]

    assert moved("pulled:1", "sha256:aa") == ""
    assert moved("pulled:1", "sha256:bb") == "sha256:bb"
    assert moved("plain:1", "sha256:be98") == ""  # containerd's store: the id is the digest
    assert moved("plain:1", "sha256:bb") == "sha256:bb"  # from an archive: nothing proves it
    assert moved("nginx:1.26", "sha256:bb") == ""  # built here: the digest is the registry's


def test_a_local_build_stands_for_a_reference_with_a_digest(
    client: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Regression: with image_source local or auto such a reference was built anew, and in vain."""
    images = run(capsys, client, "nginx:1.26@sha256:bb", "plain:1@sha256:bb")["images"]
    assert images["nginx:1.26@sha256:bb"] == images["nginx:1.26"]
    assert images["nginx:1.26"]["ref"] == "nginx:1.26"
    assert "plain:1@sha256:bb" not in images  # somebody else's image of that tag
