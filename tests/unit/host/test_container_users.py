"""Users of containers: accounts of the host that share them, and who owns the data."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import container_users
import pytest
import volume_owner
import yaml
from ansible.module_utils.testing import patch_module_args
from ansible_collections.crisper.stack.plugins.module_utils.host import container_users as users
from ansible_collections.crisper.stack.plugins.module_utils.host.container_users import (
    Account,
    Process,
)
from proxy_files import rendered

KIM = Account("kim", 1000, 1000, "/bin/bash")
# `docker compose config`, `volume inspect`, `compose run`, `ps`, `stop` and `start`, by a state in
# a file: owner of the volume, whether the service runs, and what fails.
CLIENT = f"""#!{sys.executable}
import json, sys
from pathlib import Path
here = Path(__file__).parent
state = json.loads((here / "state").read_text())
words = sys.argv[1:]
with (here / "calls").open("a") as calls:
    calls.write(" ".join(words) + "\\n")
def keep():
    (here / "state").write_text(json.dumps(state))
if "config" in words:
    volume = {{"type": "volume", "source": "qdrant", "target": "/qdrant/storage"}}
    service = {{"user": state["user"], "volumes": [volume]}}
    print(json.dumps({{"services": {{"qdrant": service}},
                      "volumes": {{"qdrant": {{"name": "app_qdrant"}}}}}}))
elif words[0] == "info":
    print('["name=seccomp","name=userns"]')
elif words[0] == "volume":
    sys.exit(0 if state["owner"] is not None else "no such volume")
elif words[0] == "ps":
    print("c0ffee" if state["runs"] else "")
elif words[0] in ("stop", "start"):
    state["runs"] = words[0] == "start"
    keep()
elif "stat" in words:
    print(state["owner"])
elif "run" in words:
    if state["runs"]:
        sys.exit("the service still writes")
    if state["fails"] and words[-2] == "60905":
        state["owner"] = 0
        keep()
        sys.exit("Read-only file system")
    state["owner"] = int(words[-2])
    keep()
"""


class LeftError(Exception):
    """A module has ended."""


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a module in this process with a stand-in for Docker; its result."""
    client = tmp_path / "docker"
    client.write_text(CLIENT)
    client.chmod(0o755)

    def run(module: Any, check: bool = False, **options: Any) -> dict[str, Any]:
        results: list[dict[str, Any]] = []

        def leave(self: Any, **result: Any) -> None:
            results.append(result)
            raise LeftError

        for name in ("exit_json", "fail_json"):
            monkeypatch.setattr(module.AnsibleModule, name, leave)
        arguments = {**options, "docker_cli": str(client), "_ansible_check_mode": check}
        with patch_module_args(arguments), pytest.raises(LeftError):
            module.main()
        return results[0]

    return run


class Owner:
    """volume_owner on a stack whose volume, service and client are as told."""

    def __init__(self, call: Any, folder: Path) -> None:
        self.call, self.folder = call, folder

    def __call__(self, check: bool = False, **state: Any) -> dict[str, Any]:
        known = {"user": "60905:60905", "owner": 1000, "runs": True, "fails": False, **state}
        (self.folder / "state").write_text(json.dumps(known))
        options = {"project_src": str(self.folder), "project_name": "app", "services": ["qdrant"]}
        return self.call(volume_owner, check, **options)

    @property
    def state(self) -> dict[str, Any]:
        return json.loads((self.folder / "state").read_text())

    @property
    def calls(self) -> str:
        return (self.folder / "calls").read_text()


@pytest.fixture
def owner(call: Any, tmp_path: Path) -> Owner:
    return Owner(call, tmp_path)


def test_data_of_an_older_release_is_given_to_the_new_user(owner: Owner) -> None:
    done = owner()
    expected = {"service": "qdrant", "volume": "app_qdrant", "before": 1000, "after": 60905}
    assert done == {"changed": True, "services": [expected]}
    assert owner.state["owner"] == 60905
    assert not owner.state["runs"], "the caller starts it as the release has it"


def test_a_release_of_an_older_edition_gets_it_back(owner: Owner) -> None:
    done = owner(user="1000:1000", owner=60905)
    assert (done["services"][0]["before"], done["services"][0]["after"]) == (60905, 1000)
    assert owner.state["owner"] == 1000


@pytest.mark.parametrize("direction", ["60905:60905", "1000:1000"])
def test_a_run_that_was_killed_is_done_again_whichever_way(owner: Owner, direction: str) -> None:
    """Some files belong to one user and some to the other; the folder belongs to root."""
    assert owner(user=direction, owner=0, runs=False)["changed"]
    assert owner.state["owner"] == int(direction.split(":")[0])


def test_a_new_volume_takes_over_the_owner_of_the_images_folder(owner: Owner) -> None:
    done = owner(owner=None, runs=False)
    assert done["services"][0]["before"] is None
    assert owner.state["owner"] == 60905


