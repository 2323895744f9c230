"""Files of services: a part of the release, the service's alone, and in no other text."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest
import release
import yaml
from ansible.parsing.vault import VaultLib, VaultSecret
from ansible_collections.crisper.stack.plugins.module_utils.model.build import stack_model
from ansible_collections.crisper.stack.plugins.module_utils.model.validate import validate
from rendering import Inventory
from test_service_options import PLACES, with_options

SECRET = 'sentinel-$ecret\n"two": lines\n'
QUERY = (
    "query('crisper_service_files', {'stack_app': stack_app, 'celery_workers': celery_workers}%s)"
)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def with_files(service: str, *files: dict[str, Any], **options: Any) -> dict[str, Any]:
    return with_options(service, files=list(files), **options)


def listed(values: dict[str, Any], arguments: str = "") -> list[dict[str, Any]]:
    """What the lookup gives for the files of these variables."""
    return Inventory(json.dumps(values)).value(QUERY % arguments)


@pytest.mark.parametrize("service", PLACES)
def test_a_file_is_the_services_alone_and_arrives_as_it_is(service: str):
    values = with_files(service, {"path": "/run/key.pem", "content": SECRET}, user="10001:60999")
    inventory = Inventory(json.dumps(values))
    assert inventory.findings() == []
    files = inventory.files()
    assert files[f"files/{service}/0"] == encoded(SECRET)
    (entry,) = listed(values)
    expected = {"path": f"files/{service}/0", "mode": "0600", "owner": 10001}
    assert entry == {**expected, "content": encoded(SECRET), "encoding": "base64"}
    others = {path: text for path, text in files.items() if not path.startswith("files/")}
    assert not [path for path, text in others.items() if "sentinel" in text]
    assert "sentinel" not in json.dumps(stack_model(values))
    compose = yaml.safe_load(files["docker-compose.prod.yml"])["services"][service]
    assert compose["volumes"][-1] == {
        "type": "bind",
        "source": f"/opt/crisper/releases/${{RELEASE}}/files/{service}/0",
        "target": "/run/key.pem",
        "read_only": True,
        "bind": {"create_host_path": False},
    }


@pytest.mark.parametrize(
    ("user", "owner"), [("", 1234), ("app", 1234), ("0", 0), ("4711", 4711), ("4711:1", 4711)]
)
def test_a_file_belongs_to_the_user_of_the_application(user: str, owner: int):
    values = with_files("backend", {"path": "/a", "content": "x"})
    values["stack_app"]["user"] = user
    assert listed(values, ", uid=1234")[0]["owner"] == owner


def test_a_user_that_nobody_knows_is_asked_for():
    values = with_files("backend", {"path": "/a", "content": "x"})
    assert listed(values)[0]["owner"] == 0  # a plan without an image
    with pytest.raises(Exception, match=r"web\.files\[0\] must belong to the user of the appl"):
        listed(values, ", error='no module named shop'")
    (finding,) = validate(with_files("frontend", {"path": "/a", "content": "x"}))
    assert finding == (
        "stack_app.frontend.files must belong to the user of the service: set"
        " stack_app.frontend.user to its number, such as '10001'."
    )
    (finding,) = validate(with_files("celery-worker", {"path": "/a", "content": "x"}, user="bob"))
    assert finding.startswith("celery_workers[0].files must belong to the user of the service")


def test_a_file_of_the_controller_may_be_encrypted(tmp_path: Path):
    plain, sealed = tmp_path / "plain.yml", tmp_path / "sealed.yml"
    plain.write_text(SECRET)
    password = VaultSecret(b"password")
    sealed.write_bytes(VaultLib([("default", password)]).encrypt(SECRET, password))
    sources = [{"path": f"/{path.stem}", "source": str(path)} for path in (plain, sealed)]
    inventory = Inventory(json.dumps(with_files("backend", *sources)))
    inventory.templar._loader.set_vault_secrets([("default", password)])
    assert inventory.findings() == []
    found = inventory.value(QUERY % "")
    assert [each["content"] for each in found] == [encoded(SECRET)] * 2


def test_a_file_that_the_controller_lacks_is_named_before_anything_is_done(tmp_path: Path):
    source = {"path": "/a", "source": str(tmp_path / "gone")}
    (finding,) = Inventory(json.dumps(with_files("celery-worker", source))).findings()
    assert finding.startswith(
        f"celery_workers[0].files[0].source is '{tmp_path}/gone': no such file"
    )


def test_a_file_that_is_no_text_is_refused(tmp_path: Path):
    (tmp_path / "key").write_bytes(b"\xff\x00")
    values = with_files("backend", {"path": "/a", "source": str(tmp_path / "key")})
    with pytest.raises(Exception, match="which is no text: holds "):
        listed(values)


def test_a_short_content_masks_no_path_of_the_release(run_module: Any, tmp_path: Path):
    """A module masks words of its secrets: a file with "releases" would break every path."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\nexit 0\n")
    docker.chmod(0o755)
    item = {"path": "files/backend/0", "content": encoded("releases"), "encoding": "base64"}
    more = {"files": [], "secret_files": [item], "docker_cli": str(docker)}
    done = run_module(release, root=str(tmp_path), stack="unit", state="staged", **more)
    written = Path(done["release"]["path"]) / "files/backend/0"
    assert (written.read_text(), written.stat().st_mode & 0o777) == ("releases", 0o600)
    assert done["secrets_changed"] == ["files/backend/0"]
