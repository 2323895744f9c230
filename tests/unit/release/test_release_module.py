"""library/release.py and library/stack_secrets.py, run as Ansible runs them."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import json
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import release
import stack_secrets
from ansible.module_utils.testing import patch_module_args
from ansible_collections.crisper.stack.plugins.module_utils.journal import Journal
from ansible_collections.crisper.stack.plugins.module_utils.proxy import maintenance_pass
from ansible_collections.crisper.stack.plugins.module_utils.release import staging
from ansible_collections.crisper.stack.plugins.module_utils.release.manifest import RELEASE_ID

ROOT = Path(__file__).resolve().parents[3]
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


def test_promoting_tells_the_seconds_and_prunes_what_is_too_many(run, tmp_path, monkeypatch):
    numbers = itertools.count(1)
    name = "20261122t00000{}z-{}"  # one a second
    monkeypatch.setattr(
        staging, "release_id", lambda _, digest: name.format(next(numbers), digest[:8])
    )
    journal = Journal(tmp_path, "a-run")
    journal.acquire({"who": "ops", "controller": "laptop", "process": "1@2", "purpose": "deploy"})
    own = {"root": str(tmp_path), "id": "a-run"}
    made = []
    for number in range(4):
        files = arguments(tmp_path)["files"]
        files[2] = {"path": "nginx/nginx.conf", "content": f"# {number}\n"}
        run(release, **arguments(tmp_path, files=files, run=own))
        told = {"facts": {"verified": {"ok": True}, "deploy": {"tasks": {}}}, "keep": 2}
        seen = run(release, **arguments(tmp_path, state="current", files=[], run=own, **told))
        made.append(seen["release"]["id"])
        assert set(seen["seconds"]) == {"begin", "stage"} | ({"promote"} if number else set())
    assert seen["pruned"] == made[1:2]
    assert sorted(path.name for path in (tmp_path / "releases").iterdir()) == made[2:]
    manifest = json.loads((tmp_path / "current" / "manifest.json").read_text())
    assert (manifest["id"], manifest["deploy"]["tasks"]) == (made[3], {})
    assert manifest["deploy"]["seconds"] == seen["seconds"]


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


def test_the_same_images_in_another_store_are_the_same_release(run, tmp_path):
    """Their ids are others there, and the engine may lack the names that Compose starts them by."""
    cli, tagged = tmp_path / "docker", tmp_path / "tagged"
    cli.write_text(f"""#!/bin/sh
case "$1 $2" in
    "image tag") echo "$3 $4" >>{tagged} ;;
    "image inspect") while read -r id name; do echo "$id $name"; done <{tagged} ;;
esac
""")
    cli.chmod(0o755)
    more = {"docker_cli": str(cli), "tags": ["backend"]}
    first = run(release, **arguments(tmp_path, **more))["release"]
    run(release, **arguments(tmp_path, state="current", files=[], **more))
    config, moved = "sha256:" + "1" * 64, "sha256:" + "2" * 64
    name = f"unit/backend:{first['id']}"
    assert tagged.read_text() == f"{config} {name}\n"
    tagged.write_text("")  # another engine, which has the image by another name
    images = {"backend": {"ref": "x", "id": moved, "config": config}}
    assert not run(release, check=True, **arguments(tmp_path, images=images, **more))["changed"]
    again = run(release, **arguments(tmp_path, images=images, **more))
    assert again["release"]["id"] == first["id"]
    assert (again["changed"], again["images_changed"]) == (True, [])
    assert tagged.read_text() == f"{moved} {name}\n"
    manifest = json.loads((tmp_path / "current" / "manifest.json").read_text())
    assert manifest["images"] == images
    assert not run(release, **arguments(tmp_path, images=images, **more))["changed"]
    assert tagged.read_text() == f"{moved} {name}\n"


@pytest.mark.parametrize("umask", [0o077, 0o022, 0o000])
def test_what_containers_mount_can_be_entered_whatever_the_umask(run, tmp_path, umask):
    root = tmp_path / "opt/app"
    (root / "live/nginx").mkdir(parents=True, mode=0o700)  # as an earlier revision made it
    before = os.umask(umask)
    try:
        folder = Path(run(release, **arguments(root))["release"]["path"])
    finally:
        os.umask(before)
    folders = [root / "live", root / "live/nginx", root / "releases", folder, folder / "nginx"]
    modes = [stat.S_IMODE(path.stat().st_mode) for path in folders]
    assert modes == [0o700, 0o755, 0o755, 0o755, 0o755]
    assert stat.S_IMODE((folder / "nginx/nginx.conf").stat().st_mode) == 0o644
    assert stat.S_IMODE((folder / "secrets").stat().st_mode) == 0o700


def test_every_image_gets_its_name_and_a_refused_one_is_told(run, tmp_path):
    client = tmp_path / "docker"
    client.write_text(f"""#!/bin/sh