@pytest.mark.parametrize(("user", "now"), [("60905:60905", 60905), ("qdrant", 1000), ("", 1000)])
def test_what_fits_already_is_not_stopped(owner: Owner, user: str, now: int) -> None:
    assert owner(user=user, owner=now) == {"changed": False, "services": []}
    assert owner.state["runs"]


def test_check_mode_stops_nothing(owner: Owner) -> None:
    assert owner(check=True)["changed"]
    assert owner.state == {**owner.state, "owner": 1000, "runs": True}


def test_what_cannot_be_given_is_given_back_and_runs_again(owner: Owner) -> None:
    said = owner(fails=True)["msg"]
    assert "Read-only file system" in said
    assert "belong to user id 1000 again. It runs again." in said
    assert owner.state == {**owner.state, "owner": 1000, "runs": True}


def test_files_are_changed_by_root_with_rights_over_files_alone(owner: Owner) -> None:
    owner()
    (line,) = [line for line in owner.calls.splitlines() if "find" in line]
    assert "--cap-add CHOWN --cap-add DAC_READ_SEARCH --user 0:0" in line
    assert "--privileged" not in line


# --- Accounts of the host ---------------------------------------------------------------------
def test_the_account_that_read_qdrants_key_is_found() -> None:
    """Regression: the first account of a server has user and group id 1000, as Qdrant had."""
    (found,) = users.find_shared([Process("qdrant", 1000, 1000)], {1000: KIM})
    assert (found.services, found.readable) == (("qdrant",), ("qdrant",))
    for part in ("'kim'", "1000", "qdrant", "/proc", "usermod --uid"):
        assert part in found.message


def test_another_group_ends_the_reading_and_not_the_signals() -> None:
    (found,) = users.find_shared([Process("backend", 1000, 60999)], {1000: KIM})
    assert found.readable == ()
    assert "signals" in found.message
    assert "/proc" not in found.message


def test_services_of_one_account_are_told_together() -> None:
    running = [Process("backend", 1000, 1000), Process("celery-worker", 1000, 1000)]
    running += [Process("redis", 999, 60903), Process("backend", 1000, 1000)]
    system = Account("systemd-coredump", 999, 999, "/usr/sbin/nologin")
    (found,) = users.find_shared(running, {1000: KIM, 999: system})
    assert found.services == ("backend", "celery-worker")
    assert "stack_app.user to '1000:60999'" in found.message
    assert "usermod" not in found.message


def test_root_is_told_with_its_own_remedy() -> None:
    (found,) = users.find_shared([Process("backend", 0, 0)], {0: Account("root", 0, 0, "/bin/sh")})
    assert "USER other than root" in found.message


@pytest.mark.parametrize(
    ("shell", "logs_in"),
    [
        *(("/bin/bash", True), ("/bin/sh", True), ("", True), ("/usr/bin/fish", True)),
        *(("/usr/sbin/nologin", False), ("/bin/false", False), ("/bin/sync", False)),
    ],
)
def test_accounts_that_nobody_logs_in_with_are_no_finding(shell: str, logs_in: bool) -> None:
    account = Account("who", 5000, 5000, shell)
    assert bool(users.find_shared([Process("backend", 5000, 5000)], {5000: account})) is logs_in


def test_processes_are_looked_at_as_the_host_sees_them(call: Any, tmp_path: Path) -> None:
    """With user namespaces the user of a container is another one to the host."""
    (tmp_path / "docker").write_text(
        f"""#!{sys.executable}
import sys
print("c0ffee" if sys.argv[1] == "ps" else '''{
            json.dumps(
                [
                    {
                        "Name": "/app-backend-1",
                        "State": {"Pid": pid},
                        "Config": {
                            "User": "nobody",
                            "Labels": {"com.docker.compose.service": "backend"},
                        },
                    }
                    for pid in (os.getpid(), 0, 2**22 + 1)
                ]
            )
        }''')
"""
    )
    done = call(container_users, project="app")
    account = container_users.account(os.geteuid())
    assert account is not None
    assert [each["account"] for each in done["shared"]] == (
        [account.name] if account.logs_in else []
    )
    assert done["changed"] is False


def test_no_platform_service_has_the_group_of_an_account() -> None:
    """Regression: an account with uid and gid 1000 read Qdrant's key from /proc/<pid>/environ."""
    text = rendered("docker-compose.prod.yml.j2", mariadb_enabled=True)
    services = yaml.safe_load(text)["services"]
    given = {name: services[name]["user"] for name in services if "user" in services[name]}
    assert given.keys() == {"nginx", "postgres", "redis", "qdrant", "mariadb"}
    groups = [int(user.split(":")[1]) for user in given.values()]
    assert all(users.LOWEST <= group < users.HIGHEST for group in groups)
    assert len(set(groups)) == len(groups), "none reads another one's"
    # Else an empty volume takes over the owner of the image's folder, at each start.
    assert services["qdrant"]["volumes"] == ["qdrant:/qdrant/storage:nocopy"]
    assert users.LOWEST <= int(re.match(r"\d+", given["qdrant"])[0]) <= users.HIGHEST
