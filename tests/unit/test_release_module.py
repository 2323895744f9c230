"""library/release.py and library/stack_secrets.py, run as Ansible runs them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import release
import stack_secrets
from ansible.module_utils.testing import patch_module_args

COMPOSE = "services:\n  app:\n    image: none\n    env_file: [.env.prod]\n"
SENTINEL = "sentinel-secret-8c1f"


def arguments(root: Path, **other) -> dict:
    return {
        "root": str(root),
        "stack": "unit",
        "state": "staged",
        "files": [
            {"path": "docker-compose.prod.yml", "content": COMPOSE},
            {"path": ".env", "content": "COMPOSE_FILE=docker-compose.prod.yml\n"},
            {"path": "nginx/nginx.conf", "content": "events {}\n"},
        ],
        "secret_files": [
            {"path": ".env.prod", "content": f'PASSWORD="{SENTINEL}"\n'},
            {"path": "secrets/redis.conf", "content": f"requirepass {SENTINEL}\n", "mode": "0400"},
        ],
        "images": {"backend": {"ref": "x", "id": "sha256:" + "1" * 64}},
        **other,
    }


@pytest.fixture
def run(capsys):
    def call(module, *, check=False, diff=False, **params) -> dict:
        settings = {"_ansible_check_mode": check, "_ansible_diff": diff}
        with patch_module_args({**params, **settings}), pytest.raises(SystemExit):
            module.main()
        return json.loads(capsys.readouterr().out)

    return call


def test_a_release_is_staged_once_and_promoted(run, tmp_path):
    first = run(release, **arguments(tmp_path))
    assert first["changed"]
    assert first["release"]["staged"]
    again = run(release, **arguments(tmp_path))
    assert not again["changed"]
    assert again["release"]["id"] == first["release"]["id"]

    folder = Path(first["release"]["path"])
    assert (tmp_path / "next").resolve() == folder
    assert f"RELEASE={folder.name}" in (folder / ".env").read_text()
    assert stat.S_IMODE((folder / ".env.prod").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700
    assert stat.S_IMODE((folder / "secrets/redis.conf").stat().st_mode) == 0o400

    promoted = run(
        release, **arguments(tmp_path, state="current", files=[], facts={"verified": {"ok": True}})
    )
    assert promoted["changed"]
    assert (tmp_path / "current").resolve() == folder
    assert not (tmp_path / "next").exists()
    assert json.loads((folder / "manifest.json").read_text())["verified"] == {"ok": True}
    assert not run(release, **arguments(tmp_path))["changed"]
    assert not run(release, **arguments(tmp_path, state="current", files=[]))["changed"]


def test_a_refused_compose_file_leaves_nothing(run, tmp_path):
    params = arguments(tmp_path)
    params["files"][0]["content"] = "services: {app: {image: x, nonsense: true}}\n"
    result = run(release, **params)
    assert result["failed"]
    assert "refused" in result["msg"]
    assert "nonsense" in result["msg"]
    assert not (tmp_path / "next").exists()
    assert list((tmp_path / "releases").iterdir()) == []


def test_a_missing_image_leaves_nothing(run, tmp_path):
    result = run(release, **arguments(tmp_path, tags=["backend"]))
    assert result["failed"]
    assert "unit/backend" in result["msg"]
    assert list((tmp_path / "releases").iterdir()) == []


def test_check_mode_writes_nothing_and_the_diff_shows_no_secret(run, tmp_path):
    run(release, **arguments(tmp_path))
    run(release, **arguments(tmp_path, state="current", files=[]))
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    params = arguments(tmp_path)
    params["secret_files"][0]["content"] = f'PASSWORD="{SENTINEL}-new"\nLEVEL="info"\n'
    planned = run(release, check=True, diff=True, **params)
    assert planned["changed"]
    assert planned["env_changed"] == ["+LEVEL", "~PASSWORD"]
    assert SENTINEL not in json.dumps(planned)
    assert "PASSWORD=<redacted> (differs)" in json.dumps(planned["diff"])
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_an_abandoned_staged_release_gives_way(run, tmp_path):
    first = run(release, **arguments(tmp_path))
    params = arguments(tmp_path, images={"backend": {"ref": "x", "id": "sha256:" + "2" * 64}})
    second = run(release, **params)
    assert second["release"]["fingerprint"] != first["release"]["fingerprint"]
    assert (tmp_path / "next").resolve() == Path(second["release"]["path"])


def test_going_back_to_what_runs_drops_the_staged_release(run, tmp_path):
    run(release, **arguments(tmp_path))
    run(release, **arguments(tmp_path, state="current", files=[]))
    run(
        release, **arguments(tmp_path, images={"backend": {"ref": "x", "id": "sha256:" + "2" * 64}})
    )
    back = run(release, **arguments(tmp_path))
    assert not back["release"]["staged"]
    assert not (tmp_path / "next").exists()


def test_a_damaged_manifest_is_one_clear_error(run, tmp_path):
    staged = run(release, **arguments(tmp_path))
    Path(staged["release"]["path"], "manifest.json").write_text("{")
    result = run(release, **arguments(tmp_path))
    assert result["failed"]
    assert "manifest.json cannot be read" in result["msg"]


def test_secrets_are_made_once_and_given_ones_win(run, tmp_path):
    path = tmp_path / "secrets.json"
    first = run(stack_secrets, path=str(path), names=["a", "b"], given={"b": SENTINEL})
    assert first["generated"] == ["a"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SENTINEL not in path.read_text()
    made = json.loads(path.read_text())
    again = run(stack_secrets, path=str(path), names=["a", "b"], given={"b": SENTINEL})
    assert not again["changed"]
    assert json.loads(path.read_text()) == made
    assert len(made["a"]) >= 40


def test_secrets_in_check_mode_are_not_written(run, tmp_path):
    path = tmp_path / "secrets.json"
    assert run(stack_secrets, check=True, path=str(path), names=["a"])["changed"]
    assert not path.exists()


def test_a_damaged_secrets_file_is_never_replaced(run, tmp_path):
    path = tmp_path / "secrets.json"
    path.write_text("{broken")
    result = run(stack_secrets, path=str(path), names=["a"])
    assert result["failed"]
    assert "Restore it from a backup" in result["msg"]
    assert path.read_text() == "{broken"


def test_files_are_never_readable_by_others_while_written(run, tmp_path):
    """The umask of the operator must not decide who reads a secret."""
    before = os.umask(0)
    try:
        staged = run(release, **arguments(tmp_path))
    finally:
        os.umask(before)
    folder = Path(staged["release"]["path"])
    assert stat.S_IMODE((folder / ".env.prod").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700