echo "$*" >> {tmp_path}/told
case "$*" in *bad*) echo "no such image" >&2; exit 1;; esac
""")
    client.chmod(0o755)
    images = {name: {"ref": "x", "id": f"sha256:{name}"} for name in ("good", "other")}
    options = {"images": images, "tags": list(images), "docker_cli": str(client)}
    result = run(release, **arguments(tmp_path, **options))
    name = result["release"]["id"]
    told = (tmp_path / "told").read_text().splitlines()
    assert told[0] == "compose config --quiet"
    assert sorted(told[1:]) == [f"image tag sha256:{n} unit/{n}:{name}" for n in ("good", "other")]
    options["images"] = {**images, "other": {"ref": "x", "id": "sha256:bad"}}
    result = run(release, **arguments(tmp_path, **options))
    assert "Tagging unit/other:" in result["msg"]
    assert "no such image" in result["msg"]
    assert sorted(p.name for p in (tmp_path / "releases").iterdir()) == [name]


def test_a_refused_compose_file_leaves_nothing(run, tmp_path):
    params = arguments(tmp_path)
    params["files"][0]["content"] = "services: {app: {image: x, nonsense: true}}\n"
    result = run(release, **params)
    assert result["failed"]
    assert "refused" in result["msg"]
    assert "nonsense" in result["msg"]
    assert not (tmp_path / "next").exists()
    assert list((tmp_path / "releases").iterdir()) == []


def no_space(*_: object) -> None:
    """A full disk."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def whole(root: Path) -> bool:
    """Whether every folder of a release is a whole one, and nothing else lies there."""
    folders = list((root / "releases").iterdir())
    for folder in folders:
        sums = json.loads((folder / "manifest.json").read_text())["checksums"]
        assert sums == {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in sums
        }
    return all(RELEASE_ID.match(folder.name) for folder in folders)


CALLS = ["open", "fsync", "chmod", "mkdir", "rename", "symlink", "replace"]
OTHER = {"backend": {"ref": "x", "id": "sha256:" + "2" * 64}}


@pytest.fixture
def served(run, tmp_path) -> Path:
    """The folder of a release that serves."""
    run(release, **arguments(tmp_path))
    run(release, **arguments(tmp_path, state="current", files=[]))
    return (tmp_path / "current").resolve()


def at(turn: int, call: str, patch: pytest.MonkeyPatch, end: Callable[[], None]) -> list[str]:
    """Have a function of os end at its n-th call; what is returned holds every call made."""
    real, made = getattr(os, call), []

    def counted(*args, **kwargs):
        made.append(call)
        if len(made) == turn:
            end()
        return real(*args, **kwargs)

    patch.setattr(os, call, counted)
    return made


@pytest.mark.parametrize("call", CALLS)
def test_a_disk_that_is_full_at_any_call_leaves_nothing_of_a_release(run, tmp_path, served, call):
    params = arguments(tmp_path, images=OTHER, docker_cli="true")
    for turn in itertools.count(1):
        with pytest.MonkeyPatch.context() as patch:
            before = set((tmp_path / "releases").iterdir())
            made = at(turn, call, patch, no_space)
            result = run(release, **params)
        assert (tmp_path / "current").resolve() == served
        if len(made) < turn:  # every call was tried
            break
        if not result.get("failed"):  # it made a folder that had been there
            assert whole(tmp_path)
            run(release, **arguments(tmp_path))  # the next turn begins without it
            continue
        assert "could not be written: [Errno 28] No space left on device" in result["msg"]
        assert SENTINEL not in json.dumps(result)
        assert not (tmp_path / "next").is_symlink()
        assert {served} <= set((tmp_path / "releases").iterdir()) <= before
    assert turn > 1
    assert result["release"]["staged"]
    assert whole(tmp_path)


@pytest.mark.parametrize("call", CALLS)
def test_a_deploy_that_is_killed_at_any_call_leaves_no_half_release(run, tmp_path, served, call):
    params = arguments(tmp_path, images=OTHER, docker_cli="true")
    for turn in itertools.count(1):
        child = os.fork()
        if not child:  # a process of its own, in which nothing runs after its end
            at(turn, call, pytest.MonkeyPatch(), lambda: os._exit(9))
            with patch_module_args(params), contextlib.suppress(SystemExit):
                release.main()
            os._exit(0)
        killed = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
        assert (tmp_path / "current").resolve() == served
        releases = [path for path in (tmp_path / "releases").iterdir() if path.name[0] != "."]
        assert all((path / "manifest.json").exists() for path in releases)
        if (tmp_path / "next").is_symlink():
            assert (tmp_path / "next").resolve() in releases
        assert run(release, **params)["release"]["staged"]
        assert whole(tmp_path)
        run(release, **arguments(tmp_path, docker_cli="true"))  # the next turn begins without it
        if not killed:
            break
    assert turn > 1


def test_a_password_that_is_part_of_every_path_masks_no_result(run, tmp_path):
    """Regression: a module masks its secrets in all that it answers, paths and ids included."""
    params = arguments(tmp_path)
    params["secret_files"].append({"path": "secrets/postgres_password", "content": "releases\n"})
    result = run(release, **params)
    assert Path(result["release"]["path"]).is_dir()


