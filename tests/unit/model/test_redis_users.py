"""Users of the stack's Redis: what stands in its configuration, and who keeps which."""

from __future__ import annotations

import hashlib
import re
import stat
from pathlib import Path
from typing import Any

import data_secrets
import pytest
from ansible.module_utils.testing import patch_module_args
from ansible_collections.crisper.stack.plugins.module_utils.model import redis_users as users
from hypothesis import given
from hypothesis import strategies as st
from stack_values import GOOD

OLD = 'bind * -::*\nrequirepass "older"\nappendonly yes\n'
LINE = users.app_user("secret", "crisper")
NEW = f'bind * -::*\nrequirepass "newer"\n{LINE}\nappendonly yes\n'


def test_the_application_has_a_password_of_its_own() -> None:
    password = users.app_password("secret", "crisper")
    assert re.fullmatch(r"[0-9a-f]{48}", password)
    assert password == users.app_password("secret", "crisper"), "each deploy comes to the same"
    others = {users.app_password("secret", "other"), users.app_password("secreT", "crisper")}
    assert password not in others
    assert len(others) == 2


def test_the_configuration_holds_no_password_of_the_application() -> None:
    assert users.app_password("secret", "crisper") not in LINE
    digest = hashlib.sha256(users.app_password("secret", "crisper").encode()).hexdigest()
    assert f" on #{digest} " in LINE


@pytest.mark.parametrize("rule", ["-@admin", "-@dangerous"])
def test_nothing_given_before_a_refusal_is_given_after_it(rule: str) -> None:
    """Rules count in their order: `+@all` behind a refusal would undo it."""
    words = LINE.split()
    behind = words[words.index(rule) :]
    assert [word for word in behind if word.startswith("+")] == ["+info"]


@pytest.mark.parametrize("command", ["config", "flushall", "acl", "+@all", "@admin", 1, None, ""])
def test_what_gives_redis_away_cannot_be_added(command: Any) -> None:
    (said,) = users.validate({**GOOD, "stack_redis_commands": ["keys", command]})
    assert repr(command) in said
    assert "flushdb" in said


@pytest.mark.parametrize("value", ["keys", {"keys": True}, 5])
def test_commands_are_a_list(value: Any) -> None:
    (said,) = users.validate({"stack_redis_commands": value})
    assert said.startswith("stack_redis_commands is ")


def test_those_that_may_be_added_are() -> None:
    assert list(users.validate({"stack_redis_commands": list(users.ADDABLE)})) == []
    assert users.app_user("secret", "crisper", ["flushdb"]).endswith(" +info +flushdb")


@pytest.mark.parametrize(
    ("reference", "counts"),
    [
        ("docker.io/library/redis:8.0", True),
        ("redis:7-alpine@sha256:ab", True),
        ("redis:6.2", False),
        ("registry.example:5000/valkey:8", True),
        ("registry.example:5000/redis:latest", False),
        ("registry.example:7/redis", False),
        ("", False),
    ],
)
def test_an_older_server_gets_no_setting_that_it_does_not_know(
    reference: str, counts: bool
) -> None:
    assert users.counts_clients(reference) is counts


def test_an_older_release_that_is_put_back_keeps_the_users_of_running_containers() -> None:
    """Regression: containers of the newer release lost Redis before the older one served."""
    merged = users.with_users_of(OLD, NEW)
    assert merged == OLD + LINE + "\n"
    assert users.with_users_of(OLD, merged) == merged, "also when the deploy is resumed"


def test_a_release_that_names_the_user_decides_about_it() -> None:
    other = NEW.replace("+info", "+info +keys")
    assert users.with_users_of(NEW, other) == NEW


def test_the_default_user_is_never_taken_over() -> None:
    """It is the old password that a rotation makes worthless."""
    assert users.with_users_of(OLD, "user default on nopass ~* +@all\n") == OLD


@given(st.text(), st.text())
def test_the_wanted_configuration_stays_whole(wanted: str, live: str) -> None:
    merged = users.with_users_of(wanted, live)
    assert merged.startswith(wanted)
    assert users.with_users_of(merged, live) == merged


def test_a_change_of_the_password_reaches_both_users() -> None:
    assert users.app_user("other", "crisper") != LINE


class LeftError(Exception):
    """A module has ended."""


def run(monkeypatch: pytest.MonkeyPatch, check: bool = False, **options: Any) -> dict[str, Any]:
    """Run data_secrets in this process; its result."""
    results: list[dict[str, Any]] = []

    def leave(self: Any, **result: Any) -> None:
        results.append(result)
        raise LeftError

    for name in ("exit_json", "fail_json"):
        monkeypatch.setattr(data_secrets.AnsibleModule, name, leave)
    with patch_module_args({**options, "_ansible_check_mode": check}), pytest.raises(LeftError):
        data_secrets.main()
    return results[0]


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, Any]:
    """A release's secrets, and where containers mount them from."""
    source = tmp_path / "release/secrets"
    source.mkdir(parents=True)
    for name, text in (("redis.conf", NEW), ("postgres_password", "päss\n")):
        (source / name).write_text(text)
        (source / name).chmod(0o400)
    return {"source": str(source), "path": str(tmp_path / "live/secrets"), "owner": 999}


def test_secrets_are_copied_and_an_unchanged_one_is_left(folders, monkeypatch) -> None:
    live = Path(folders["path"])
    assert run(monkeypatch, check=True, **folders)["changed"]
    assert not live.exists()
    done = run(monkeypatch, **folders)
    assert done == {"changed": True, "files": ["postgres_password", "redis.conf"]}
    assert (live / "redis.conf").read_text() == NEW
    assert stat.S_IMODE((live / "redis.conf").stat().st_mode) == 0o400
    assert stat.S_IMODE(live.stat().st_mode) == 0o700
    again = run(monkeypatch, **folders)
    assert again == {"changed": False, "files": []}


def test_a_container_that_runs_keeps_the_file_that_it_has_mounted(folders, monkeypatch) -> None:
    run(monkeypatch, **folders)
    live = Path(folders["path"]) / "redis.conf"
    with live.open() as mounted:
        source = Path(folders["source"]) / "redis.conf"
        source.chmod(0o600)
        source.write_text(OLD)
        assert run(monkeypatch, **folders)["files"] == ["redis.conf"]
        assert mounted.read() == NEW
    assert live.read_text() == OLD + LINE + "\n"
    assert not list(live.parent.glob(".*")), "no draft is left"


def test_a_folder_that_cannot_be_read_is_told(folders, monkeypatch, tmp_path) -> None:
    said = run(monkeypatch, **{**folders, "source": str(tmp_path / "nowhere")})
    assert str(tmp_path / "nowhere") in said["msg"]
    assert "were not touched" in said["msg"]
    assert not Path(folders["path"]).exists()
