"""What runs on the controller to spare calls: payloads that are kept, and an action plugin."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[3]


def plugin(path: str) -> ModuleType:
    """A plugin's module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / "plugins" / path)
    module: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


payloads = plugin("callback/crisper_payloads.py")
secrets = plugin("action/stack_secrets.py")
runs = plugin("lookup/crisper_run.py")


def play(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Ansible on this machine, with this repository's configuration and a home of its own."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("ansible")), "localhost", *arguments],
        cwd=ROOT,
        env={
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": str(tmp_path / "home"),
            "ANSIBLE_LOAD_CALLBACK_PLUGINS": "true",
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )
    return done


LOCAL = ("-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}")


def packed(tmp_path: Path) -> dict[str, int]:
    """Payloads that were kept, and when they were written."""
    kept = (tmp_path / "home/crisper_payloads").glob("*/*")
    return {path.name: path.stat().st_mtime_ns for path in kept}


def test_a_payload_is_kept_and_used_again(tmp_path: Path) -> None:
    call = (*LOCAL, "-m", "release", "-a", f"root={tmp_path} stack=demo")
    first = play(tmp_path, *call)
    assert first.returncode == 0, first.stdout + first.stderr
    kept = packed(tmp_path)
    assert [name.partition("-")[0] for name in kept] == ["ansible.legacy.release"]
    second = play(tmp_path, *call, "-vvvvv", ANSIBLE_DEBUG="true")
    assert second.returncode == 0
    assert "ANSIBALLZ: using cached module" in second.stdout
    assert "ANSIBALLZ: Creating module" not in second.stdout
    assert packed(tmp_path) == kept


def test_a_folder_that_others_may_write_to_is_left_alone(tmp_path: Path) -> None:
    kept, used = tmp_path / "kept/version", tmp_path / "used"
    kept.mkdir(parents=True)
    (kept / "ansible.legacy.release-ZIP_DEFLATED-none").write_bytes(b"code")
    kept.chmod(0o777)
    assert payloads.take(kept, used) == 0
    kept.chmod(0o700)
    kept.parent.chmod(0o777)
    assert payloads.take(kept, used) == 0
    kept.parent.chmod(0o700)
    assert payloads.take(kept, used) == 1


def test_only_the_newest_versions_stay(tmp_path: Path) -> None:
    used = tmp_path / "used"
    used.mkdir()
    (used / "ansible.legacy.x-ZIP-none").write_bytes(b"x")
    (used / "ansible.legacy.x-ZIP-none.lock").write_bytes(b"")
    (used / "ansible_collections.other.x-ZIP-none").write_bytes(b"another's")
    for number in range(5):
        folder = tmp_path / f"kept/v{number}"
        assert payloads.keep(used, folder) == 1
        os.utime(folder, (number + 1e9, number + 1e9))
    names = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert names == ["v2", "v3", "v4"]
    assert [path.name for path in folder.iterdir()] == ["ansible.legacy.x-ZIP-none"]
    assert payloads.keep(used, folder) == 0


def test_other_code_is_another_version(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("one")
    before = payloads.fingerprint([str(tmp_path)])
    assert payloads.fingerprint([str(tmp_path)]) == before
    (tmp_path / "a.py").write_text("two")
    assert payloads.fingerprint([str(tmp_path)]) != before


@given(st.text())
def test_what_is_no_file_of_secrets_is_left_to_the_module(text: str) -> None:
    assert secrets.read_secrets(text, ["a"]) == {}


@given(st.dictionaries(st.text(min_size=1), st.text()), st.sets(st.text(min_size=1)))
def test_secrets_are_read_when_none_is_missing(found: dict[str, str], names: set[str]) -> None:
    import json

    got = secrets.read_secrets(json.dumps(found), sorted(names))
    assert got == (found if names <= set(found) else {})


@pytest.mark.parametrize("content", ['{"a": "kept"}', '{"b": "other"}', None])
def test_secrets_by_the_plugin_are_those_of_the_module(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "secrets.json"
    if content:
        path.write_text(content)
    done = play(tmp_path, *LOCAL, "-m", "stack_secrets", "-a", f"path={path} names=a")
    # A list is needed to read without the module; `-a` gives one as text, which the module takes.
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kept" in done.stdout or content != '{"a": "kept"}'
    assert '"a"' in path.read_text()
    again = play(
        tmp_path, *LOCAL, "-m", "stack_secrets", "-a", f'{{"path": "{path}", "names": ["a"]}}'
    )
    assert "CHANGED" not in again.stdout
    assert '"generated": []' in again.stdout or "generated: []" in again.stdout


def test_bad_options_of_the_http_probe_are_told(tmp_path: Path) -> None:
    bad = play(tmp_path, *LOCAL, "-m", "http_probe", "-a", "url=ftp://x")
    assert bad.returncode != 0
    assert "give http" in bad.stdout
    assert play(tmp_path, *LOCAL, "-m", "http_probe", "-a", "url=http://x ports=a").returncode != 0


def test_only_processes_of_this_machine_are_known_to_be_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: of two controllers with one name each took the other's run for dead."""
    mine = runs.this_run()
    here = {"controller": mine["controller"]}
    gone = "999999999@1@" + mine["process"].rpartition("@")[2]

    assert not runs.is_dead(mine)
    assert runs.is_dead({**here, "process": gone})
    assert runs.is_dead({**here, "process": "999999999@1"}), "a lock of before"
    assert not runs.is_dead({"controller": "elsewhere", "process": gone})
    assert not runs.is_dead({**here, "process": "999999999@1@0123456789ab"})
    monkeypatch.setattr(os, "readlink", lambda path: "pid:[1]")  # of another container
    assert not runs.is_dead({**here, "process": gone})


def test_every_play_of_a_stack_begins_with_its_variables() -> None:
    """Regression: the last play of an upgrade knew no stack_root, and the page stayed."""
    paths = [ROOT / "deploy.yml", *sorted((ROOT / "playbooks").glob("*.yml"))]
    plays = [play for path in paths for play in yaml.safe_load(path.read_text())]
    ours = [play for play in plays if "stack_hosts" in str(play.get("hosts"))]
    assert len(ours) > 8
    for each in ours:
        first = [*each.get("pre_tasks", []), *each["tasks"]][0]
        assert first["ansible.builtin.import_role"]["name"] == "stack", each["name"]