def test_files_are_utf_8_whatever_the_locale_says(run, tmp_path):
    params = arguments(tmp_path)
    params["secret_files"][0]["content"] = 'A="한국어 é \r\x85\u2028"\n'
    staged = run(release, **params)
    text = (Path(staged["release"]["path"]) / ".env.prod").read_bytes()
    assert text == params["secret_files"][0]["content"].encode()
    assert run(release, **params)["secrets_changed"] == [".env.prod", "secrets/redis.conf"]


def test_no_part_of_a_value_is_taken_for_a_name(run, tmp_path):
    """Regression: U+2028 in a secret ended its line, and what followed was shown as a name."""
    run(release, **arguments(tmp_path))
    run(release, **arguments(tmp_path, state="current", files=[]))
    params = arguments(tmp_path)
    params["secret_files"][0]["content"] = f'PASSWORD="x\u2028{SENTINEL}=y"\n'
    planned = run(release, check=True, diff=True, **params)
    assert planned["env_changed"] == ["~PASSWORD"]
    assert SENTINEL not in json.dumps(planned)


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
    env = next(part for part in planned["diff"] if part["after_header"] == ".env.prod")
    assert "PASSWORD=<redacted>\n" in env["before"]
    assert "PASSWORD=<redacted> (differs)\n" in env["after"]  # equal sides would be no diff
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


def test_secrets_are_made_once(run, tmp_path):
    path = tmp_path / "secrets.json"
    first = run(stack_secrets, path=str(path), names=["a", "b"])
    assert first["generated"] == ["a", "b"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    made = json.loads(path.read_text())
    assert first["secrets"] == made
    again = run(stack_secrets, path=str(path), names=["a", "b"])
    assert not again["changed"]
    assert again["secrets"] == json.loads(path.read_text()) == made
    assert len(made["a"]) >= 40


def test_given_secrets_win_and_come_to_the_templates_as_they_are(tmp_path):
    """Regression: what the module got as a secret came back as VALUE_SPECIFIED_IN_NO_LOG_PARAMETER.

    So did every letter "e" of the generated ones, when a given one was "e".
    """
    (tmp_path / "secrets.json").write_text(json.dumps({"old": "kept", "given": "of before"}))
    play = [
        {
            "hosts": "localhost",
            "connection": "local",
            "gather_facts": False,
            "vars": {
                "stack_root": str(tmp_path),
                "stack_model": {"required_secrets": ["given", "short", "old", "made", "empty"]},
                "stack_secrets": {"given": SENTINEL, "short": "e", "empty": ""},
            },
            "tasks": [
                {"import_role": {"name": "release", "tasks_from": "secrets"}},
                {
                    "copy": {
                        "content": "{{ release_secrets | to_json }}",
                        "dest": str(tmp_path / "seen.json"),
                        "mode": "0600",
                    }
                },
            ],
        }
    ]
    (tmp_path / "play.json").write_text(json.dumps(play))
    done = subprocess.run(
        [
            Path(sys.executable).with_name("ansible-playbook"),
            tmp_path / "play.json",
            "--diff",
            "-v",
        ],
        env={**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    seen = json.loads((tmp_path / "seen.json").read_text())
    assert seen.pop("made") != seen.pop("empty")
    assert maintenance_pass.TOKEN.match(seen.pop("maintenance_pass"))
    assert seen == {"given": SENTINEL, "short": "e", "old": "kept"}
    assert json.loads((tmp_path / "secrets.json").read_text()).keys() == {
        *("old", "given", "made", "empty", "maintenance_pass")
    }


def test_secrets_that_cannot_be_written_are_one_clear_error(run, tmp_path, monkeypatch):
    path = tmp_path / "secrets.json"
    path.write_text('{"a": "kept"}')
    monkeypatch.setattr(os, "fsync", no_space)
    result = run(stack_secrets, path=str(path), names=["a", "b"])
    assert result["failed"]
    assert "No space left on device" in result["msg"]
    assert [path.name for path in tmp_path.iterdir()] == ["secrets.json"]
    assert json.loads(path.read_text()) == {"a": "kept"}


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


def test_the_token_of_the_maintenance_page_is_in_place_with_the_release(run, tmp_path):
    secrets, passes = tmp_path / "secrets.json", tmp_path / maintenance_pass.FOLDER
    secrets.write_text(json.dumps({"maintenance_pass": "a" * 43}))
    run(release, check=True, **arguments(tmp_path))
    assert not passes.exists()
    run(release, **arguments(tmp_path))
    assert [path.name for path in passes.iterdir()] == ["a" * 43]
    # Another one counts, although the release is the same.
    secrets.write_text(json.dumps({"maintenance_pass": "b" * 43}))
    assert run(release, **arguments(tmp_path))["changed"]
    assert [path.name for path in passes.iterdir()] == ["b" * 43]
    secrets.write_text(json.dumps({"maintenance_pass": "../x"}))
    result = run(release, **arguments(tmp_path))
    assert result["failed"]
    assert "the next deploy makes another" in result["msg"]
    assert "../x" not in result["msg"]
